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

Network = t.Union[ipaddress.IPv4Network, ipaddress.IPv6Network]  # noqa: UP007  # pylint reads the other as a sum
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


@dataclass(frozen=True)
class Flow:
    """One line of the flow matrix.

    Attributes:
        name: what it is called, in messages and in the rules.
        sources: tiers, hosts, networks and the words `control`, `clients`, `all` and `any`.
        targets: tiers, hosts, `all`; networks and `any` for what lies outside (they open nothing on our hosts).
        protocol: `tcp`, `udp` or `icmp` (echo requests).
        ports: first and last port of each range; empty for `icmp`.
    """

    name: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    protocol: str
    ports: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Rule:
    """What a flow means on one host.

    Attributes:
        flow: name of the flow.
        protocol: `tcp`, `udp` or `icmp`.
        ports: first and last port of each range; empty for `icmp`.
        peers: networks at the other end.
        control: whether the addresses that the host is managed from are peers as well. They may be known only on the
            host itself, at the time the rules are put in place.
    """

    flow: str
    protocol: str
    ports: tuple[tuple[int, int], ...]
    peers: tuple[Network, ...]
    control: bool = False

    def to_dict(self) -> dict[str, t.Any]:
        """The form in which rules travel to a host."""
        return {
            "flow": self.flow,
            "protocol": self.protocol,
            "ports": [str(first) if first == last else f"{first}-{last}" for first, last in self.ports],
            "peers": [str(peer) for peer in self.peers],
            "control": self.control,
        }


@dataclass(frozen=True)
class Host:
    """A host of the inventory: its groups, and its addresses or names as they are written there."""

    groups: frozenset[str]
    addresses: tuple[str, ...]


@dataclass
class FlowMatrix:
    """Flows and an inventory, and what follows from them.

    Args:
        flows: list of `{name, from, to, protocol, ports}`.
        hosts: the inventory: host → `{groups: [...], addresses: [...]}`.
        control: networks the hosts are managed from, as far as they are known here.
        clients: networks of the callers of the service, or `any`.
        tiers: groups that may be named though the inventory has no host in them.
        output_policy: `accept` or `drop`; with `drop`, a host reaches only what a flow lets it reach.
        resolver: gives the addresses of a host name.

    Raises:
        FlowError: a flow cannot be used.
    """

    flows: Sequence[t.Any]
    hosts: Mapping[str, Mapping[str, t.Any]]
    control: Sequence[str] = ()
    clients: Sequence[str] = (ANYWHERE,)
    tiers: Sequence[str] = ()
    output_policy: str = "accept"
    resolver: Resolver | None = None
    _flows: list[Flow] = field(init=False, repr=False)
    _hosts: dict[str, Host] = field(init=False, repr=False)
    _addresses: dict[str, tuple[Network, ...]] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        if self.output_policy not in ("accept", "drop"):
            raise FlowError(f"output policy {self.output_policy!r}: use 'accept' or 'drop'")
        self._hosts = {
            name: Host(frozenset(map(str, host["groups"])), tuple(map(str, host["addresses"])))
            for name, host in self.hosts.items()
        }
        self._groups = {group for host in self._hosts.values() for group in host.groups} | set(self.tiers)
        self._control = _networks("the control networks", self.control)
        self._clients = _networks("the client networks", self.clients)
        self._flows = [self._flow(number, flow) for number, flow in enumerate(self.flows, start=1)]
        seen: set[str] = set()
        for flow in self._flows:
            if flow.name in seen:
                raise FlowError(f"flow {flow.name!r} is declared twice: give each flow a name of its own")
            seen.add(flow.name)

    # ------------------------------------------------------------------------------------------------ reading flows

    def _flow(self, number: int, value: t.Any) -> Flow:
        if not isinstance(value, Mapping):
            raise FlowError(
                f"flow {number} of the list: a dictionary with name, from, to, protocol and ports is needed"
            )
        name = value.get("name")
        if not isinstance(name, str) or not name or len(name) > 100 or not name.isprintable() or '"' in name:
            raise FlowError(
                f"flow {number} of the list: give it a name, of 100 printable characters at most, without quotes"
            )
        unknown = sorted(set(map(str, value)) - _FLOW_KEYS)
        if unknown:
            raise FlowError(f"flow {name!r}: {unknown[0]!r} is not known{_meant(unknown[0], sorted(_FLOW_KEYS))}")
        protocol = value.get("protocol", "tcp")
        if protocol not in PROTOCOLS:
            raise FlowError(f"flow {name!r}: protocol {protocol!r} is not known, use one of {', '.join(PROTOCOLS)}")
        return Flow(
            name=name,
            sources=self._ends(name, "from", value.get("from")),
            targets=self._ends(name, "to", value.get("to")),
            protocol=protocol,
            ports=_ports(name, protocol, value.get("ports")),
        )

    def _ends(self, flow: str, side: str, value: t.Any) -> tuple[str, ...]:
        ends = [value] if isinstance(value, str) else value
        if not isinstance(ends, Iterable) or isinstance(ends, Mapping) or not (ends := list(ends)):
            raise FlowError(f"flow {flow!r}: `{side}` is missing: name tiers, hosts or networks")
        for end in ends:
            self._check_end(flow, side, str(end))
        return tuple(map(str, ends))

    def _check_end(self, flow: str, side: str, end: str) -> None:
        words = [ALL_HOSTS, ANYWHERE, CONTROL, CLIENTS] if side == "from" else [ALL_HOSTS, ANYWHERE]
        if end in words or end in self._groups or end in self._hosts:
            return
        if side == "to" and end in (CONTROL, CLIENTS):
            raise FlowError(f"flow {flow!r}: {end!r} can only stand in `from`; in `to`, name tiers, hosts or networks")
        if _looks_like_network(end):
            _network(f"flow {flow!r}, `{side}`", end)
            return
        hint = _meant(end, [*words, *sorted(self._groups), *sorted(self._hosts)])
        if "." in end and not hint:
            found = ", ".join(self._resolve(end))
            hint = (
                f"; if it is a host name, write its IP address or network{f' (now {found})' if found else ''}, "
                "because a firewall compares addresses"
            )
        known = ", ".join([*words, *sorted(self._groups - {"ungrouped"})])
        raise FlowError(
            f"flow {flow!r}: `{side}` names {end!r}, which is no tier, host or network{hint}. Known are: {known}"
        )

    # -------------------------------------------------------------------------------------------------- addresses

    def _resolve(self, name: str) -> Sequence[str]:
        return self.resolver(name) if self.resolver else ()

    def addresses(self, host: str) -> tuple[Network, ...]:
        """Addresses of a host, as networks of one address.

        Raises:
            FlowError: one is a name that cannot be resolved.
        """
        if host not in self._addresses:
            found: dict[Network, None] = {}
            for value in self._hosts[host].addresses:
                try:
                    found[ipaddress.ip_network(value)] = None
                except ValueError:
                    resolved = self._resolve(value)
                    if not resolved:
                        raise FlowError(
                            f"host {host}: its address {value!r} is a name that the control node cannot resolve; "
                            "set ai102_address to the IP address at which the other hosts reach it"
                        ) from None
                    found.update(dict.fromkeys(ipaddress.ip_network(address) for address in resolved))
            self._addresses[host] = tuple(found)
        return self._addresses[host]

    def _members(self, end: str) -> list[str]:
        """Hosts that a tier, a host's name or `all` stands for."""
        if end == ALL_HOSTS:
            return list(self._hosts)
        if end in self._groups:
            return [name for name, host in self._hosts.items() if end in host.groups]
        return [end] if end in self._hosts else []

    def _peers(self, ends: Iterable[str], me: str, flow: str) -> tuple[tuple[Network, ...], bool]:
        """Networks that ends stand for, seen from a host, and whether the control networks are among them."""
        networks: list[Network] = []
        control = False
        for end in ends:
            if end == ANYWHERE:
                networks.extend(_EVERYWHERE)
            elif end == CLIENTS:
                networks.extend(self._clients)
            elif end == CONTROL:
                control = True
                networks.extend(self._control)
            elif end == ALL_HOSTS or end in self._groups or end in self._hosts:
                for member in self._members(end):
                    if member == me:  # a host talks to itself over the loopback interface, which is open
                        continue
                    for address in self.addresses(member):
                        if not address.is_loopback:
                            networks.append(address)
                        elif end != ALL_HOSTS:
                            raise FlowError(
                                f"flow {flow!r}: host {member} has the address {address.network_address}, at which no "
                                "other host reaches it; set its ai102_address"
                            )
            else:
                networks.append(_network(f"flow {flow!r}", end))
        return collapse(networks), control

    # ------------------------------------------------------------------------------------------------------ results

    def _known(self, host: str) -> Host:
        if host not in self._hosts:
            raise FlowError(f"host {host!r} is not in the inventory{_meant(host, sorted(self._hosts))}")
        return self._hosts[host]

    def _is_member(self, ends: Iterable[str], host: str) -> bool:
        groups = self._known(host).groups
        return any(end in (ALL_HOSTS, host) or end in groups for end in ends)

    def inbound(self, host: str) -> list[Rule]:
        """What a host lets in."""
        self._known(host)
        rules: list[Rule] = []
        for flow in self._flows:
            if self._is_member(flow.targets, host):
                peers, control = self._peers(flow.sources, host, flow.name)
                if peers or control:
                    rules.append(Rule(flow.name, flow.protocol, flow.ports, peers, control))
        return rules

    def outbound(self, host: str) -> list[Rule]:
        """What a host may reach where the output policy is `drop`."""
        self._known(host)
        rules: list[Rule] = []
        for flow in self._flows:
            if self._is_member(flow.sources, host):
                peers, _control = self._peers(flow.targets, host, flow.name)
                if peers:
                    rules.append(Rule(flow.name, flow.protocol, flow.ports, peers))
        return rules

    def allowed(self, source: str, target: str, protocol: str, port: int | None = None) -> bool:
        """Whether a connection is let through.

        Args:
            source: a host of the inventory, or the IP address of something else.
            target: a host of the inventory.
            protocol: `tcp`, `udp` or `icmp`.
            port: the target's port; not used with `icmp`.

        Returns:
            What the rules of both ends say together. A host always reaches itself.
        """
        self._known(target)
        if source == target:
            return True
        ours = source in self._hosts
        senders = self.addresses(source) if ours else (_network("source", source),)
        if not any(matches(self.inbound(target), sender, protocol, port) for sender in senders):
            return False
        if not ours or self.output_policy == "accept":
            return True
        return any(matches(self.outbound(source), address, protocol, port) for address in self.addresses(target))


