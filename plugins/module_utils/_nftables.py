# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules of one host as text for nftables.

Only the table `inet ai102` is ours; nothing here ever names another one, so that Docker's and other people's tables
stay as they are.
"""

from __future__ import annotations

import ipaddress
import typing as t
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.ai102.inference.plugins.module_utils import _flows

TABLE = "ai102"

_HEAD = """\
# Managed by Ansible (ai102.inference). Changes are found and undone by the next run.
# Declaring the table before deleting it makes this work whether it is there or not; the file is applied as a whole.
table inet {table}
delete table inet {table}
"""

# Neighbour discovery and the errors without which IPv6 and path MTU discovery do not work (RFC 4890, 4.4).
_ICMP_NEEDED = "".join(
    f"\t\t{line}\n"
    for line in (
        "icmp type { destination-unreachable, time-exceeded, parameter-problem } accept",
        "icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem } accept",
        "ip6 hoplimit 255 icmpv6 type { nd-router-solicit, nd-router-advert } accept",
        "ip6 hoplimit 255 icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept",
        "ip6 saddr fe80::/10 icmpv6 type { mld-listener-query, mld-listener-report, mld-listener-done } accept",
        "ip6 saddr fe80::/10 icmpv6 type mld2-listener-report accept",
    )
)


@dataclass(frozen=True)
class Options:
    """What a ruleset is made of besides its rules.

    Attributes:
        output_policy: `accept` or `drop`.
        log_prefix: begin of the lines about dropped packets; empty for no log.
        log_rate: lines about dropped packets for each minute, at most.
    """

    output_policy: str = "accept"
    log_prefix: str = "ai102 drop "
    log_rate: int = 10


def rule_of(value: Mapping[str, t.Any]) -> _flows.Rule:
    """A rule as it travels to a host, read again.

    Raises:
        _flows.FlowError: it is not one.
    """
    try:
        ports: list[tuple[int, int]] = []
        for entry in value["ports"]:
            first, _dash, last = str(entry).partition("-")
            ports.append((int(first), int(last or first)))
        return _flows.Rule(
            flow=str(value["flow"]),
            protocol=str(value["protocol"]),
            ports=tuple(ports),
            peers=tuple(ipaddress.ip_network(peer) for peer in value["peers"]),
            control=bool(value["control"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _flows.FlowError(f"not a rule of the filter flow_rules: {value!r} ({error!r})") from error


def with_control(rules: Iterable[_flows.Rule], control: Sequence[_flows.Network]) -> list[_flows.Rule]:
    """The rules with the addresses that the host is managed from put in; rules left without a peer are left out."""
    result: list[_flows.Rule] = []
    for rule in rules:
        peers = _flows.collapse([*rule.peers, *control]) if rule.control else rule.peers
        if peers:
            result.append(_flows.Rule(rule.flow, rule.protocol, rule.ports, peers))
    return result


def render(inbound: Sequence[_flows.Rule], outbound: Sequence[_flows.Rule], options: Options) -> str:
    """The file that puts the table in place, whatever was there before.

    Args:
        inbound: what is let in, with the control networks put in.
        outbound: what may be reached; used with the output policy `drop`.
        options: the rest.

    Returns:
        Text for `nft -f`.
    """
    lines = [_HEAD.format(table=TABLE), f"table inet {TABLE} {{\n"]
    lines.append("	chain input {\n		type filter hook input priority filter; policy drop;\n")
    lines.append(
        '		iif "lo" accept\n		ct state established,related accept\n		ct state invalid drop\n'
    )
    lines.append(_ICMP_NEEDED)
    # Answers to DHCP clients are not seen as answers, because they asked everybody.
    lines.append(
        "		udp sport 67 udp dport 68 accept\n		ip6 saddr fe80::/10 udp sport 547 udp dport 546 accept\n"
    )
    for rule in inbound:
        lines.extend(f"		{text}\n" for text in _rule(rule, "saddr", "th dport"))
    lines.append("		meta pkttype { broadcast, multicast } drop\n")
    lines.append(_log(options, "in"))
    lines.append("	}\n\n")

    lines.append("	chain forward {\n		type filter hook forward priority filter; policy accept;\n")
    lines.append("		ct state established,related accept\n")
    # What Docker sends on to a published port of this host is subject to the rules of that port; the rest of what is
    # forwarded is Docker's own affair.
    lines.append("		ct status dnat jump published\n	}\n\n")
    lines.append("	chain published {\n")
    for rule in inbound:
        if rule.protocol != "icmp":
            lines.extend(f"		{text}\n" for text in _rule(rule, "saddr", "ct original proto-dst"))
    lines.append(_log(options, "published"))
    lines.append("		drop\n	}\n")

    if options.output_policy == "drop":
        lines.append("\n	chain output {\n		type filter hook output priority filter; policy drop;\n")
        lines.append('		oif "lo" accept\n		ct state established,related accept\n')
        lines.append("		icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert } accept\n")
        lines.append("		icmpv6 type { mld-listener-report, mld-listener-done, mld2-listener-report } accept\n")
        lines.append(
            "		udp sport 68 udp dport 67 accept\n		ip6 daddr { fe80::/10, ff02::1:2 } udp dport 547 accept\n"
        )
        for rule in outbound:
            lines.extend(f"		{text}\n" for text in _rule(rule, "daddr", "th dport"))
        lines.append(_log(options, "out"))
        lines.append("	}\n")
    lines.append("}\n")
    return "".join(lines)


def removal() -> str:
    """Text for `nft -f` that takes the table away, whether it is there or not."""
    return f"table inet {TABLE}\ndelete table inet {TABLE}\n"


def restoration(listing: str) -> str:
    """Text for `nft -f` that puts a table back as `nft list table` showed it; an empty listing takes it away."""
    return removal() + listing


def accepts(inbound: Sequence[_flows.Rule], peer: str, port: int) -> bool:
    """Whether rules (with the control networks put in) let a new TCP connection from a peer in."""
    return _flows.matches(inbound, ipaddress.ip_network(peer), "tcp", port)


def _rule(rule: _flows.Rule, side: str, port_key: str) -> list[str]:
    """The lines of one rule: one for each version of IP that its peers are of, one alone where they are everybody."""
    comment = f'accept comment "{rule.flow}"'
    four = [peer for peer in rule.peers if isinstance(peer, ipaddress.IPv4Network)]
    six = [peer for peer in rule.peers if isinstance(peer, ipaddress.IPv6Network)]
    all_four = any(peer.prefixlen == 0 for peer in four)
    all_six = any(peer.prefixlen == 0 for peer in six)
    if rule.protocol == "icmp":
        lines = []
        if four:
            lines.append(_join([] if all_four else [_peers("ip", side, four)], "icmp type echo-request", comment))
        if six:
            lines.append(_join([] if all_six else [_peers("ip6", side, six)], "icmpv6 type echo-request", comment))
        return lines
    if port_key == "th dport":
        match = f"{rule.protocol} dport {_ports(rule.ports)}"
    else:
        match = f"meta l4proto {rule.protocol} {port_key} {_ports(rule.ports)}"
    if all_four and all_six:
        return [_join([], match, comment)]
    lines = []
    if four:
        lines.append(_join(["meta nfproto ipv4" if all_four else _peers("ip", side, four)], match, comment))
    if six:
        lines.append(_join(["meta nfproto ipv6" if all_six else _peers("ip6", side, six)], match, comment))
    return lines


def _join(conditions: Sequence[str], match: str, verdict: str) -> str:
    return " ".join([*conditions, match, verdict])


def _peers(family: str, side: str, networks: Sequence[_flows.Network]) -> str:
    texts = [str(network.network_address) if network.num_addresses == 1 else str(network) for network in networks]
    return f"{family} {side} {texts[0] if len(texts) == 1 else '{ ' + ', '.join(texts) + ' }'}"


def _ports(ports: Sequence[tuple[int, int]]) -> str:
    texts = [str(first) if first == last else f"{first}-{last}" for first, last in ports]
    return texts[0] if len(texts) == 1 else "{ " + ", ".join(texts) + " }"


def _log(options: Options, chain: str) -> str:
    if not options.log_prefix or options.log_rate <= 0:
        return "		counter\n"
    return (
        f"		limit rate {options.log_rate}/minute burst {max(options.log_rate, 5)} packets "
        f'log prefix "{options.log_prefix}{chain}: " level info\n		counter\n'
    )
