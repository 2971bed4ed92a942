# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which IPv4 networks containers may have without being taken for the site's own.

A container engine that picks a network the site uses as well makes the host lose the way to it: packets to a printer,
a name server or a whole building go to a bridge without anything behind it. So the networks are chosen from ranges
that are given, without everything that the host has a way to and everything that the site says it uses.
"""

from __future__ import annotations

import ipaddress
import re
import typing as t
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

Network = ipaddress.IPv4Network

# Interfaces that container engines make: their networks are what is looked for, not in its way.
_ENGINES = re.compile(r"(docker0|docker_gwbridge|br-[0-9a-f]{12}|podman\d+|cni-podman\d+|veth[0-9a-f]+)\Z")
# How many blocks a choice may consist of, where no range has room for it in one piece.
_MOST_BLOCKS = 16


class PoolError(Exception):
    """Networks that cannot be used, or that there is no room for; the message says why."""


@dataclass(frozen=True)
class Occupied:
    """A network that is in use.

    Attributes:
        network: the network.
        reason: by what, in words.
    """

    network: Network
    reason: str


@dataclass(frozen=True)
class Pool:
    """Networks of one size for containers.

    Attributes:
        base: all of them together.
        size: prefix length of each.
    """

    base: Network
    size: int

    @property
    def count(self) -> int:
        """How many networks there are in it."""
        return 1 << max(0, self.size - self.base.prefixlen)

    def as_dict(self) -> dict[str, t.Any]:
        """As Docker writes it."""
        return {"base": str(self.base), "size": self.size}


def network_of(text: str, what: str) -> Network:
    """Read an IPv4 network; one with a host's address in it stands for the network.

    Raises:
        PoolError: it is none.
    """
    try:
        return ipaddress.IPv4Network(text, strict=False)
    except ValueError as error:
        raise PoolError(f"{what}: {text!r} is not an IPv4 network such as 172.16.0.0/12") from error


def pool_of(value: Mapping[str, t.Any]) -> Pool:
    """Read a pool as it is written in an inventory or in Docker's configuration.

    Raises:
        PoolError: it is none.
    """
    base = network_of(str(value.get("base", "")), "address pool")
    try:
        size = int(value.get("size", ""))
    except (TypeError, ValueError) as error:
        raise PoolError(f"address pool {base}: it needs a size, the prefix length of each network") from error
    if not base.prefixlen <= size <= 29:
        raise PoolError(f"address pool {base}: size has to be between {base.prefixlen} and 29, not {size}")
    return Pool(base, size)


def site_networks(values: Iterable[str]) -> list[Occupied]:
    """What the site says it uses: networks and addresses; words such as ``any`` and IPv6 mean nothing here.

    An address is a host of the site, and its neighbours are too: it stands for the /24 around it.
    """
    found = []
    for value in values:
        try:
            network = ipaddress.ip_network(value, strict=False)
        except ValueError:
            continue
        if isinstance(network, ipaddress.IPv4Network) and network.prefixlen > 0:
            wide = network.supernet(new_prefix=24) if "/" not in value else network
            found.append(Occupied(wide, f"{value}, which the site uses"))
    return found


def routed(routes: Iterable[Mapping[str, t.Any]]) -> list[Occupied]:
    """What the host has a way to, without the networks of container engines.

    Args:
        routes: what ``ip -json -4 route show table all`` says.
    """
    found = []
    for route in routes:
        device, dest = str(route.get("dev", "")), str(route.get("dst", ""))
        if _ENGINES.match(device) or dest in ("", "default") or route.get("type") in ("broadcast", "multicast"):
            continue
        try:
            network = ipaddress.IPv4Network(dest, strict=False)
        except ValueError:
            continue
        if network.prefixlen > 0 and not network.is_loopback and not network.is_multicast:
            found.append(Occupied(network, f"the route {network}{f' by {device}' if device else ''}"))
    return found


def gateways(routes: Iterable[Mapping[str, t.Any]]) -> list[Occupied]:
    """The routers that the host sends packets to."""
    return [
        Occupied(network, f"the router {network.network_address}")
        for route in routes
        if (network := _address(str(route.get("gateway", "")))) is not None
    ]


def resolvers(text: str) -> list[Occupied]:
    """The name servers of a ``resolv.conf``."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver" and (network := _address(words[1])) is not None:
            found.append(Occupied(network, f"the name server {words[1]}"))
    return found


