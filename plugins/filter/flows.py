# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters over the inventory's addresses and flows; each is documented in the YAML file of its name."""

from __future__ import annotations

import socket
import typing as t
from collections.abc import Callable, Mapping, Sequence

from ansible.errors import AnsibleFilterError
from ansible_collections.ai102.inference.plugins.module_utils import _flows


def host_address(hostvars: t.Any) -> str:
    """Returns the address at which other hosts reach the host whose variables these are."""
    if not isinstance(hostvars, Mapping):
        raise AnsibleFilterError(
            f"host_address: expected the variables of one host (hostvars[name]), got {type(hostvars).__name__}"
        )
    try:
        return _flows.host_address(hostvars)
    except _flows.FlowError as error:
        raise AnsibleFilterError(str(error)) from None


def flow_hosts(groups: t.Any, hostvars: t.Any) -> dict[str, dict[str, list[str]]]:
    """Returns groups and addresses of every host of the inventory, as `flow_rules` takes them."""
    if not isinstance(groups, Mapping) or not isinstance(hostvars, Mapping):
        raise AnsibleFilterError("flow_hosts: use it as `groups | ai102.inference.flow_hosts(hostvars)`")
    hosts: dict[str, dict[str, list[str]]] = {}
    for name in groups.get("all", []):
        variables = hostvars[name]
        addresses = [host_address(variables)]
        if "firewall_addresses" in variables:
            addresses.extend(str(address) for address in variables["firewall_addresses"])
        hosts[str(name)] = {
            "groups": sorted(str(group) for group, members in groups.items() if group != "all" and name in members),
            "addresses": list(dict.fromkeys(addresses)),
        }
    return hosts


def flow_rules(
    flows: t.Any,
    host: str,
    hosts: t.Any,
    control: Sequence[str] = (),
    clients: Sequence[str] = (_flows.ANYWHERE,),
    tiers: Sequence[str] = (),
    output_policy: str = "accept",
) -> dict[str, list[dict[str, t.Any]]]:
    """Returns the inbound and outbound rules of one host."""
    if not isinstance(flows, Sequence) or isinstance(flows, str):
        raise AnsibleFilterError("flow_rules: a list of flows is needed")
    try:
        matrix = _flows.FlowMatrix(flows, hosts, control, clients, tiers, output_policy, _resolve)
        return {
            "inbound": [rule.to_dict() for rule in matrix.inbound(host)],
            "outbound": [rule.to_dict() for rule in matrix.outbound(host)] if output_policy == "drop" else [],
        }
    except _flows.FlowError as error:
        raise AnsibleFilterError(str(error)) from None


def _resolve(name: str) -> list[str]:
    """Addresses of a host name as the control node knows them; empty for none."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found))


class FilterModule:
    """Filters of the collection that have to do with addresses and flows."""

    def filters(self) -> dict[str, Callable[..., t.Any]]:
        """Names and functions, as Ansible asks for them."""
        return {"host_address": host_address, "flow_hosts": flow_hosts, "flow_rules": flow_rules}
