# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Several generations of nvidia-smi's output, and of none."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.ai102.inference.plugins.module_utils._gpu import (
    device_files,
    is_switch,
    normal_pci_id,
    parse_report,
    parse_topology,
    parse_xids,
    pci_devices,
    pci_gpus,
    xid_problems,
)

DATA = Path(__file__).resolve().parents[2] / "data" / "nvidia_smi"
H100 = ["1b", "43", "52", "61", "9d", "c3", "d1", "df"]


def read(name: str) -> str:
    return (DATA / name).read_text()


def bus(*numbers: str, driver: str = "nvidia") -> list[dict[str, str]]:
    return [{"pci_id": f"0000:{number}:00.0", "device": "0x2330", "kernel_driver": driver} for number in numbers]


def test_t4_old_schema() -> None:
    report = parse_report(read("t4_driver515_v11.xml"), pci=[{"pci_id": "0000:00:1e.0", "device": "0x1eb8"}])
    assert (report.state, report.driver, report.cuda) == ("ok", "515.105.01", "11.7")
    (gpu,) = report.gpus
    assert (gpu.name, gpu.architecture, gpu.memory_mib, gpu.pci_id) == ("Tesla T4", "Turing", 15360, "0000:00:1e.0")
    assert gpu.pci_device == "0x1eb8"
    assert (gpu.power_w, gpu.power_limit_w, gpu.temperature_c) == (26.31, 70.0, 36)
    assert gpu.memory_temperature_c is None
    assert (gpu.mig, gpu.ecc, gpu.persistence) == ("unsupported", "enabled", False)
    assert (gpu.pcie_generation, gpu.pcie_width) == (3, 8)


def test_l4() -> None:
    (gpu,) = parse_report(read("l4_driver550_v12.xml")).gpus
    assert (gpu.architecture, gpu.memory_mib, gpu.power_w) == ("Ada Lovelace", 23034, 16.42)
    assert gpu.healthy
    assert gpu.fabric == ""


def test_a100_with_mig() -> None:
    report = parse_report(read("a100_mig_driver535_v12.xml"))
    assert report.state == "ok"
    divided, waiting = report.gpus
    assert (divided.mig, divided.mig_devices) == ("enabled", 3)
    first = divided.mig_instances[0]
    assert (first.index, first.gpu_instance, first.compute_instance) == (0, 2, 0)
    assert (first.multiprocessors, first.memory_mib, first.memory_used_mib, first.ecc_uncorrected) == (42, 19968, 12, 0)
    assert waiting.mig_instances == []
    assert (waiting.mig, waiting.mig_pending, waiting.mig_devices) == ("disabled", "enabled", 0)
    # The card's memory, not that of one of its parts.
    assert divided.memory_mib == 40960
    assert divided.memory_temperature_c == 28


def test_eight_h100() -> None:
    report = parse_report(read("h100x8_driver570_v12.xml"), pci=bus(*H100))
    assert report.state == "ok"
    assert report.problems == []
    assert [gpu.index for gpu in report.gpus] == list(range(8))
    assert {gpu.fabric for gpu in report.gpus} == {"Completed"}
    assert len({gpu.uuid for gpu in report.gpus}) == 8
    assert sum(gpu.memory_mib or 0 for gpu in report.gpus) == 8 * 81559


def test_b200_new_schema() -> None:
    report = parse_report(read("b200x2_driver580_v13.xml"))
    assert (report.state, report.driver, report.cuda) == ("ok", "580.95.05", "13.0")
    gpu = report.gpus[0]
    assert (gpu.architecture, gpu.memory_mib, gpu.power_w, gpu.power_limit_w) == ("Blackwell", 183359, 141.2, 1000.0)
    assert gpu.ecc_uncorrected == 0


def test_faults_are_named() -> None:
    report = parse_report(read("h100x8_faults_driver570_v12.xml"), pci=bus(*H100))
    assert report.state == "degraded"
    assert [gpu.index for gpu in report.gpus if not gpu.healthy] == [1, 3, 5, 6]
    text = "\n".join(report.problems)
    assert "GPU 1 (0000:43:00.0): 3 uncorrected memory errors since the last reset" in text
    assert "GPU 1 (0000:43:00.0): row remapping is pending" in text
    assert "GPU 3 (0000:61:00.0): row remapping failed" in text
    assert "GPU 3 (0000:61:00.0): the driver asks for this recovery: Reset" in text
    assert "GPU 5 (0000:c3:00.0): slowed down by the hardware because it is too hot" in text
    assert "GPU 6 (0000:d1:00.0): the NVLink fabric is not ready (In Progress)" in text


def test_one_of_eight_has_fallen_off_the_bus() -> None:
    report = parse_report(read("h100x8_one_lost_driver570_v12.xml"), 255, bus(*H100))
    assert report.state == "degraded"
    assert len(report.gpus) == 7
    assert any("0000:9d:00.0 does not answer (Unknown Error)" in problem for problem in report.problems)
    assert any("0000:9d:00.0 is on the bus but the driver does not see it" in problem for problem in report.problems)


def test_the_only_one_has_fallen_off_the_bus() -> None:
    report = parse_report(read("lost.txt"), 255, bus("1b"))
    assert report.state == "degraded"
    assert "0000:1b:00.0 does not answer (GPU is lost" in report.problems[0]


def test_attached_but_silent_gpu_is_noticed_without_the_bus() -> None:
    text = read("h100x8_one_lost_driver570_v12.xml")
    report = parse_report(text[text.index("<?xml") :])
    assert report.problems == ["8 GPUs are attached but 7 answer"]


def test_gpu_of_a_virtual_machine_is_left_alone() -> None:
    report = parse_report(read("h100x8_driver570_v12.xml"), pci=bus(*H100) + bus("e1", driver="vfio-pci"))
    assert report.state == "ok"


@pytest.mark.parametrize("name", ["mismatch.txt", "mismatch_old.txt"])
def test_mismatch(name: str) -> None:
    report = parse_report(read(name), 18, bus("1b"))
    assert report.state == "mismatch"
    assert ("580.95" in report.problems[0]) == (name == "mismatch.txt")


@pytest.mark.parametrize(
    ("output", "code", "devices", "state"),
    [
        (None, 127, [], "none"),
        (None, 127, ["1b"], "no_driver"),
        ("no_driver.txt", 9, ["1b"], "no_driver"),
        ("no_driver.txt", 9, [], "none"),
        ("no_devices.txt", 6, [], "none"),
        ("no_devices.txt", 6, ["1b"], "no_driver"),
    ],
)
def test_none_and_no_driver(output: str | None, code: int, devices: list[str], state: str) -> None:
    report = parse_report(None if output is None else read(output), code, bus(*devices))
    assert report.state == state
    assert bool(report.problems) == (state != "none")
    assert report.gpus == []


def test_cut_and_unknown_answers_are_degraded() -> None:
    assert parse_report(read("l4_driver550_v12.xml")[:3000]).state == "degraded"
    assert parse_report("hello").state == "degraded"


def test_pci_ids() -> None:
    assert normal_pci_id("00000000:1B:00.0") == "0000:1b:00.0"
    assert normal_pci_id("0001:02:00.0") == "0001:02:00.0"


def test_bus_scan_takes_gpus_only(tmp_path: Path) -> None:
    for name, vendor, class_ in (
        ("0000:1b:00.0", "0x10de", "0x030200"),
        ("0000:05:00.0", "0x10de", "0x068000"),  # an NVSwitch
        ("0000:1b:00.1", "0x10de", "0x040300"),  # sound of a display card
        ("0000:02:00.0", "0x1a03", "0x030000"),  # the board's own display
    ):
        device = tmp_path / name
        device.mkdir()
        (device / "vendor").write_text(vendor + "\n")
        (device / "class").write_text(class_ + "\n")
        (device / "device").write_text("0x2330\n")
    assert pci_gpus(tmp_path) == [{"pci_id": "0000:1b:00.0", "device": "0x2330", "kernel_driver": ""}]
    assert pci_gpus(tmp_path / "absent") == []
    assert [device["pci_id"] for device in pci_devices(tmp_path) if is_switch(device)] == ["0000:05:00.0"]


def test_topology_of_eight() -> None:
    links = parse_topology(read("topology_h100x8.txt"))
    assert sorted(links) == [str(number) for number in range(8)]
    # Network cards are neither rows nor columns of it.
    assert links["0"] == {str(number): "NV18" for number in range(1, 8)}


def test_topology_underlined_and_absent() -> None:
    text = "\t\x1b[4mGPU0\tGPU1\tCPU Affinity\x1b[0m\nGPU0\t X \tSYS\t0-7\nGPU1\tSYS\t X \t8-15\n"
    assert parse_topology(text) == {"0": {"1": "SYS"}, "1": {"0": "SYS"}}
    assert parse_topology("Failed to initialize NVML: Driver/library version mismatch") == {}


def test_faults_of_the_kernel_log() -> None:
    xids = parse_xids(read("kernel_log.txt"))
    assert [(entry["pci_id"], entry["xid"], entry["count"], entry["serious"]) for entry in xids] == [
        ("0000:1b:00.0", 13, 1, False),  # a program's own mistake
        ("0000:43:00.0", 63, 1, False),  # the GPU says by itself that a reset is pending
        ("0000:9d:00.0", 79, 2, True),
    ]
    assert xids[2]["text"].endswith("GPU has fallen off the bus.")
    assert xid_problems(xids) == ["the GPU at 0000:9d:00.0: it fell off the bus (XID 79, 2 times)"]


def test_device_files(tmp_path: Path) -> None:
    (tmp_path / "nvidiactl").touch()
    (tmp_path / "nvidia0").touch()
    report = parse_report(read("a100_mig_driver535_v12.xml"))
    assert device_files(report.gpus, tmp_path) == {
        "/dev/nvidiactl": True,
        "/dev/nvidia-uvm": False,
        "/dev/nvidia0": True,
        "/dev/nvidia1": False,
        "/dev/nvidia-caps": False,
    }
