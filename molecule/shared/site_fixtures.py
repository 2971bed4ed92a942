"""Fixtures of the scenarios that roll out a whole site."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rolled_out import PROJECT, STATE, Load, Play, SiteHost, play_site, read_hosts


@pytest.fixture(scope="session")
def hosts() -> dict[str, SiteHost]:
    """Return the hosts of the scenario by name."""
    return read_hosts()


@pytest.fixture(scope="session")
def play() -> Play:
    """Run a playbook on the site."""
    return play_site


@pytest.fixture
def verdict() -> Any:
    """Reads the verdict of a kind that the last run left."""

    def read(kind: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((STATE / f"reports/{kind}.json").read_text())
        return found

    return read


@pytest.fixture
def load(hosts: dict[str, SiteHost], tmp_path: Path) -> Iterator[Callable[..., Load]]:
    """Start a bounded load through the gateway; what still runs after the test is ended."""
    golden = json.loads((PROJECT / "roles/model_store/files/golden/file-type.json").read_text())
    body = tmp_path / "request.json"
    body.write_text(json.dumps(golden["requests"][0]["request"]))
    started: list[Load] = []

    def start(seconds: int, **more: float) -> Load:
        gateway = next(host for host in hosts.values() if "gateways" in host.tiers)
        started.append(Load(gateway.address, body, seconds, **more))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait(timeout=10)
