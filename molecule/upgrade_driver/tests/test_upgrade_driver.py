"""Drivers of two hosts that serve are changed, one after the other, under a bounded load: no request fails, a host that
comes back on another execution provider stops the roll, and one command returns to the driver before."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from rolled_out import UNIT, Load, Play, SiteHost

FIRST, SECOND = "ai102-mol-upgrade-1", "ai102-mol-upgrade-2"
OLD, NEW = "535.261.03", "535.309.01"
# Seconds for a roll: two builds, each of three minutes on two processors that nobody else uses.
BOUND = 2700
# The builds need the processors: some requests a second tell as well whether one fails.
PAUSE = 0.4
CONFIG = "/opt/ai102/inference_server/current/config.yml"
ON_THE_CPU = "/opt/ai102/on-the-cpu.yml"
DROP_IN = f"/etc/systemd/system/{UNIT}.d"


def _managed(**variables: str) -> tuple[str, str]:
    return "--extra-vars", json.dumps({"ai102_gpu_driver": "managed", **variables})


def _driver(host: SiteHost) -> str:
    """The driver that the packages have, that was built, and that was "loaded" at the last start: all the same."""
    package = host.run("dpkg-query", "-W", "-f", "${db:Status-Status} ${Version}", "nvidia-kernel-dkms", check=False)
    if not package.stdout.startswith("installed "):
        assert host.sh("ls /lib/modules/*/updates 2>/dev/null || true") == ""
        return ""
    version = package.stdout.split()[1].split("-")[0]
    assert host.sh("modinfo -F version /lib/modules/*/updates/dkms/nvidia-current.ko") == version
    return version


def _loaded(host: SiteHost) -> str | None:
    found: dict[str, Any] = json.loads(host.sh("cat /run/simulated-gpus.json"))
    return found["modules"]["nvidia"]


def _started(host: SiteHost) -> str:
    return host.sh("systemctl show --property=UserspaceTimestamp --value")


def test_a_driver_for_hosts_that_serve(
    load: Callable[..., Load], hosts: dict[str, SiteHost], play: Play, verdict: Any
) -> None:
    before = {name: _started(hosts[name]) for name in (FIRST, SECOND)}
    running = load(BOUND, pause=PAUSE)
    played = play(*_managed(nvidia_driver_version=f"{OLD}*"), playbook="playbooks/upgrade_driver.yml", timeout=BOUND)
    assert running.process.poll() is None, "the load ended before the roll"
    figures = running.end()
    assert played.returncode == 0, played.output[-5000:]
    assert figures["failed"] == 0, figures
    assert figures["requests"] > 500
    assert verdict("upgrade_driver")["ok"]
    for name in (FIRST, SECOND):
        assert (_driver(hosts[name]), _loaded(hosts[name])) == (OLD, OLD)
        assert _started(hosts[name]) != before[name]  # it was restarted, for the driver


def test_a_run_of_the_site_after_it_changes_nothing(play: Play) -> None:
    played = play(*_managed(nvidia_driver_version=f"{OLD}*"))
    assert played.returncode == 0, played.output[-3000:]
    assert not played.changed


def test_a_host_that_comes_back_on_another_provider_stops_the_roll(
    load: Callable[..., Load], hosts: dict[str, SiteHost], play: Play
) -> None:
    """Its release demands CUDA, and what starts computes on the CPU, as with a driver that ONNX Runtime cannot use."""
    first = hosts[FIRST]
    untouched = _started(hosts[SECOND])
    first.sh(f"cp {CONFIG} /root/config.yml; install -m 644 {CONFIG} {ON_THE_CPU}")
    first.sh(
        f"sed -i 's/required_provider: .*/required_provider: CUDAExecutionProvider/' {CONFIG}; grep -q CUDA {CONFIG}"
    )
    command = first.sh(f"sed -n 's/^ExecStart=//p' /etc/systemd/system/{UNIT}").replace(CONFIG, ON_THE_CPU)
    first.sh(f"mkdir -p {DROP_IN}; printf '[Service]\\nExecStart=\\nExecStart={command}\\n' > {DROP_IN}/cpu.conf")
    running = load(BOUND, pause=PAUSE)
    played = play(*_managed(nvidia_driver_version=f"{NEW}*"), playbook="playbooks/upgrade_driver.yml", timeout=BOUND)
    figures = running.end()
    assert played.returncode != 0
    assert f"The driver of {FIRST} was not changed" in played.flat
    assert "CUDAExecutionProvider" in played.flat
    assert "The host gets no requests" in played.flat
    assert figures["failed"] == 0, figures
    # The first has its driver back, and the second was not touched and serves.
    assert (_driver(first), _loaded(first)) == (OLD, OLD)
    assert (_driver(hosts[SECOND]), _started(hosts[SECOND])) == (OLD, untouched)
    assert set(load(3).figures()["upstreams"]) == {SECOND}


def test_the_host_is_mended_and_returned(load: Callable[..., Load], hosts: dict[str, SiteHost], play: Play) -> None:
    hosts[FIRST].sh(f"cp /root/config.yml {CONFIG}; rm -r {DROP_IN}")
    hosts[FIRST].sh(f"systemctl daemon-reload; systemctl restart {UNIT}")
    played = play("--limit", FIRST, "--extra-vars", "drain_state=active", playbook="playbooks/drain.yml")
    assert played.returncode == 0, played.output[-3000:]
    time.sleep(1)
    assert len(load(4).figures()["upstreams"]) == 2


def test_one_command_returns_to_what_was_before(
    load: Callable[..., Load], hosts: dict[str, SiteHost], play: Play
) -> None:
    running = load(BOUND, pause=PAUSE)
    played = play(*_managed(), "--tags", "nvidia_driver", playbook="playbooks/rollback.yml", timeout=BOUND)
    figures = running.end()
    assert played.returncode == 0, played.output[-5000:]
    assert figures["failed"] == 0, figures
    assert [_driver(hosts[name]) for name in (FIRST, SECOND)] == ["", ""]
    again = play(*_managed(), "--tags", "nvidia_driver", playbook="playbooks/rollback.yml", timeout=BOUND)
    assert again.returncode != 0
    assert "there is no way back" in again.flat
