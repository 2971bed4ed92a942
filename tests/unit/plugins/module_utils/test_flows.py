# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The flow matrix: what follows from it, and what is said about mistakes in it."""

from __future__ import annotations

import ipaddress
import itertools
from typing import Any

import pytest
from ansible_collections.ai102.inference.plugins.module_utils._flows import (
    FlowError,
    FlowMatrix,
    Rule,
    collapse,
    contains,
    host_address,
    parse_networks,
)

TIERS = ["gateways", "inference_hosts", "monitoring_hosts", "log_hosts", "backup_hosts", "registry_hosts"]
HOSTS: dict[str, dict[str, list[str]]] = {
    "gw1": {"groups": ["gateways"], "addresses": ["10.0.0.1", "fd00::1"]},
    "gpu1": {"groups": ["inference_hosts"], "addresses": ["10.0.0.11"]},
    "gpu2": {"groups": ["inference_hosts", "gateways"], "addresses": ["10.0.0.12"]},
    "ops": {"groups": ["monitoring_hosts"], "addresses": ["ops.example"]},
}
FLOWS: list[dict[str, Any]] = [
    {"name": "ssh", "from": ["control"], "to": ["all"], "ports": [22]},
    {"name": "endpoint", "from": ["clients"], "to": ["gateways"], "ports": [443]},
    {"name": "predictions", "from": ["gateways"], "to": ["inference_hosts"], "ports": ["8443"]},
    {"name": "metrics", "from": ["monitoring_hosts"], "to": ["inference_hosts"], "ports": [8443]},
    {
        "name": "range",
        "from": ["gpu1", "192.0.2.0/24"],
        "to": ["gw1"],
        "protocol": "udp",
        "ports": ["5000-5010", 5011, 7],
    },
    {"name": "ping", "from": ["all"], "to": ["all"], "protocol": "icmp"},
    {"name": "time", "from": ["inference_hosts"], "to": ["any"], "protocol": "udp", "ports": [123]},
]


def resolver(name: str) -> list[str]:
    return {"ops.example": ["10.0.0.21", "fd00::21"], "app.example.com": ["192.0.2.7"]}.get(name, [])


def matrix(flows: list[Any] | None = None, **arguments: Any) -> FlowMatrix:
    values: dict[str, Any] = {"control": ["10.9.0.5"], "tiers": TIERS, "resolver": resolver, **arguments}
    return FlowMatrix(FLOWS if flows is None else flows, values.pop("hosts", HOSTS), **values)


def rule(host: str, flow: str, **arguments: Any) -> Rule | None:
    return next((rule for rule in matrix(**arguments).inbound(host) if rule.flow == flow), None)


def peers(found: Rule | None) -> list[str]:
    assert found is not None
    return [str(peer) for peer in found.peers]


def test_a_tier_stands_for_the_addresses_of_its_hosts_without_the_host_itself() -> None:
    assert peers(rule("gpu1", "predictions")) == ["10.0.0.1/32", "10.0.0.12/32", "fd00::1/128"]
    assert peers(rule("gpu2", "predictions")) == ["10.0.0.1/32", "fd00::1/128"]
    assert peers(rule("gpu1", "metrics")) == ["10.0.0.21/32", "fd00::21/128"]


def test_a_host_lets_in_only_what_is_for_its_tiers() -> None:
    assert [found.flow for found in matrix().inbound("ops")] == ["ssh", "ping"]
    assert [found.flow for found in matrix().inbound("gw1")] == ["ssh", "endpoint", "range", "ping"]


def test_control_stays_a_word_because_the_host_may_know_more() -> None:
    found = rule("ops", "ssh", control=[])
    assert found == Rule("ssh", "tcp", ((22, 22),), (), True)
    assert peers(rule("ops", "ssh")) == ["10.9.0.5/32"]


def test_clients_are_anybody_or_networks() -> None:
    assert peers(rule("gw1", "endpoint")) == ["0.0.0.0/0", "::/0"]
    assert peers(rule("gw1", "endpoint", clients=["10.20.0.0/16"])) == ["10.20.0.0/16"]


def test_ports_are_merged() -> None:
    found = rule("gw1", "range")
    assert found is not None
    assert found.ports == ((7, 7), (5000, 5011))
    assert found.to_dict()["ports"] == ["7", "5000-5011"]


def test_networks_in_to_let_out_and_open_nothing() -> None:
    assert "time" not in [found.flow for host in HOSTS for found in matrix().inbound(host)]
    assert [found.flow for found in matrix().outbound("gpu1")] == ["range", "ping", "time"]
    assert peers(matrix().outbound("gpu1")[0]) == ["10.0.0.1/32", "fd00::1/128"]


def test_a_rule_of_nobody_is_left_out() -> None:
    assert matrix([{"name": "x", "from": ["log_hosts"], "to": ["all"], "ports": [1]}]).inbound("gw1") == []


ALLOWED = {
    ("gw1", "gpu1", 8443), ("gw1", "gpu2", 8443), ("gpu2", "gpu1", 8443), ("ops", "gpu1", 8443), ("ops", "gpu2", 8443),
    *(("10.9.0.5", host, 22) for host in HOSTS),
    *((source, target, 443) for source in [*HOSTS, "10.9.0.5", "203.0.113.9"] for target in ("gw1", "gpu2")),
}  # fmt: skip


