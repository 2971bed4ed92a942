"""Under a bounded load through the gateway: no request fails when a server dies, a host stops, or a release rolls."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rolled_out import UNIT, Load, Play, SiteHost, another_release


def _served(figures: dict[str, Any]) -> set[str]:
    return {name for name, count in figures["upstreams"].items() if count > 0}


def _wait_until_active(host: SiteHost) -> None:
    deadline = time.monotonic() + 60
    while host.run("systemctl", "is-active", "--quiet", UNIT, check=False).returncode != 0:
        assert time.monotonic() < deadline, "the server did not come back"
        time.sleep(1)


def test_load_is_shared_by_all_hosts(load: Callable[[int], Load]) -> None:
    figures = load(4).figures()
    assert figures["failed"] == 0, figures
    assert len(_served(figures)) >= 2, figures


def test_a_server_that_is_killed(load: Callable[[int], Load], hosts: dict[str, SiteHost]) -> None:
    running = load(12)
    restarts = int(hosts["inference1"].sh(f"systemctl show --value --property=NRestarts {UNIT}"))
    hosts["inference1"].sh(f"systemctl kill --signal=KILL {UNIT}")
    figures = running.figures()
    assert figures["failed"] == 0, figures
    assert figures["requests"] > 50
    assert int(hosts["inference1"].sh(f"systemctl show --value --property=NRestarts {UNIT}")) > restarts
    _wait_until_active(hosts["inference1"])


def test_a_host_that_stops(load: Callable[[int], Load], hosts: dict[str, SiteHost]) -> None:
    running = load(15)
    subprocess.run(["docker", "kill", hosts["inference2"].container], check=True, capture_output=True)
    try:
        figures = running.figures()
    finally:
        subprocess.run(["docker", "start", hosts["inference2"].container], check=True, capture_output=True)
    assert figures["failed"] == 0, figures
    assert figures["requests"] > 50
    _wait_until_active(hosts["inference2"])


def test_a_release_that_rolls_over_all_hosts(
    load: Callable[[int], Load], hosts: dict[str, SiteHost], play: Play, tmp_path: Path
) -> None:
    before = {
        name: hosts[name].sh("readlink /opt/ai102/inference_server/current") for name in ("inference1", "inference2")
    }
    source = another_release(tmp_path, "# another release")
    running = load(600)
    played = play("--extra-vars", f"artifacts_server_source={source}")
    assert running.process.poll() is None, "the load ended before the rollout"
    figures = running.end()
    assert played.returncode == 0, played.output[-3000:]
    assert figures["failed"] == 0, figures
    assert figures["requests"] > 200
    for name, release in before.items():
        assert hosts[name].sh("readlink /opt/ai102/inference_server/current") != release


def test_the_way_back(load: Callable[[int], Load], hosts: dict[str, SiteHost], play: Play) -> None:
    before = {
        name: hosts[name].sh("readlink /opt/ai102/inference_server/current") for name in ("inference1", "inference2")
    }
    running = load(600)
    played = play(playbook="playbooks/rollback.yml")
    assert running.process.poll() is None, "the load ended before the rollback"
    figures = running.end()
    assert played.returncode == 0, played.output[-3000:]
    assert figures["failed"] == 0, figures
    for name, release in before.items():
        assert hosts[name].sh("readlink /opt/ai102/inference_server/current") != release
        assert hosts[name].sh("readlink /opt/ai102/inference_server/previous") == release


def test_a_run_after_it_changes_nothing(play: Play) -> None:
    played = play()
    assert played.returncode == 0, played.output[-3000:]
    assert not played.changed
