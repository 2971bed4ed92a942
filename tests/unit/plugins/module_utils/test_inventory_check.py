# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an operator can mistype is found, once, where it is, with the way out."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from ansible_collections.ai102.inference.plugins.module_utils._inventory_check import (
    InventoryCheck,
    RoleSpec,
    Undefined,
    Unsettled,
    describe_option,
    validate_value,
)
from ansible_collections.ai102.inference.plugins.module_utils._verdict import Check

ROLES = {
    "common": RoleSpec.from_documents(
        "common",
        {
            "argument_specs": {
                "main": {
                    "options": {
                        "ai102_secrets_passphrase": {
                            "type": "str",
                            "required": True,
                            "description": "The passphrase. Long.",
                        },
                        "ai102_gateway_port": {"type": "int", "default": 443, "description": "Port."},
                    }
                }
            }
        },
        {"ai102_gateway_port": 443, "ai102_address": "x", "ai102_secrets_passphrase": "{{ undef(hint='Set it.') }}"},
    ),
    "gateway": RoleSpec.from_documents(
        "gateway",
        {
            "argument_specs": {
                "main": {"options": {"gateway_balancing": {"type": "str", "choices": ["round_robin", "ip_hash"]}}},
                "drain": {"options": {"gateway_drain_host": {"type": "str", "required": True}}},
            }
        },
        {"gateway_balancing": "ip_hash", "gateway_only_a_default": 1},
    ),
    "model_store": RoleSpec.from_documents("model_store", {}, {"model_store_path": "/x"}),
}
TIERS = {"all": ["common"], "gateways": ["gateway"], "inference_hosts": ["model_store"], "log_hosts": []}
GOOD = {"ai102_secrets_passphrase": "x"}


class Plain:
    """An inventory of plain values; a function stands for what templating would do."""

    def __init__(self, groups: Mapping[str, Sequence[str]], variables: Mapping[str, Mapping[str, Any]]) -> None:
        self._groups = {"all": sorted({host for hosts in groups.values() for host in hosts}), **groups}
        self._variables = variables

    @property
    def groups(self) -> Mapping[str, Sequence[str]]:
        return self._groups

    def variables(self, host: str) -> Mapping[str, Any]:
        return self._variables.get(host, GOOD)

    def value(self, host: str, name: str) -> Any:
        value = self.variables(host).get(name, Undefined("Set it."))
        if isinstance(value, Exception):
            raise value
        return value

    def origin(self, host: str, name: str) -> str:
        return "hosts.yml:1"


GROUPS = {"gateways": ["g1", "g2"], "inference_hosts": ["i1", "i2"]}


def wrong(
    groups: Mapping[str, Sequence[str]] | None = None,
    variables: Mapping[str, Mapping[str, Any]] | None = None,
    known: Sequence[str] = (),
    hosts: Sequence[str] | None = None,
) -> list[Check]:
    groups = GROUPS if groups is None else groups
    inventory = Plain(groups, variables or {})
    required = ["gateways", "inference_hosts"]
    checks = InventoryCheck(
        inventory, ROLES, TIERS, hosts or inventory.groups["all"], required_tiers=required, known=known
    ).run()
    return [check for check in checks if check.status != "pass"]


def every(**variables: Any) -> dict[str, dict[str, Any]]:
    return {host: {**GOOD, **variables} for host in ("g1", "g2", "i1", "i2")}


def test_a_good_inventory_has_one_pass_for_each_kind_of_check() -> None:
    assert wrong() == []
    checks = InventoryCheck(Plain(GROUPS, {}), ROLES, TIERS, ["g1", "g2", "i1", "i2"]).run()
    assert [check.check for check in checks] == [
        "inventory.groups",
        "inventory.addresses",
        "inventory.variables",
        "inventory.types",
        "inventory.required",
    ]


def test_mistyped_variable_of_all_hosts_stands_once() -> None:
    (check,) = wrong(variables=every(gateway_balancng="ip_hash"))
    assert (check.host, check.status) == ("all", "fail")
    assert check.actual == "gateway_balancng is unknown (hosts.yml:1)"
    assert check.hint == "Did you mean gateway_balancing?"


def test_mistyped_variable_of_one_host_and_of_one_group() -> None:
    (check,) = wrong(variables={"g1": {**GOOD, "ai102_gateway_prt": 1}})
    assert (check.host, check.hint) == ("g1", "Did you mean ai102_gateway_port?")
    group = {host: {**GOOD, "model_store_pth": 1} for host in ("i1", "i2")}
    assert [check.host for check in wrong(variables=group)] == ["inference_hosts"]


def test_unknown_variable_without_a_neighbour_says_so() -> None:
    (check,) = wrong(variables=every(gateway_zzzzzz=1))
    assert "No role reads it" in check.hint


def test_variables_of_other_entry_points_and_defaults_without_specs_are_known() -> None:
    assert wrong(variables=every(gateway_drain_host="x", gateway_only_a_default=2, model_store_path="/y")) == []


def test_what_entry_points_require_is_not_the_inventorys_business() -> None:
    assert ROLES["gateway"].required() == []
    assert ROLES["common"].required() == ["ai102_secrets_passphrase"]


def test_mistyped_prefix_is_a_warning_and_own_variables_are_left_alone() -> None:
    (check,) = wrong(variables=every(gatway_balancing="ip_hash"))
    assert (check.status, check.hint) == ("warn", "Did you mean gateway_balancing?")
    assert wrong(variables=every(site_name="x", ansible_user="y", my_gateway="z", __gateway_balancing=1)) == []
    assert wrong(variables=every(gateway_mine=1), known=["gateway_mine"]) == []


def test_types_and_choices() -> None:
    by_host = {"g1": {**GOOD, "gateway_balancing": "fastest"}, "i1": {**GOOD, "gateway_balancing": "fastest"}}
    (check,) = wrong(variables=by_host)
    # i1 is no gateway: nothing reads the value there
    assert check.host == "g1"
    assert "round_robin, ip_hash" in check.actual
    assert check.expected == "str, one of round_robin, ip_hash"
    (check,) = wrong(variables=every(ai102_gateway_port="abc"))
    assert (check.check, check.hint) == ("inventory.type.ai102_gateway_port", "Port")
    assert wrong(variables=every(ai102_gateway_port="8443")) == []


def test_secret_values_are_not_shown() -> None:
    option = {"type": "dict"}
    assert validate_value("gateway_api_token", option, "hunter2") == [
        "the value of gateway_api_token is of the wrong kind (it is not shown)"
    ]
    assert "hunter2" not in str(validate_value("x", {"type": "dict", "no_log": True}, "hunter2"))


def test_suboptions() -> None:
    option = {
        "type": "list",
        "elements": "dict",
        "options": {"name": {"type": "str", "required": True}, "port": {"type": "int", "default": 3}},
    }
    assert describe_option(option) == "list of dict"
    assert validate_value("x", option, [{"name": "a"}]) == []
    assert "name" in validate_value("x", option, [{"port": 3}])[0]
    assert "prot" in validate_value("x", option, [{"name": "a", "prot": 3}])[0]


def test_missing_secret_shows_its_hint() -> None:
    (check,) = wrong(variables={host: {"ai102_gateway_port": 1} for host in ("g1", "g2", "i1", "i2")})
    assert (check.check, check.host) == ("inventory.required.ai102_secrets_passphrase", "all")
    assert check.hint == "Set it."
    assert check.actual == "undefined"
    (check,) = wrong(variables={"g1": {"ai102_secrets_passphrase": ""}})
    assert (check.host, check.actual) == ("g1", "empty")


def test_expressions() -> None:
    (check,) = wrong(variables=every(ai102_gateway_port=Undefined("'nothing' is undefined")))
    assert (check.check, check.host) == ("inventory.value.ai102_gateway_port", "all")
    assert "'nothing' is undefined" in check.actual
    assert wrong(variables=every(ai102_gateway_port=Unsettled("ansible_facts"))) == []


@pytest.mark.parametrize(
    ("groups", "names"),
    [
        ({"gateways": ["g1"]}, ["inventory.tier.inference_hosts"]),
        ({"gateways": ["g1"], "inference_hosts": []}, ["inventory.tier.inference_hosts"]),
        ({"gateway": ["g1"], "inference_hosts": ["i1"]}, ["inventory.tier.gateways", "inventory.group.gateway"]),
        ({**GROUPS, "loghosts": ["g1"]}, ["inventory.group.loghosts"]),
        ({**GROUPS, "gateways_b": ["g1"]}, []),  # a part of the tier
        ({**GROUPS, "europe": ["g1"], "gateway": []}, []),
    ],
)
def test_groups(groups: dict[str, list[str]], names: list[str]) -> None:
    assert [check.check for check in wrong(groups)] == names


def test_addresses() -> None:
    same = {host: {**GOOD, "ansible_host": "10.0.0.1"} for host in ("g1", "i1")}
    (check,) = wrong(variables=same)
    assert check.check == "inventory.address.10.0.0.1"
    assert check.actual == "10.0.0.1 is the address of g1, i1"
    assert wrong(variables={**same, "i1": {**GOOD, "ansible_host": "10.0.0.1", "ai102_address": "10.0.1.1"}}) == []
    # hosts of no tier may share what they like
    assert (
        wrong({**GROUPS, "others": ["o1", "o2"]}, {h: {**GOOD, "ansible_host": "10.0.0.9"} for h in ("o1", "o2")}) == []
    )


def test_only_the_hosts_of_the_run_are_looked_at() -> None:
    assert wrong(variables={"g1": {**GOOD, "gateway_balancng": 1}}, hosts=["g2", "i1"]) == []
    (check,) = wrong(variables={"g2": {**GOOD, "gateway_balancng": 1}}, hosts=["g2", "i1"])
    assert check.host == "g2"


def test_four_hundred_hosts_take_little_time() -> None:
    hosts = [f"gpu{number}" for number in range(400)]
    groups = {"gateways": ["g1"], "inference_hosts": hosts}
    variables = {host: {**GOOD, "model_store_pth": 1, "ansible_host": host} for host in hosts}
    start = time.perf_counter()
    (check,) = wrong(groups, variables)
    assert check.host == "inference_hosts"
    assert time.perf_counter() - start < 2
