"""A release that cannot run is taken back, and the role leaves as it came."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from testinfra.host import Host

PROJECT = Path(__file__).resolve().parents[3]
SCENARIO = PROJECT / "molecule/gpu_exporter"
NAME = "ai102-mol-gpu-exporter"
UNIT = "ai102-gpu-exporter.service"

testinfra_hosts = [f"docker://{NAME}"]


def play(playbook: str, **variables: Any) -> tuple[int, str]:
    """Run a playbook of the scenario on the first host: its exit status, and what it printed on one line."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    environment.update(
        ANSIBLE_CONFIG=str(PROJECT / "ansible.cfg"),
        ANSIBLE_NOCOLOR="1",
        MOLECULE_PROJECT_DIRECTORY=str(PROJECT),
        MOLECULE_SCENARIO_NAME="gpu_exporter",
    )
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-playbook")),
            f"--inventory={PROJECT}/molecule/shared/hosts.yml",
            f"--inventory={SCENARIO}/hosts.yml",
            str(SCENARIO / playbook),
            f"--limit={NAME}",
            f"--extra-vars={json.dumps(variables)}",
        ],
        env=environment,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return done.returncode, re.sub(r"\s+", " ", done.stdout + done.stderr)


def test_a_release_that_cannot_listen_is_taken_back(host: Host) -> None:
    before = host.check_output("readlink /opt/ai102/gpu_exporter/current")
    host.check_output("systemd-run --quiet --unit=taken python3 -m http.server 9401")
    try:
        status, text = play("converge.yml", ai102_gpu_exporter_port=9401)
    finally:
        host.check_output("systemctl stop taken")
    assert status != 0
    assert "was refused on ai102-mol-gpu-exporter" in text
    assert f"The release before ({Path(before).name}) is in force again" in text
    assert "cannot listen at 0.0.0.0:9401" in text, "its last words"
    assert host.check_output("readlink /opt/ai102/gpu_exporter/current") == before
    assert host.check_output(f"systemctl is-active {UNIT}") == "active"
    assert host.socket("tcp://0.0.0.0:9400").is_listening


def test_teardown_leaves_nothing_and_may_be_repeated(host: Host) -> None:
    assert play("teardown.yml")[0] == 0
    assert not host.file("/opt/ai102/gpu_exporter").exists
    assert not host.file(f"/etc/systemd/system/{UNIT}").exists
    assert not host.socket("tcp://0.0.0.0:9400").is_listening
    status, text = play("teardown.yml")
    assert status == 0
    assert re.search(r"ai102-mol-gpu-exporter : ok=\d+ changed=0 ", text)
