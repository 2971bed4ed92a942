# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What gpu_info puts together of the bus, nvidia-smi and the kernel log."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ai102.inference.plugins.modules import gpu_info

DATA = Path(__file__).resolve().parents[2] / "data" / "nvidia_smi"
BUS = [
    {"pci_id": f"0000:{number}:00.0", "device": "0x2330", "class": "0x030200", "kernel_driver": "nvidia"}
    for number in ("1b", "43", "52", "61", "9d", "c3", "d1", "df")
]
SWITCH = {"pci_id": "0000:05:00.0", "device": "0x22a3", "class": "0x068000", "kernel_driver": ""}


@pytest.fixture
def smi(tmp_path: Path) -> Path:
    """An nvidia-smi that answers for eight H100."""
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\n"
        f"case $1 in -q) cat '{DATA}/h100x8_driver570_v12.xml';; topo) cat '{DATA}/topology_h100x8.txt';; esac\n"
    )
    program.chmod(0o755)
    return program


def look(monkeypatch: pytest.MonkeyPatch, executable: Path | str, log: str | None, **simulated: Any) -> dict[str, Any]:
    monkeypatch.setattr(gpu_info, "pci_devices", lambda: [*BUS, SWITCH])
    monkeypatch.setattr(gpu_info, "kernel_log", lambda timeout: log)
    return gpu_info.look({"executable": str(executable), "timeout": 5}, simulated)


def test_eight_gpus_behind_switches(monkeypatch: pytest.MonkeyPatch, smi: Path) -> None:
    found = look(monkeypatch, smi, "")
    assert (found["state"], len(found["gpus"]), found["xids"]) == ("ok", 8, [])
    assert found["switches"] == [SWITCH]
    assert found["topology"]["7"]["0"] == "NV18"
    assert "/dev/nvidia7" in found["device_files"]


def test_a_serious_fault_of_the_kernel_log_is_a_problem(monkeypatch: pytest.MonkeyPatch, smi: Path) -> None:
    found = look(monkeypatch, smi, (DATA / "kernel_log.txt").read_text())
    assert found["state"] == "degraded"
    assert found["problems"] == ["the GPU at 0000:9d:00.0: it fell off the bus (XID 79, 2 times)"]
    assert [entry["xid"] for entry in found["xids"]] == [13, 63, 79]


def test_a_log_that_cannot_be_read_is_told_from_one_without_faults(monkeypatch: pytest.MonkeyPatch, smi: Path) -> None:
    assert look(monkeypatch, smi, None)["xids"] is None


def test_a_tool_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_command: str, timeout: int) -> tuple[int, str]:
        raise subprocess.TimeoutExpired("nvidia-smi", timeout)

    monkeypatch.setattr(gpu_info, "run", hang)
    found = look(monkeypatch, "nvidia-smi", "")
    assert (found["state"], found["problems"]) == ("degraded", ["nvidia-smi did not answer within 5 s"])


def test_simulated_facts_come_without_those_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    found = look(
        monkeypatch,
        "absent",
        (DATA / "kernel_log.txt").read_text(),
        pci=[{"pci_id": "0000:01:00.0", "device": "0x27b8"}],
        nvidia_smi={"output_file": str(DATA / "l4_driver550_v12.xml")},
    )
    assert [gpu["architecture"] for gpu in found["gpus"]] == ["Ada Lovelace"]
    assert (found["switches"], found["topology"], found["xids"], found["device_files"]) == ([], {}, [], {})


def test_programs(tmp_path: Path) -> None:
    assert gpu_info.run("there-is-no-such-program", timeout=1) == (127, "")
    assert gpu_info.run("sh", "-c", "echo out; echo err >&2; exit 3", timeout=5) == (3, "out\nerr\n")
