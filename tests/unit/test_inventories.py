# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The inventories that come with the collection are valid against what the roles accept, as preflight judges it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.vars.hostvars import HostVars
from ansible.vars.manager import VariableManager
from ansible_collections.ai102.inference.plugins.action.inventory_check import AnsibleInventory, read_roles
from ansible_collections.ai102.inference.plugins.module_utils._inventory_check import InventoryCheck
from ansible_collections.ai102.inference.plugins.module_utils._verdict import Check

ROOT = Path(__file__).resolve().parents[2]
INVENTORIES = ROOT / "inventories"
DEFAULTS = yaml.safe_load((ROOT / "roles/preflight/defaults/main.yml").read_text())
PASSPHRASE = {"ai102_secrets_passphrase": "from the vault"}

#: What an example leaves to the vault of the person who copies it.
LEFT_OPEN = {"production": PASSPHRASE}


def check(inventory: Path, extra: dict[str, Any] | None = None) -> list[Check]:
    loader = DataLoader()
    manager = InventoryManager(loader=loader, sources=[str(inventory)])
    variables = VariableManager(loader=loader, inventory=manager)
    variables._extra_vars = dict(extra or {})
    hostvars = HostVars(inventory=manager, variable_manager=variables, loader=loader)
    roles = read_roles(ROOT / "roles", loader)
    view = AnsibleInventory(hostvars, manager.get_groups_dict(), roles, loader)
    hosts = [host.name for host in manager.get_hosts("all")]
    return InventoryCheck(
        view, roles, DEFAULTS["preflight_tiers"], hosts, required_tiers=DEFAULTS["preflight_required_tiers"]
    ).run()


@pytest.fixture
def inventory(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of an inventory: evaluating it may make its passphrase."""
    copy = tmp_path / str(request.param)
    shutil.copytree(
        INVENTORIES / request.param, copy, ignore=shutil.ignore_patterns("secrets", "reports"), dirs_exist_ok=True
    )
    return copy


NAMES = sorted(path.parent.name for path in INVENTORIES.glob("*/hosts.yml"))


def test_all_inventories_are_here() -> None:
    assert {"demo", "single_host", "production"} <= set(NAMES)


@pytest.mark.parametrize("inventory", NAMES, indirect=True)
def test_inventory_is_valid(inventory: Path) -> None:
    wrong = [item for item in check(inventory, LEFT_OPEN.get(inventory.name)) if item.status != "pass"]
    assert wrong == []


@pytest.mark.parametrize("inventory", ["production"], indirect=True)
def test_the_example_asks_for_a_passphrase_and_for_nothing_else(inventory: Path) -> None:
    wrong = [item for item in check(inventory) if item.status != "pass"]
    assert [item.check for item in wrong] == ["inventory.required.ai102_secrets_passphrase"]
    assert wrong[0].host == "all"
    assert "ansible-vault" in wrong[0].hint


@pytest.mark.parametrize("inventory", ["production"], indirect=True)
@pytest.mark.parametrize(
    ("file", "line", "name", "host", "words"),
    [
        (
            "all",
            "gateway_balancng: ip_hash",
            "inventory.variable.gateway_balancng",
            "all",
            "Did you mean gateway_balancing?",
        ),
        ("gateways", "gateway_balancing: fastest", "inventory.type.gateway_balancing", "gateways", "least_connections"),
        ("gateways", "gateway_max_fails: many", "inventory.type.gateway_max_fails", "gateways", "int"),
        ("all", "ai102_models: {name: x}", "inventory.type.ai102_models", "all", "list of dict"),
        ("inference_hosts", "ai102_address: 10.0.0.1", "inventory.address.10.0.0.1", "inference_hosts", "gpu1"),
        ("all", "ai102_gateway_port: '{{ nothing }}'", "inventory.value.ai102_gateway_port", "all", "nothing"),
    ],
)
def test_faults_are_found_where_they_are(
    inventory: Path, file: str, line: str, name: str, host: str, words: str
) -> None:
    path = inventory / "group_vars" / f"{file}.yml"
    key = line.partition(":")[0]
    text = "".join(part for part in path.read_text().splitlines(True) if not part.startswith(f"{key}:"))
    if key == "ai102_models":  # its items are on lines of their own
        text = text.replace("  - {name: text", "  # {name: text").replace("  - {name: file", "  # {name: file")
    path.write_text(f"{text}\n{line}\n")
    if key == "ai102_address":
        hosts = inventory / "hosts.yml"
        text = hosts.read_text()
        for number in range(1, 5):
            text = text.replace(f", ai102_address: 10.20.1.2{number}", "")
        hosts.write_text(text)
    wrong = [item for item in check(inventory, PASSPHRASE) if item.status != "pass"]
    assert [(item.check, item.host) for item in wrong] == [(name, host)]
    assert words in f"{wrong[0].expected} {wrong[0].actual} {wrong[0].hint}"


def test_preflight_repeats_no_other_default_than_that_of_common() -> None:
    """The role preflight does not depend on common, and so has to know its defaults."""
    common = yaml.safe_load((ROOT / "roles/common/defaults/main.yml").read_text())
    internal = yaml.safe_load((ROOT / "roles/preflight/vars/main.yml").read_text())
    for name in ("gateway_port", "gateway_status_port", "inference_port", "registry_port", "gpu_exporter_port"):
        assert internal[f"__preflight_{name}"] == f"{{{{ ai102_{name} | default({common[f'ai102_{name}']}) }}}}"
    assert common["ai102_reports_dir"] == "{{ inventory_dir }}/reports"
    assert "inventory_dir ~ '/reports'" in DEFAULTS["preflight_reports_dir"]
    assert common["ai102_secrets_dir"] == "{{ inventory_dir }}/secrets"
    assert "inventory_dir ~ '/secrets'" in internal["__preflight_control_paths"][0]


def test_preflight_knows_the_roles_and_their_tiers() -> None:
    roles = {path.name for path in (ROOT / "roles").iterdir() if (path / "tasks").is_dir()}
    named = {role for names in DEFAULTS["preflight_tiers"].values() for role in names}
    assert named == roles
