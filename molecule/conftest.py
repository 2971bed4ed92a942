"""Tells testinfra which hosts a scenario has, and gives its tests the scenario's inventory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml


def _inventory() -> dict[str, Any]:
    directory = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"])
    inventory: dict[str, Any] = yaml.safe_load((directory / "hosts.yml").read_text())["all"]
    return inventory


def _hosts(group: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found = {name: values or {} for name, values in (group.get("hosts") or {}).items()}
    for child in (group.get("children") or {}).values():
        for name, values in _hosts(child or {}).items():
            found[name] = {**found.get(name, {}), **values}
    return found


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test on every host of the scenario, unless its module says which, as ``testinfra_hosts``."""
    if "MOLECULE_SCENARIO_DIRECTORY" in os.environ and not hasattr(metafunc.module, "testinfra_hosts"):
        names = [values.get("test_host_container", name) for name, values in _hosts(_inventory()).items()]
        vars(metafunc.module)["testinfra_hosts"] = [f"docker://{name}" for name in names]


@pytest.fixture(scope="session")
def inventory() -> dict[str, Any]:
    """Return the group ``all`` of the scenario's hosts.yml: ``hosts``, ``children`` and ``vars`` as written."""
    return _inventory()
