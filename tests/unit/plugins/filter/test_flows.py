# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filters as Ansible calls them."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.ai102.inference.plugins.filter.flows import FilterModule

FILTERS = FilterModule().filters()
GROUPS = {"all": ["gw", "gpu"], "ungrouped": [], "gateways": ["gw"], "inference_hosts": ["gpu"]}
HOSTVARS: dict[str, dict[str, Any]] = {
    "gw": {"inventory_hostname": "gw", "ansible_host": "10.0.0.1", "firewall_addresses": ["fd00::1", "10.0.0.1"]},
    "gpu": {"inventory_hostname": "gpu", "ai102_address": "10.0.0.2", "ansible_host": "jump"},
}
FLOWS = [{"name": "predictions", "from": ["gateways"], "to": ["inference_hosts"], "ports": [8443]}]


def test_from_groups_to_rules() -> None:
    hosts = FILTERS["flow_hosts"](GROUPS, HOSTVARS)
    assert hosts == {
        "gw": {"groups": ["gateways"], "addresses": ["10.0.0.1", "fd00::1"]},
        "gpu": {"groups": ["inference_hosts"], "addresses": ["10.0.0.2"]},
    }
    rule = {"flow": "predictions", "protocol": "tcp", "ports": ["8443"], "control": False}
    assert FILTERS["flow_rules"](FLOWS, "gpu", hosts) == {
        "inbound": [{**rule, "peers": ["10.0.0.1/32", "fd00::1/128"]}],
        "outbound": [],
    }
    assert FILTERS["flow_rules"](FLOWS, "gw", hosts, output_policy="drop")["outbound"] == [
        {**rule, "peers": ["10.0.0.2/32"]}
    ]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("host_address", ("gw",), "expected the variables of one host"),
        ("host_address", ({},), "expected the variables of one host"),
        ("flow_hosts", ([], HOSTVARS), "groups | ai102.inference.flow_hosts"),
        ("flow_rules", ("x", "gw", {}), "a list of flows is needed"),
        ("flow_rules", ([{"name": "x"}], "gw", {}), "flow 'x': `from` is missing"),
    ],
)
def test_mistakes(name: str, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(AnsibleFilterError, match=message.replace("|", r"\|")):
        FILTERS[name](*arguments)
