"""Gives the tests the role as a playbook, single modules, and the packages as they were."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from testinfra.host import Host

SCENARIO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(SCENARIO.parent / "shared"))  # pytest's import mode `importlib` does not

from applied_role import Apply, applier  # noqa: E402 - needs the path above
from run_module import Module, runner  # noqa: E402 - needs the path above


@pytest.fixture
def module(host: Host) -> Module:
    """Run a module on the test's host."""
    return runner(SCENARIO, host.backend.name)


@pytest.fixture
def apply(host: Host) -> Apply:
    """Apply the role to the test's host."""
    return applier(SCENARIO, host)


@pytest.fixture
def as_prepared(host: Host) -> set[str]:
    """The packages as they were before the role came."""
    return set(host.check_output("cat /root/packages-before").splitlines())