def test_allowed_says_of_every_pair_and_port_what_the_rules_do() -> None:
    found = matrix()
    for source, target, port in itertools.product([*HOSTS, "10.9.0.5", "203.0.113.9"], HOSTS, [22, 80, 443, 8443]):
        expected = source == target or (source, target, port) in ALLOWED
        assert found.allowed(source, target, "tcp", port) is expected, (source, target, port)
    assert found.allowed("gpu1", "gw1", "udp", 5005)
    assert not found.allowed("gpu1", "gw1", "tcp", 5005)
    assert found.allowed("gpu1", "gw1", "icmp")
    assert not found.allowed("203.0.113.9", "gw1", "icmp")


def test_with_output_policy_drop_both_ends_have_to_agree() -> None:
    clients = {"clients": ["10.0.0.0/24"]}
    assert matrix(**clients).allowed("ops", "gw1", "tcp", 443)
    assert not matrix(**clients, output_policy="drop").allowed("ops", "gw1", "tcp", 443)
    assert matrix(output_policy="drop").allowed("gw1", "gpu1", "tcp", 8443)
    assert matrix(**clients, output_policy="drop").allowed("10.0.0.99", "gw1", "tcp", 443)


def test_one_host_in_all_tiers_needs_no_address() -> None:
    hosts = {"here": {"groups": TIERS, "addresses": ["localhost"]}}
    found = matrix(FLOWS[:4] + FLOWS[5:], hosts=hosts)
    assert [one.flow for one in found.inbound("here")] == ["ssh", "endpoint"]


@pytest.mark.parametrize(
    ("flow", "message"),
    [
        (
            {"from": ["gateway"]},
            "'x': `from` names 'gateway', which is no tier, host or network (did you mean 'gateways'?)",
        ),
        ({"to": ["gpu9"]}, "`to` names 'gpu9', which is no tier, host or network (did you mean 'gpu2'?)"),
        ({"from": ["app.example.com"]}, "write its IP address or network (now 192.0.2.7)"),
        ({"from": ["10.1.2.3/8"]}, "write 10.0.0.0/8 for the network or 10.1.2.3 for the address"),
        ({"from": ["10.1.2"]}, "'10.1.2' is not an IP address or network"),
        ({"from": ["fd00::zz"]}, "'fd00::zz' is not an IP address or network"),
        ({"to": ["control"]}, "'control' can only stand in `from`"),
        ({"from": []}, "`from` is missing"),
        ({"to": None}, "`to` is missing"),
        ({"ports": []}, "`ports` is missing"),
        ({"ports": [0]}, "ports go from 1 to 65535"),
        ({"ports": [70000]}, "ports go from 1 to 65535"),
        ({"ports": ["9-8"]}, "a range from low to high"),
        ({"ports": ["http"]}, "'http' is not a port"),
        ({"ports": [True]}, "True is not a port"),
        ({"protocol": "sctp"}, "protocol 'sctp' is not known, use one of tcp, udp, icmp"),
        ({"protocol": "icmp"}, "icmp has no ports"),
        ({"port": 1}, "'port' is not known (did you mean 'ports'?)"),
        ({"name": ""}, "flow 1 of the list: give it a name"),
        ({"name": 'a"b'}, "without quotes"),
    ],
)
def test_mistakes_in_a_flow_are_named_with_a_way_to_mend_them(flow: dict[str, Any], message: str) -> None:
    good = {"name": "x", "from": ["gateways"], "to": ["all"], "ports": [1]}
    assert matrix([good]).inbound("gw1")
    with pytest.raises(FlowError) as error:
        matrix([{**good, **flow}])
    assert message in str(error.value)


def test_mistakes_in_the_list_and_around_it() -> None:
    with pytest.raises(FlowError, match="declared twice"):
        matrix([FLOWS[0], FLOWS[0]])
    with pytest.raises(FlowError, match="a dictionary with name"):
        matrix(["ssh"])
    with pytest.raises(FlowError, match="use 'accept' or 'drop'"):
        matrix(output_policy="reject")
    with pytest.raises(FlowError, match="the client networks: 'x' is not an IP address"):
        matrix(clients=["x"])
    with pytest.raises(FlowError, match=r"not in the inventory \(did you mean 'gpu2'\?\)"):
        matrix().inbound("gpu")


def test_a_host_without_a_usable_address_is_named() -> None:
    hosts = {**HOSTS, "gw1": {"groups": ["gateways"], "addresses": ["nowhere.example"]}}
    with pytest.raises(FlowError, match="host gw1: its address 'nowhere.example' .* set ai102_address"):
        matrix(hosts=hosts).inbound("gpu1")
    hosts["gw1"]["addresses"] = ["127.0.0.1"]
    with pytest.raises(FlowError, match="flow 'predictions': host gw1 has the address 127.0.0.1"):
        matrix(hosts=hosts).inbound("gpu1")


def test_networks() -> None:
    four, six = ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8")
    assert contains(four, ipaddress.ip_network("10.1.0.0/16"))
    assert not contains(ipaddress.ip_network("10.1.0.0/16"), four)
    assert not contains(four, six)
    assert [str(one) for one in collapse([six, ipaddress.ip_network("10.1.1.1/32"), four])] == [
        "10.0.0.0/8",
        "fd00::/8",
    ]
    assert [str(one) for one in parse_networks("x", ["any"])] == ["0.0.0.0/0", "::/0"]
    with pytest.raises(FlowError, match="x: a list of networks is needed"):
        parse_networks("x", "10.0.0.0/8")


def test_host_address() -> None:
    everything = {"ai102_address": "10.0.0.1", "ansible_host": "h", "inventory_hostname": "n"}
    assert host_address(everything) == "10.0.0.1"
    assert host_address({**everything, "ai102_address": ""}) == "h"
    assert host_address({"inventory_hostname": "n"}) == "n"
    with pytest.raises(FlowError, match="the variables of one host"):
        host_address({})