def matches(rules: Iterable[Rule], peer: Network, protocol: str, port: int | None) -> bool:
    """Whether one of the rules lets a peer through."""
    for rule in rules:
        if rule.protocol != protocol or not any(contains(network, peer) for network in rule.peers):
            continue
        if protocol == "icmp" or (port is not None and any(first <= port <= last for first, last in rule.ports)):
            return True
    return False


def contains(outer: Network, inner: Network) -> bool:
    """Whether a network lies inside another one."""
    if isinstance(outer, ipaddress.IPv4Network) and isinstance(inner, ipaddress.IPv4Network):
        return inner.subnet_of(outer)
    if isinstance(outer, ipaddress.IPv6Network) and isinstance(inner, ipaddress.IPv6Network):
        return inner.subnet_of(outer)
    return False


def collapse(networks: Iterable[Network]) -> tuple[Network, ...]:
    """The same addresses in the fewest networks, in a fixed order, those of version 4 first."""
    four = [network for network in networks if isinstance(network, ipaddress.IPv4Network)]
    six = [network for network in networks if isinstance(network, ipaddress.IPv6Network)]
    return (*ipaddress.collapse_addresses(four), *ipaddress.collapse_addresses(six))


def parse_networks(what: str, values: Sequence[str]) -> tuple[Network, ...]:
    """Networks of a list of texts, where `any` stands for all.

    Raises:
        FlowError: one is no network; the message begins with `what`.
    """
    return collapse(_networks(what, values))


def _networks(what: str, values: Sequence[str]) -> list[Network]:
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise FlowError(f"{what}: a list of networks is needed")
    networks: list[Network] = []
    for value in values:
        if value == ANYWHERE:
            networks.extend(_EVERYWHERE)
        else:
            networks.append(_network(what, str(value)))
    return networks


def _network(what: str, value: str) -> Network:
    try:
        return ipaddress.ip_network(value)
    except ValueError as error:
        if "host bits set" in str(error):
            address, network = value.split("/")[0], ipaddress.ip_network(value, strict=False)
            raise FlowError(
                f"{what}: {value!r} is an address and a network in one; write {network} for the network or {address} "
                "for the address"
            ) from None
        raise FlowError(f"{what}: {value!r} is not an IP address or network such as 10.0.0.0/8") from None


def _looks_like_network(value: str) -> bool:
    return ":" in value or "/" in value or value.replace(".", "").isdigit()


def _ports(flow: str, protocol: str, value: t.Any) -> tuple[tuple[int, int], ...]:
    if protocol == "icmp":
        if value:
            raise FlowError(f"flow {flow!r}: icmp has no ports")
        return ()
    values = value if isinstance(value, (list, tuple)) else [] if value is None else [value]
    if not values:
        raise FlowError(f"flow {flow!r}: `ports` is missing: name at least one, as in [443] or ['8000-8010']")
    ranges: list[tuple[int, int]] = []
    for entry in values:
        parts = str(entry).split("-")
        if isinstance(entry, bool) or len(parts) > 2 or not all(part.isdecimal() for part in parts):
            raise FlowError(f"flow {flow!r}: {entry!r} is not a port or a range of ports such as '8000-8010'")
        first, last = int(parts[0]), int(parts[-1])
        if not 1 <= first <= last <= 65535:
            raise FlowError(
                f"flow {flow!r}: ports go from 1 to 65535, and a range from low to high; {entry!r} does not"
            )
        ranges.append((first, last))
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return tuple(merged)


def _meant(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
