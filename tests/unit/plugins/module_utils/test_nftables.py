# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules as text for nftables. What they do is tried with real sockets in the Molecule scenario `firewall`."""

from __future__ import annotations

import ipaddress
import re

import pytest
from ansible_collections.ai102.inference.plugins.module_utils import _nftables
from ansible_collections.ai102.inference.plugins.module_utils._flows import FlowError, Rule

SSH = Rule("ssh", "tcp", ((22, 22),), (), True)
CONTROL = (ipaddress.ip_network("10.9.0.5"), ipaddress.ip_network("fd00::5"))


def rule(*networks: str, protocol: str = "tcp", ports: tuple[tuple[int, int], ...] = ((443, 443),)) -> Rule:
    return Rule("x", protocol, ports, tuple(ipaddress.ip_network(network) for network in networks))


def lines(*rules: Rule, chain: str = "input", output_policy: str = "accept") -> list[str]:
    text = _nftables.render(rules, rules, _nftables.Options(output_policy=output_policy))
    found = re.search(rf"chain {chain} {{\n(.*?)\n\t}}", text, re.DOTALL)
    assert found, text
    return [line.strip() for line in found.group(1).splitlines() if 'comment "x"' in line]


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (rule("0.0.0.0/0", "::/0"), ["tcp dport 443 accept"]),
        (rule("0.0.0.0/0"), ["meta nfproto ipv4 tcp dport 443 accept"]),
        (
            rule("::/0", "10.0.0.1"),
            ["ip saddr 10.0.0.1 tcp dport 443 accept", "meta nfproto ipv6 tcp dport 443 accept"],
        ),
        (
            rule("10.0.0.1", "10.1.0.0/16", "fd00::1", ports=((1, 1), (5, 9))),
            [
                "ip saddr { 10.0.0.1, 10.1.0.0/16 } tcp dport { 1, 5-9 } accept",
                "ip6 saddr fd00::1 tcp dport { 1, 5-9 } accept",
            ],
        ),
        (
            rule("0.0.0.0/0", "fd00::/8", protocol="icmp", ports=()),
            ["icmp type echo-request accept", "ip6 saddr fd00::/8 icmpv6 type echo-request accept"],
        ),
        (rule("10.0.0.1", protocol="udp"), ["ip saddr 10.0.0.1 udp dport 443 accept"]),
    ],
)
def test_a_rule_in_the_input_chain(one: Rule, expected: list[str]) -> None:
    assert lines(one) == [f'{line} comment "x"' for line in expected]


def test_a_published_port_is_the_one_that_was_asked_for() -> None:
    assert lines(rule("10.0.0.1"), chain="published") == [
        'ip saddr 10.0.0.1 meta l4proto tcp ct original proto-dst 443 accept comment "x"'
    ]
    assert lines(rule("0.0.0.0/0", protocol="icmp", ports=()), chain="published") == []


def test_the_output_chain_is_there_with_policy_drop_only() -> None:
    assert lines(rule("10.0.0.1"), chain="output", output_policy="drop") == [
        'ip daddr 10.0.0.1 tcp dport 443 accept comment "x"'
    ]
    assert "chain output" not in _nftables.render([], [rule("10.0.0.1")], _nftables.Options())


def test_only_our_table_is_named() -> None:
    text = _nftables.render([rule("10.0.0.1")], [], _nftables.Options())
    assert set(re.findall(r"^(?:delete )?table .*", text, re.MULTILINE)) == {
        "table inet ai102",
        "delete table inet ai102",
        "table inet ai102 {",
    }
    assert "flush" not in text
    assert "type filter hook input priority filter; policy drop;" in text
    assert "type filter hook forward priority filter; policy accept;" in text


def test_the_log_can_be_turned_off() -> None:
    assert "limit rate 3/minute" in _nftables.render([], [], _nftables.Options(log_rate=3))
    assert " log " not in _nftables.render([], [], _nftables.Options(log_prefix=""))


def test_control_networks_are_put_in_on_the_host() -> None:
    found = _nftables.with_control([SSH, rule("10.0.0.1")], CONTROL)
    assert [str(peer) for peer in found[0].peers] == ["10.9.0.5/32", "fd00::5/128"]
    assert found[1] == rule("10.0.0.1")
    assert _nftables.with_control([SSH], ()) == []


def test_whether_a_connection_would_be_let_in() -> None:
    rules = _nftables.with_control([SSH], CONTROL)
    assert _nftables.accepts(rules, "10.9.0.5", 22)
    assert _nftables.accepts(rules, "fd00::5", 22)
    assert not _nftables.accepts(rules, "10.9.0.6", 22)
    assert not _nftables.accepts(rules, "10.9.0.5", 2222)


def test_a_rule_travels_as_plain_data() -> None:
    for one in (SSH, rule("10.0.0.0/8", ports=((1, 1), (5, 9))), rule("::/0", protocol="icmp", ports=())):
        assert _nftables.rule_of(one.to_dict()) == one
    with pytest.raises(FlowError, match="not a rule of the filter flow_rules"):
        _nftables.rule_of({"flow": "x"})


def test_the_way_back() -> None:
    listing = "table inet ai102 {\n}\n"
    assert _nftables.restoration(listing) == f"table inet ai102\ndelete table inet ai102\n{listing}"
    assert _nftables.restoration("") == _nftables.removal()
