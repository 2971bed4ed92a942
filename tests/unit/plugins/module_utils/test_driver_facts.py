# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host says of kernels, headers, Secure Boot, packages and who uses its GPUs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ai102.inference.plugins.module_utils import _driver_facts as df

KERNELS = ["6.1.0-9-amd64", "6.1.0-37-amd64", "6.1.0-37-cloud-amd64"]
GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
SHIM = "605dab50-e046-4300-abb6-3dd810dd8b23"


def put(path: Path, content: str | bytes = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_kernels_stand_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in (
        "vmlinuz-6.1.0-37-amd64",
        "vmlinuz-6.1.0-9-amd64",
        "vmlinuz-5.10.0-30-amd64.old",
        "initrd.img-6.1.0-9",
    ):
        put(tmp_path / "boot" / name)
    assert df.installed_kernels(tmp_path) == ["6.1.0-9-amd64", "6.1.0-37-amd64"]
    assert df.installed_kernels(tmp_path / "absent") == []


@pytest.mark.parametrize(
    ("default", "environment", "expected"),
    [
        ("", "", "6.1.0-37-cloud-amd64"),
        ("GRUB_DEFAULT=0\n", "", "6.1.0-37-cloud-amd64"),
        ('GRUB_DEFAULT="Advanced options for Debian>Debian, with Linux 6.1.0-37-amd64"\n', "", "6.1.0-37-amd64"),
        ("GRUB_DEFAULT=gnulinux-6.1.0-37-cloud-amd64-advanced-1\n", "", "6.1.0-37-cloud-amd64"),
        ("GRUB_DEFAULT=saved\n", "saved_entry=gnulinux-6.1.0-9-amd64-advanced-1\n", "6.1.0-9-amd64"),
        # A saved entry without GRUB_DEFAULT=saved means nothing, one for the next start alone always does.
        ("GRUB_DEFAULT=0\n", "saved_entry=gnulinux-6.1.0-9-amd64-advanced-1\n", "6.1.0-37-cloud-amd64"),
        ("GRUB_DEFAULT=0\n", "next_entry=gnulinux-6.1.0-9-amd64-advanced-1\n", "6.1.0-9-amd64"),
    ],
)
def test_the_kernel_that_starts_next(tmp_path: Path, default: str, environment: str, expected: str) -> None:
    put(tmp_path / "etc/default/grub", default)
    put(tmp_path / "boot/grub/grubenv", "# GRUB Environment Block\n" + environment + "######")
    assert df.next_kernel(KERNELS, tmp_path) == expected
    assert df.next_kernel([], tmp_path) is None


def test_headers_are_a_complete_directory(tmp_path: Path) -> None:
    release = "6.1.0-37-amd64"
    assert not df.has_headers(release, tmp_path)
    build = tmp_path / "lib/modules" / release / "build"
    build.parent.mkdir(parents=True)
    build.symlink_to(f"/usr/src/linux-headers-{release}")
    assert not df.has_headers(release, tmp_path), "the link leads nowhere: the package is gone"
    put(tmp_path / f"usr/src/linux-headers-{release}/Makefile")
    assert df.has_headers(release, tmp_path)


@pytest.mark.parametrize(
    ("release", "os_id", "expected"),
    [
        ("6.1.0-37-amd64", "debian", "linux-headers-amd64"),
        ("6.1.0-37-cloud-amd64", "debian", "linux-headers-cloud-amd64"),
        ("6.12.117+deb13-amd64", "debian", "linux-headers-amd64"),
        ("6.12.74+deb13+1-cloud-amd64", "debian", "linux-headers-cloud-amd64"),
        ("6.8.0-45-generic", "ubuntu", "linux-headers-generic"),
        ("6.9.1", "debian", "linux-headers-amd64"),
    ],
)
def test_headers_of_later_kernels(release: str, os_id: str, expected: str) -> None:
    assert df.headers_meta(release, os_id) == expected


def test_dkms_in_both_spellings() -> None:
    text = (
        "nvidia-current/535.309.01, 6.1.0-37-amd64, x86_64: installed\n"
        "nvidia, 550.163.01, 6.12.107, x86_64: built (WARNING! Diff between built and installed module!)\n"
        "nvidia-current/550.163.01: added\n"
        "zfs/2.1.11, 6.1.0-37-amd64, x86_64: installed\n"
    )
    assert df.parse_dkms_status(text) == [
        {"name": "nvidia-current", "version": "535.309.01", "kernel": "6.1.0-37-amd64", "state": "installed"},
        {"name": "nvidia", "version": "550.163.01", "kernel": "6.12.107", "state": "built"},
        {"name": "nvidia-current", "version": "550.163.01", "kernel": "", "state": "added"},
    ]


def test_loaded_modules(tmp_path: Path) -> None:
    assert df.kernel_modules(tmp_path) == {"nouveau": False, "nvidia": None}
    put(tmp_path / "sys/module/nvidia/version", "580.95.05\n")
    (tmp_path / "sys/module/nouveau").mkdir()
    assert df.kernel_modules(tmp_path) == {"nouveau": True, "nvidia": "580.95.05"}


def test_secure_boot(tmp_path: Path) -> None:
    assert df.secure_boot(tmp_path) == {"state": "unsupported", "key": False, "enrolled": False}
    variables = tmp_path / "sys/firmware/efi/efivars"
    state = put(variables / f"SecureBoot-{GLOBAL}", b"\x06\x00\x00\x00\x00")
    assert df.secure_boot(tmp_path)["state"] == "disabled"
    state.write_bytes(b"\x06\x00\x00\x00\x01")
    assert df.secure_boot(tmp_path) == {"state": "enabled", "key": False, "enrolled": False}
    put(tmp_path / "var/lib/dkms/mok.pub", b"\x30\x82certificate")
    put(variables / f"MokListRT-{SHIM}", b"\x07\x00\x00\x00another certificate")
    assert df.secure_boot(tmp_path) == {"state": "enabled", "key": True, "enrolled": False}
    put(variables / f"MokListRT-{SHIM}", b"\x07\x00\x00\x00xx\x30\x82certificatexx")
    assert df.secure_boot(tmp_path) == {"state": "enabled", "key": True, "enrolled": True}


def test_processes_that_use_a_gpu(tmp_path: Path) -> None:
    for pid, target, unit in ((7, "/dev/null", "cron.service"), (12, "/dev/nvidia0", "jupyter.service"),
                              (130, "/dev/nvidia-uvm", "ai102-inference-server.service")):  # fmt: skip
        descriptors = tmp_path / "proc" / str(pid) / "fd"
        descriptors.mkdir(parents=True)
        os.symlink(target, descriptors / "3")
        put(tmp_path / "proc" / str(pid) / "comm", "python3\n")
        put(tmp_path / "proc" / str(pid) / "cgroup", f"0::/system.slice/{unit}\n")
    assert df.gpu_users(tmp_path) == [
        {"pid": 12, "command": "python3", "unit": "jupyter.service"},
        {"pid": 130, "command": "python3", "unit": "ai102-inference-server.service"},
    ]


def test_packages_and_holds() -> None:
    listing = (
        "ii |nvidia-kernel-dkms|535.309.01-0+deb12u1\n"
        "hi |libcuda1|535.309.01-0+deb12u1\n"
        "rc |nvidia-smi|535.261.03-1\n"
        "hi |vim|2:9.0\n"
        "un |broken|\n"
    )
    installed, held = df.parse_packages(listing, ["nvidia-*", "libcuda1"])
    assert installed == {"nvidia-kernel-dkms": "535.309.01-0+deb12u1", "libcuda1": "535.309.01-0+deb12u1"}
    assert held == ["libcuda1", "vim"]


def test_candidates() -> None:
    text = (
        "nvidia-kernel-dkms:\n  Installed: (none)\n  Candidate: 535.309.01-0+deb12u1\n  Version table:\n"
        "     535.309.01-0+deb12u1 500\n        500 http://deb.example/ bookworm/non-free amd64 Packages\n"
        "nvidia-kernel-open-dkms:\n  Installed: (none)\n  Candidate: (none)\n  Version table:\n"
    )
    assert df.parse_policy(text) == {"nvidia-kernel-dkms": "535.309.01-0+deb12u1", "nvidia-kernel-open-dkms": None}


def test_components_of_both_kinds_of_source(tmp_path: Path) -> None:
    put(tmp_path / "etc/apt/sources.list", "deb http://deb.example/debian bookworm main contrib # non-free\n")
    put(
        tmp_path / "etc/apt/sources.list.d/more.sources",
        "Types: deb\nURIs: http://deb.example/debian\nSuites: bookworm bookworm-updates\n"
        "Components: non-free-firmware\n",
    )
    put(tmp_path / "etc/apt/sources.list.d/old.list.save", "deb http://deb.example/debian bookworm non-free\n")
    assert df.apt_components(tmp_path) == {
        "bookworm": ["contrib", "main", "non-free-firmware"],
        "bookworm-updates": ["non-free-firmware"],
    }


def test_simulated_facts(tmp_path: Path) -> None:
    assert df.read_simulation(None) == {} == df.read_simulation("")
    path = put(tmp_path / "facts.json", json.dumps({"pci": [{"pci_id": "0000:01:00.0", "device": "0x2330"}]}))
    assert df.read_simulation(str(path))["pci"][0]["device"] == "0x2330"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json", "no JSON"),
        ("[]", "must be an object"),
        ('{"nvidia-smi": null}', "did you mean 'nvidia_smi'"),
        ('{"pci": {}}', "pci must be list"),
        ('{"pci": [{"device": "0x2330"}]}', "needs pci_id and device"),
    ],
)
def test_wrong_simulated_facts_are_refused(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        df.read_simulation(str(put(tmp_path / "facts.json", content)))


def test_names_of_a_record(tmp_path: Path) -> None:
    assert df.read_names(None) == [] == df.read_names(str(tmp_path / "absent"))
    assert df.read_names(str(put(tmp_path / "held.json", '["libcuda1"]'))) == ["libcuda1"]
    with pytest.raises(ValueError, match="list of names"):
        df.read_names(str(put(tmp_path / "held.json", "{}")))


def programs(answers: dict[str, tuple[int, str]]) -> Any:
    """Programs of which some are there."""

    def run(*command: str, timeout: int = 60) -> tuple[int, str]:
        return answers.get(command[0], (127, ""))

    return run


def test_everything_of_a_host_without_gpus(tmp_path: Path) -> None:
    put(tmp_path / "etc/os-release", 'ID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\n')
    put(tmp_path / "boot/vmlinuz-6.1.0-37-amd64")
    put(tmp_path / "boot/initrd.img-6.1.0-37-amd64", b"x" * 1000)
    put(tmp_path / "usr/bin/nvidia-uninstall")
    facts = df.gather(
        programs({"dpkg-query": (0, "ii |nvidia-smi|535.309.01-1\nii |linux-image-6.1.0-37-amd64|6.1.140-1\n")}),
        patterns=["nvidia-*"],
        names=["nvidia-kernel-dkms"],
        executable="nvidia-smi",
        timeout=5,
        simulated={},
        root=tmp_path,
    )
    assert facts["os"] == {"id": "debian", "codename": "bookworm", "version": "12"}
    assert (facts["pci"], facts["switches"], facts["gpu"]["state"]) == ([], [], "none")
    assert facts["kernels"] == [
        {
            "release": "6.1.0-37-amd64",
            "headers": False,
            "headers_package": "linux-headers-6.1.0-37-amd64",
            "headers_meta": "linux-headers-amd64",
        }
    ]
    assert facts["next_kernel"] == "6.1.0-37-amd64"
    assert facts["packages"] == {"nvidia-smi": "535.309.01-1", "linux-image-6.1.0-37-amd64": "6.1.140-1"}
    assert (facts["lists"], facts["candidates"]) == (False, {}), "apt is not asked before it has lists"
    assert facts["boot"]["initrd_bytes"] == 1000
    assert facts["runfile"] is True


def test_simulated_facts_replace_hardware_and_nothing_else(tmp_path: Path) -> None:
    put(tmp_path / "var/lib/apt/lists/deb.example_Packages")
    smi = put(tmp_path / "smi.txt", "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.")
    facts = df.gather(
        programs({"apt-cache": (0, "nvidia-kernel-dkms:\n  Candidate: 535.309.01-1\n")}),
        patterns=[],
        names=["nvidia-kernel-dkms"],
        executable="nvidia-smi",
        timeout=5,
        simulated={
            "pci": [
                {"pci_id": "0000:1b:00.0", "device": "0x2330"},
                {"pci_id": "0000:05:00.0", "device": "0x22A3", "class": "0x068000"},
            ],
            "nvidia_smi": {"rc": 9, "output_file": str(smi)},
            "secure_boot": {"state": "enabled"},
            "modules": {"nouveau": True},
            "users": [{"pid": 1, "command": "x", "unit": "y.service"}],
            "running_kernel": "6.1.0-37-amd64",
        },
        root=tmp_path,
    )
    assert [gpu["device"] for gpu in facts["pci"]] == ["0x2330"]
    assert [switch["device"] for switch in facts["switches"]] == ["0x22a3"]
    assert facts["gpu"]["state"] == "no_driver"
    assert facts["secure_boot"] == {"state": "enabled", "key": False, "enrolled": False}
    assert facts["modules"] == {"nouveau": True, "nvidia": None}
    assert facts["users"][0]["unit"] == "y.service"
    assert facts["running_kernel"] == "6.1.0-37-amd64"
    assert facts["candidates"] == {"nvidia-kernel-dkms": "535.309.01-1"}
