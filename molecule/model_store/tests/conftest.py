"""Gives the tests a function that runs one module on the test's host."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from testinfra.host import Host

SCENARIO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(SCENARIO.parent / "shared"))  # pytest's import mode `importlib` does not

from run_module import Module, runner  # noqa: E402 - needs the path above


@pytest.fixture
def module(host: Host) -> Module:
    """Return a function that runs a module with options on the test's host and returns its result."""
    return runner(SCENARIO, host.backend.name)
