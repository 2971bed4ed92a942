"""Chooses the hosts of each module of tests."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A module that names its hosts is run on those alone, though the scenario's conftest names all of them."""
    chosen: list[pytest.Item] = []
    for item in items:
        module = item.getparent(pytest.Module)
        wanted = getattr(module.obj, "testinfra_hosts", None) if module else None
        if wanted is None or f"docker://{item.callspec.params['_testinfra_host'].backend.name}" in wanted:  # type: ignore[attr-defined]  # parametrized by testinfra
            chosen.append(item)
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen
