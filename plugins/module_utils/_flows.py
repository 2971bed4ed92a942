# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The flow matrix: who may talk to whom, by tier and port.

One declaration (a list of flows) and one inventory (hosts, their groups and addresses) give

* the rules of each host (`FlowMatrix.inbound`, `FlowMatrix.outbound`), from which `_nftables` renders a ruleset and
  other back ends render NetworkPolicies or security groups;
* the answer to "may A reach B on this port?" (`FlowMatrix.allowed`), which the reachability test compares with what
  real sockets do.

Nothing here touches a host or a network, except the resolver that a caller may hand in.
"""

from __future__ import annotations

import difflib
import ipaddress
import typing as t
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

Network = t.Union[ipaddress.IPv4Network, ipaddress.IPv6Network]
Resolver = Callable[[str], Sequence[str]]

PROTOCOLS = ("tcp", "udp", "icmp")
# Words that may stand where a tier may stand.
ANYWHERE = "any"
CONTROL = "control"
CLIENTS = "clients"
ALL_HOSTS = "all"
_FLOW_KEYS = frozenset({"name", "from", "to", "protocol", "ports"})
_EVERYWHERE: tuple[Network, ...] = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))


class FlowError(ValueError):
    """A flow or the inventory beneath it cannot be used; the message names the flow and says how to mend it."""


def host_address(hostvars: Mapping[str, t.Any]) -> str:
    """The address at which other hosts reach this one.

    Args:
        hostvars: the variables of one host, that is `hostvars[name]`.

    Returns:
        `ai102_address` where the inventory sets it, else `ansible_host`, else the host's inventory name.

    Raises:
        FlowError: none of the three is there, so this is not the variables of a host.
    """
    for key in ("ai102_address", "ansible_host", "inventory_hostname"):
        if key in hostvars:
            value = hostvars[key]
            if value is not None and str(value):
                return str(value)
    raise FlowError(
        "host_address: expected the variables of one host, as in `hostvars[name] | ai102.inference.host_address`; "
        "found neither ai102_address, ansible_host nor inventory_hostname"
    )