def _address(text: str) -> Network | None:
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError:
        return None
    return None if address.is_loopback else ipaddress.IPv4Network(address)


def collisions(pools: Sequence[Pool], occupied: Iterable[Occupied]) -> list[str]:
    """What is in the way of pools, each in words; and pools that are in each other's way."""
    occupied = list(occupied)
    found = [
        f"{pool.base} collides with {other.reason}"
        for pool in pools
        for other in occupied
        if pool.base.overlaps(other.network)
    ]
    for number, pool in enumerate(pools):
        found += [
            f"{pool.base} and {other.base} overlap" for other in pools[number + 1 :] if pool.base.overlaps(other.base)
        ]
    return list(dict.fromkeys(found))


def engine_networks(routes: Iterable[Mapping[str, t.Any]]) -> list[tuple[str, Network]]:
    """The networks that container engines have on the host now: interface and network."""
    found = []
    for route in routes:
        device = str(route.get("dev", ""))
        if _ENGINES.match(device) and route.get("scope") == "link" and "/" in str(route.get("dst", "")):
            found.append((device, ipaddress.IPv4Network(str(route["dst"]), strict=False)))
    return sorted(set(found))


def choose(
    candidates: Sequence[Network],
    occupied: Iterable[Occupied],
    size: int,
    count: int,
    current: Sequence[Pool] = (),
) -> list[Pool]:
    """Choose networks for containers.

    Pools that are in force and still good stay: networks that exist already are not moved by a new choice, so a host
    would end with both.

    Args:
        candidates: ranges to choose from, the preferred ones first.
        occupied: what must not be touched.
        size: prefix length of each network.
        count: how many networks are needed.
        current: what is in force.

    Returns:
        Pools with room for the networks, as few as possible.

    Raises:
        PoolError: there is no room.
    """
    occupied = list(occupied)
    inside = all(any(pool.base.subnet_of(candidate) for candidate in candidates) for pool in current)
    right = all(pool.size == size for pool in current) and sum(pool.count for pool in current) >= count
    if current and inside and right and not collisions(current, occupied):
        return list(current)
    need = max(0, (count - 1).bit_length())
    free = [block for candidate in candidates for block in _without(candidate, [entry.network for entry in occupied])]
    for shrink in range(_MOST_BLOCKS.bit_length()):
        blocks, prefix = 1 << shrink, size - need + shrink
        if blocks > count or prefix > size:
            break
        pieces = _pieces(free, prefix, blocks)
        if len(pieces) == blocks:
            return [Pool(piece, size) for piece in pieces]
    listed = ", ".join(map(str, candidates))
    ways = "; ".join(entry.reason for entry in occupied if any(entry.network.overlaps(net) for net in candidates))
    raise PoolError(
        f"no room for {count} networks of size /{size} in {listed}: {ways or 'the ranges are too small'}. "
        "Give another range, or fewer or smaller networks."
    )


def _pieces(free: Iterable[Network], prefix: int, count: int) -> list[Network]:
    """The first blocks of a size, in the order of what is free."""
    found: list[Network] = []
    for block in free:
        if block.prefixlen > prefix:
            continue
        for piece in block.subnets(new_prefix=max(prefix, block.prefixlen)):
            found.append(piece)
            if len(found) == count:
                return found
    return found


def _without(candidate: Network, taken: Sequence[Network]) -> list[Network]:
    """What is left of a range, in ascending order."""
    left = [candidate]
    for network in taken:
        rest: list[Network] = []
        for block in left:
            if not block.overlaps(network):
                rest.append(block)
            elif network.prefixlen > block.prefixlen:
                rest.extend(block.address_exclude(network))
        left = rest
    return sorted(left)
