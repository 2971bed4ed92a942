# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Who asks, for what, and where from."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol

from ai102_server.config.access import UNIX_PEER, Network

__all__ = ["ANONYMOUS", "ANONYMOUS_ROLE", "NO_ATTRIBUTES", "Identity", "ModelRefLike", "Source", "Sources"]

ANONYMOUS_ROLE: Final = "anonymous"
NO_ATTRIBUTES: Final[Mapping[str, str]] = MappingProxyType({})
_IPV6_PREFIX: Final = 64
_LONGEST_FORWARDED: Final = 1024


class ModelRefLike(Protocol):
    """What policy asks of a model."""

    @property
    def name(self) -> str:
        """Name of the model."""

    @property
    def version(self) -> str:
        """Version of the model."""

    @property
    def tags(self) -> frozenset[str]:
        """Tags of the model; ``tenant:<name>`` keeps it for one tenant."""


class Identity(NamedTuple):
    """A caller. Times are seconds since the epoch.

    ``subject`` is "" for a caller without a token; ``jti`` and ``issued`` serve revocation.
    """

    subject: str
    role: str
    tenant: str = ""
    attributes: Mapping[str, str] = NO_ATTRIBUTES
    jti: str = ""
    issued: float = 0.0
    expires: float = float("inf")


ANONYMOUS: Final = Identity("", ANONYMOUS_ROLE)


class Source(NamedTuple):
    """Where a request comes from: ``address`` is None and ``text`` is ``unix`` for the peer of a Unix socket."""

    text: str
    address: ipaddress.IPv4Address | ipaddress.IPv6Address | None

    @property
    def network(self) -> str:
        """What one person can be expected to have: an IPv4 address, an IPv6 network of /64."""
        if isinstance(self.address, ipaddress.IPv6Address):
            return str(ipaddress.ip_network((self.address, _IPV6_PREFIX), strict=False))
        return self.text

    def within(self, networks: tuple[Network | str, ...]) -> bool:
        """Whether the source is in one of the networks."""
        if self.address is None:
            return self.text in networks
        # An address of the other version is in no network: `in` says so.
        return any(self.address in network for network in networks if not isinstance(network, str))


def _parse(text: str) -> Source | None:
    try:
        address = ipaddress.ip_address(text.strip().strip("[]"))
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        # What a socket of both versions calls an IPv4 peer.
        address = address.ipv4_mapped
    return Source(str(address), address)


class Sources:
    """Finds the source of a request. Headers count only as far as trusted proxies vouch for them."""

    def __init__(self, trusted: tuple[Network | str, ...]) -> None:
        self._trusted = trusted

    def of(self, environ: Mapping[str, Any]) -> Source:
        """The nearest peer that is not a trusted proxy, by ``X-Forwarded-For`` or else ``X-Real-IP``.

        Never raises: what cannot be read ends the search at the last hop that could.
        """
        peer = _parse(environ.get("REMOTE_ADDR") or "") or Source(UNIX_PEER, None)
        forwarded = environ.get("HTTP_X_FORWARDED_FOR") or environ.get("HTTP_X_REAL_IP")
        if not forwarded or not self._trusted or len(forwarded) > _LONGEST_FORWARDED:
            return peer
        for hop in reversed(forwarded.split(",")):
            if not peer.within(self._trusted):
                break
            before = _parse(hop)
            if before is None:
                break
            peer = before
        return peer
