# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which driver and which ONNX Runtime a host gets, and what stands in the way, in one situation after another."""

from __future__ import annotations

import copy
import fnmatch
import itertools
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible_collections.ai102.inference.plugins.module_utils._driver_choice import (
    Judge,
    Options,
    Table,
    TableError,
    read_locks,
    upstream,
)
from ansible_collections.ai102.inference.plugins.module_utils._gpu import parse_report

ROOT = Path(__file__).resolve().parents[4]
FILES = ROOT / "roles/artifacts/files"
DATA = ROOT / "tests/unit/data/nvidia_smi"
DOCUMENT = yaml.safe_load((FILES / "gpu.yml").read_text())
TABLE = Table(DOCUMENT)
MONTH = "2026-11"
KERNEL = "6.1.0-37-amd64"
GIB = 2**30

# Versions of the locks change; what is compared here must not change with them.
SUMMARY = {
    "cpu": {"cp311": {"onnxruntime": "1.32.0"}},
    "gpu": {
        "cp310": {"onnxruntime": "1.23.2", "cuda": "12.9.79", "minimum_driver": 525},
        "cp311": {"onnxruntime": "1.31.1", "cuda": "13.5.37", "minimum_driver": 580},
    },
    "gpu_cuda12": {"cp311": {"onnxruntime": "1.26.0", "cuda": "12.9.79", "minimum_driver": 525}},
}

#: Debian 12 with its security updates, all components, one kernel with headers.
DEBIAN_12: dict[str, t.Any] = {
    "os": {"id": "debian", "codename": "bookworm", "version": "12"},
    "python": "3.11",
    "pci": [],
    "switches": [],
    "running_kernel": KERNEL,
    "next_kernel": KERNEL,
    "kernels": [
        {
            "release": KERNEL,
            "headers": True,
            "headers_package": f"linux-headers-{KERNEL}",
            "headers_meta": "linux-headers-amd64",
        }
    ],
    "dkms": [],
    "secure_boot": {"state": "disabled", "key": False, "enrolled": False},
    "modules": {"nouveau": False, "nvidia": None},
    "users": [],
    "packages": {f"linux-image-{KERNEL}": "6.1.140-1", "linux-headers-amd64": "6.1.140-1"},
    "held": [],
    "lists": True,
    "candidates": {
        **dict.fromkeys(
            ["nvidia-kernel-dkms", "libcuda1", "libnvidia-ml1", "nvidia-smi", "nvidia-modprobe"], "535.309.01-0+deb12u1"
        ),
        "nvidia-persistenced": "535.171.04-1~deb12u1",
        "linux-headers-amd64": "6.1.192-2",
    },
    "components": {
        "bookworm": ["contrib", "main", "non-free", "non-free-firmware"],
        "bookworm-security": ["main"],
    },
    "boot": {"path": "/boot", "free_bytes": GIB, "size_bytes": 2 * GIB, "initrd_bytes": 60_000_000},
    "disk": {"path": "/usr", "free_bytes": 50 * GIB, "size_bytes": 90 * GIB},
    "runfile": False,
    "simulated": [],
}

DEBIAN_13_CANDIDATES = dict.fromkeys(
    [
        "nvidia-kernel-dkms",
        "nvidia-open-kernel-dkms",
        "libcuda1",
        "libnvidia-ml1",
        "nvidia-smi",
        "nvidia-persistenced",
        "nvidia-modprobe",
    ],
    "550.163.01-2",
)

T4, L4, A100, H100, B200, V100, K80 = "0x1eb8", "0x27b8", "0x20b0", "0x2330", "0x2901", "0x1db4", "0x102d"


def host(*devices: str, smi: str | None = None, rc: int = 0, **changes: t.Any) -> dict[str, t.Any]:
    """Facts of a host with some GPUs, and what nvidia-smi says of them (a file of the recorded answers)."""
    facts = copy.deepcopy(DEBIAN_12)
    facts["pci"] = [
        {"pci_id": f"0000:{0x1B + number:02x}:00.0", "device": device, "class": "0x030200", "kernel_driver": ""}
        for number, device in enumerate(devices)
    ]
    output = (DATA / smi).read_text() if smi else None
    facts["gpu"] = parse_report(output, rc).to_dict() if smi else parse_report(None, pci=facts["pci"]).to_dict()
    facts.update(changes)
    return facts


def installed(version: str, package: str = "nvidia-kernel-dkms", *more: str) -> dict[str, str]:
    """Packages of a driver that is there."""
    return {**DEBIAN_12["packages"], package: version, **dict.fromkeys(more, version)}


DISTRIBUTION = installed(
    "535.309.01-0+deb12u1",
    "nvidia-kernel-dkms",
    "libcuda1",
    "libnvidia-ml1",
    "nvidia-smi",
    "nvidia-persistenced",
    "nvidia-modprobe",
)


class Verdict:
    """What the judge says of a host."""

    def __init__(self, facts: dict[str, t.Any], **options: t.Any) -> None:
        judge = Judge(TABLE, SUMMARY, facts, Options(**options), "gpu1", MONTH)
        self.result = judge.judge()
        self.checks = judge.checks

    def __getattr__(self, name: str) -> t.Any:
        return self.result[name]

    def status(self, name: str) -> str:
        """The worst of a name."""
        found = [check.status for check in self.checks if check.check == f"gpu.{name}"]
        return next((status for status in ("fail", "warn", "skip", "pass") if status in found), "absent")

    def text(self, name: str) -> str:
        """All that the checks of a name say."""
        return "\n".join(
            f"{check.expected} | {check.actual} | {check.hint}" for check in self.checks if check.check == f"gpu.{name}"
        )

    @property
    def failed(self) -> list[str]:
        """Names of what failed."""
        return sorted({check.check.removeprefix("gpu.") for check in self.checks if check.status == "fail"})


# ------------------------------------------------------------------------------------------------ recorded situations


@pytest.mark.parametrize(
    ("facts", "options", "expected"),
    [
        pytest.param(host(), {}, ("none", None, None, "cpu", []), id="none"),
        pytest.param(
            host(T4, smi="t4_driver515_v11.xml"),
            {},
            ("supported", "580", "open", "gpu", []),
            id="T4 with an old driver",
        ),
        pytest.param(
            host(A100, A100, smi="a100_mig_driver535_v12.xml", packages=DISTRIBUTION),
            {"source": "distribution"},
            ("supported", "535", "proprietary", "gpu_cuda12", []),
            id="A100 with MIG on Debian's driver",
        ),
        pytest.param(
            host(*[H100] * 8, smi="h100x8_driver570_v12.xml"),
            {"flavour": "gpu"},
            ("supported", "580", "open", "gpu", []),
            id="H100 8x with NVSwitch",
        ),
        pytest.param(host(L4), {}, ("supported", "580", "open", "gpu", []), id="L4 without a driver"),
        pytest.param(
            host(B200, B200, smi="b200x2_driver580_v13.xml"), {}, ("supported", "580", "open", "gpu", []), id="B200"
        ),
        pytest.param(
            host(H100, smi="lost.txt", rc=255), {}, ("supported", "580", "open", "gpu", []), id="fallen off the bus"
        ),
        pytest.param(
            host(H100, smi="mismatch.txt", rc=18, packages=installed("580.95.05-1", "nvidia-kernel-open-dkms")),
            {},
            ("supported", "580", "open", "gpu", []),
            id="driver and libraries differ",
        ),
        pytest.param(host(V100), {}, ("supported", "580", "proprietary", "gpu_cuda12", []), id="V100 knows no CUDA 13"),
        pytest.param(host(K80), {}, ("unsupported", None, None, "cpu", ["driver"]), id="K80 is too old"),
    ],
)
def test_situations(facts: dict[str, t.Any], options: dict[str, t.Any], expected: tuple[t.Any, ...]) -> None:
    verdict = Verdict(facts, **options)
    assert (
        verdict.state,
        verdict.branch,
        verdict.kernel_modules,
        verdict.onnxruntime_flavour,
        verdict.failed,
    ) == expected, [check.to_dict() for check in verdict.checks]


def test_nothing_is_installed_without_a_gpu() -> None:
    verdict = Verdict(host())
    assert (verdict.packages, verdict.change, verdict.reboot_required) == ([], "none", False)
    assert verdict.onnxruntime == "1.32.0"
    assert verdict.status("devices") == "skip"


def test_a_gpu_that_the_inventory_counts_on_must_be_there() -> None:
    assert Verdict(host(), gpus=1).failed == ["devices"]
    assert "1 × Hopper" in Verdict(host(H100), gpus=8).text("devices")
    assert Verdict(host(H100), gpus=8).failed == ["devices"]
    assert Verdict(host(), flavour="gpu").failed == ["onnxruntime"]


def test_nvswitch_needs_a_fabric_manager() -> None:
    switch = [{"pci_id": "0000:05:00.0", "device": "0x22a3", "class": "0x068000", "kernel_driver": ""}]
    # Known by its switches before there is a driver, by the fabric of its GPUs with one, by its number for Blackwell.
    for facts in (host(*[H100] * 8, switches=switch), host(*[H100] * 8, smi="h100x8_driver570_v12.xml")):
        verdict = Verdict(facts)
        assert verdict.fabric_manager
        assert verdict.fabric_manager_packages == ["nvidia-fabricmanager"]
        assert "nvidia-fabricmanager" in verdict.packages
    assert Verdict(host(B200)).fabric_manager_packages == ["nvidia-fabricmanager", "nvlsm"]
    assert not Verdict(host(H100)).fabric_manager
    verdict = Verdict(host(*[H100] * 8, switches=switch), source="distribution")
    assert verdict.failed == ["fabric_manager"]
    assert "nvidia_driver_source: nvidia" in verdict.text("fabric_manager")


def test_packages_of_nvidia_come_with_a_pin() -> None:
    verdict = Verdict(host(L4))
    assert verdict.pin_packages == ["nvidia-driver-pinning-580"]
    assert verdict.packages == [
        f"linux-headers-{KERNEL}",
        "linux-headers-amd64",
        "nvidia-kernel-open-dkms",
        "nvidia-driver-cuda",
        "nvidia-persistenced",
    ]
    assert Verdict(host(V100)).packages[2] == "nvidia-kernel-dkms"


def test_faults_are_told_but_do_not_stop() -> None:
    verdict = Verdict(host(H100, smi="lost.txt", rc=255, packages=DISTRIBUTION), source="distribution")
    assert verdict.status("state") == "warn"
    assert "fallen off the bus" in verdict.text("state")
    verdict = Verdict(host(H100, smi="mismatch.txt", rc=18, packages=DISTRIBUTION), source="distribution")
    assert "different versions" in verdict.text("state")
    assert "Restart the host" in verdict.text("state")
    assert verdict.reboot_required


# ----------------------------------------------------------------------------------------- pairs of driver and runtime


def test_debian_gets_the_older_pair_and_is_told_so() -> None:
    verdict = Verdict(host(T4), source="distribution")
    assert (verdict.branch, verdict.onnxruntime, verdict.minimum_driver) == ("535", "1.26.0", "525")
    assert verdict.candidate == "535.309.01-0+deb12u1"
    assert "the newest, 1.31.1, needs driver 580" in verdict.text("onnxruntime")
    assert "ended this branch since 2026-06" in verdict.text("driver")
    assert verdict.status("driver") == "warn"


def test_the_newest_lock_on_a_distributions_driver_is_refused_with_two_ways_out() -> None:
    verdict = Verdict(host(T4), source="distribution", flavour="gpu")
    assert (verdict.state, verdict.failed, verdict.packages) == ("unsupported", ["driver"], [])
    assert "onnxruntime-gpu 1.31.1 on CUDA 13.5.37 needs driver 580 or newer, not 535" in verdict.text("driver")
    assert "inference_server_flavour: gpu_cuda12" in verdict.text("driver")
    assert "nvidia_driver_source: nvidia" in verdict.text("driver")


def test_python_3_10_has_one_lock_for_both() -> None:
    verdict = Verdict(host(T4, python="3.10"), source="distribution", flavour="gpu")
    assert (verdict.branch, verdict.onnxruntime) == ("535", "1.23.2")


def test_a_python_without_a_lock_is_said() -> None:
    verdict = Verdict(host(T4, python="3.9"))
    assert "there is no lock auto for Python 3.9" in verdict.text("driver")


def test_cpu_flavour_takes_any_driver() -> None:
    verdict = Verdict(host(T4), source="distribution", flavour="cpu")
    assert (verdict.onnxruntime_flavour, verdict.branch, verdict.failed) == ("cpu", "535", [])


def test_blackwell_wants_open_modules_and_a_new_driver() -> None:
    verdict = Verdict(host(B200), kernel_modules="proprietary")
    assert verdict.state == "unsupported"
    assert "the GPUs need open ones, proprietary ones are asked for" in verdict.text("driver")
    verdict = Verdict(host("0x2b85"), source="distribution")
    assert "Blackwell GPUs need driver 570 or newer, not 535" in verdict.text("driver")


def test_generations_that_exclude_each_other() -> None:
    verdict = Verdict(host(V100, "0x2b85"))
    assert verdict.state == "unsupported"
    assert "need open ones and proprietary ones" in verdict.text("driver")


def test_an_old_generation_keeps_a_new_branch_away() -> None:
    verdict = Verdict(host(V100), branch="595", flavour="gpu_cuda12")
    assert "Volta GPUs are driven up to 580, not by 595" in verdict.text("driver")
    assert "CUDA 13 knows no Volta GPUs any more" in Verdict(host(V100), flavour="gpu").text("driver")


@pytest.mark.parametrize(("branch", "message"), [("123", "not in the compatibility table"), ("new", "is a number")])
def test_a_branch_that_there_is_not(branch: str, message: str) -> None:
    verdict = Verdict(host(T4), branch=branch)
    assert verdict.failed == ["driver"]
    assert message in verdict.text("driver")


def test_a_branch_that_is_asked_for() -> None:
    assert Verdict(host(H100), branch="595").pin_packages == ["nvidia-driver-pinning-595"]


def test_a_kernel_that_is_too_old() -> None:
    verdict = Verdict(host(T4, next_kernel="4.9.0-19-amd64"))
    assert "driver 580 needs kernel 4.15 or newer, not 4.9.0-19-amd64" in verdict.text("driver")


def test_a_release_nobody_knows() -> None:
    facts = host(T4, os={"id": "arch", "codename": "", "version": ""})
    assert Verdict(facts).failed == ["driver"]
    assert "none are known for arch" in Verdict(facts).text("driver")
    assert Verdict(facts, branch="580").state == "unsupported"
    unknown = host(T4, os={"id": "debian", "codename": "sid", "version": ""})
    assert Verdict(unknown, source="distribution").failed == ["driver"]


def test_a_gpu_newer_than_the_table_is_tried_with_a_warning() -> None:
    verdict = Verdict(host("0x3f00"))
    assert (verdict.status("devices"), verdict.kernel_modules) == ("warn", "open")
    assert "newer than the compatibility table" in verdict.text("devices")


def test_a_gpu_older_than_the_table_is_refused() -> None:
    assert Verdict(host("0x0190")).status("devices") == "fail"


# --------------------------------------------------------------------------------------- what stands in the way: change


def test_secure_boot_without_an_enrolled_key() -> None:
    state = {"state": "enabled", "key": True, "enrolled": False}
    verdict = Verdict(host(T4, secure_boot=state))
    assert verdict.failed == ["secure_boot"]
    assert "nvidia_driver_secure_boot: enrol" in verdict.text("secure_boot")
    verdict = Verdict(host(T4, secure_boot=state), enrol_key=True)
    assert (verdict.failed, verdict.enrol_key, verdict.reboot_required) == ([], True, True)
    assert "confirm it on the host's console" in verdict.text("secure_boot")
    assert Verdict(host(T4, secure_boot={**state, "enrolled": True})).status("secure_boot") == "pass"
    assert "there is no signing key yet" in Verdict(host(T4, secure_boot={**state, "key": False})).text("secure_boot")


def test_secure_boot_does_not_trouble_a_driver_that_runs() -> None:
    facts = host(
        A100,
        A100,
        smi="a100_mig_driver535_v12.xml",
        packages=DISTRIBUTION,
        secure_boot={"state": "enabled", "key": False, "enrolled": False},
    )
    assert Verdict(facts, source="distribution").failed == []


def kernel(release: str, headers: bool) -> dict[str, t.Any]:
    return {
        "release": release,
        "headers": headers,
        "headers_package": f"linux-headers-{release}",
        "headers_meta": "linux-headers-amd64",
    }


def test_headers_that_are_not_there_and_cannot_be_had() -> None:
    verdict = Verdict(host(T4, kernels=[kernel(KERNEL, False)]))
    assert verdict.failed == ["headers"]
    assert f"no package source has linux-headers-{KERNEL}" in verdict.text("headers")
    assert "start the host with it" in verdict.text("headers")
    assert f"linux-headers-{KERNEL}" not in verdict.packages


def test_headers_that_can_be_had() -> None:
    candidates = {**DEBIAN_12["candidates"], f"linux-headers-{KERNEL}": "6.1.140-1"}
    verdict = Verdict(host(T4, kernels=[kernel(KERNEL, False)], candidates=candidates))
    assert (verdict.failed, verdict.packages[0]) == ([], f"linux-headers-{KERNEL}")
    assert verdict.kernels[0]["headers_available"] is True


def test_an_old_kernel_without_headers_is_left_out_with_a_warning() -> None:
    old = "6.1.0-9-amd64"
    verdict = Verdict(host(T4, kernels=[kernel(old, False), kernel(KERNEL, True)]))
    assert (verdict.failed, verdict.status("headers")) == ([], "warn")
    assert f"apt-get purge linux-image-{old}" in verdict.text("headers")


def test_the_running_kernel_without_headers_needs_a_restart() -> None:
    old = "6.1.0-9-amd64"
    facts = host(T4, kernels=[kernel(old, False), kernel(KERNEL, True)], running_kernel=old)
    assert Verdict(facts).failed == ["headers"]
    verdict = Verdict(facts, reboot="when_needed")
    assert (verdict.failed, verdict.reboot_required) == ([], True)


def test_a_fresh_host_does_not_know_its_packages_yet() -> None:
    verdict = Verdict(host(T4, kernels=[kernel(KERNEL, False)], lists=False, candidates={}), source="distribution")
    assert verdict.failed == []
    assert (verdict.status("headers"), verdict.status("packages")) == ("warn", "warn")
    assert verdict.kernels[0]["headers_available"] is None
    assert f"linux-headers-{KERNEL}" in verdict.packages


def test_no_kernel_at_all() -> None:
    facts = host(T4, kernels=[], next_kernel=None)
    assert Verdict(facts).failed == ["kernel"]
    # A container whose machine has a driver.
    verdict = Verdict({**facts, "gpu": parse_report((DATA / "a100_mig_driver535_v12.xml").read_text()).to_dict()})
    assert (verdict.failed, verdict.change, verdict.packages) == ([], "none", [])
    assert (verdict.branch, verdict.onnxruntime_flavour) == ("535", "gpu_cuda12"), "what is there counts"


def test_a_driver_that_answers_needs_neither_headers_nor_a_restart() -> None:
    facts = host(
        A100, smi="a100_mig_driver535_v12.xml", packages=DISTRIBUTION, kernels=[kernel(KERNEL, False)],
        dkms=[{"name": "nvidia-current", "version": "535.309.01", "kernel": KERNEL, "state": "installed"}],
    )  # fmt: skip
    verdict = Verdict(facts, source="distribution")
    assert (verdict.change, verdict.failed, verdict.reboot_required) == ("none", [], False)
    assert "is built for it already" in verdict.text("headers")
    # The kernel that runs was taken away, as autoremove does after an upgrade.
    facts["running_kernel"] = "6.1.0-9-amd64"
    assert not Verdict(facts, source="distribution").reboot_required
    # Without the modules for the next kernel the driver would be gone after a restart.
    facts["dkms"] = []
    assert Verdict(facts, source="distribution").failed == ["headers"]


def test_a_missing_component() -> None:
    # Security has it, the release itself does not: half of the packages would be missing.
    components = {"bookworm": ["main", "contrib"], "bookworm-security": ["main", "contrib", "non-free"]}
    verdict = Verdict(host(T4, components=components), source="distribution")
    assert verdict.failed == ["components"]
    assert "without non-free, non-free-firmware" in verdict.text("components")
    assert Verdict(host(T4, components=components)).failed == [], "NVIDIA's packages need none of them"


def test_held_packages() -> None:
    verdict = Verdict(host(T4, held=["libcuda1", "vim"]), source="distribution")
    assert verdict.failed == ["held"]
    assert "apt-mark unhold libcuda1" in verdict.text("held")
    assert "vim" not in verdict.text("held")
    assert Verdict(host(T4, held=["libcuda1"]), source="distribution", own_holds=("libcuda1",)).failed == []
    nothing = host(T4, held=["libcuda1"], packages=DISTRIBUTION)
    assert Verdict(nothing, source="distribution").failed == [], "what does not change may be held"


def test_a_full_boot_and_a_full_disk() -> None:
    boot = {**DEBIAN_12["boot"], "free_bytes": 200_000_000}
    verdict = Verdict(host(T4, boot=boot))
    assert verdict.failed == ["boot"]
    assert "autoremove --purge" in verdict.text("boot")
    assert Verdict(host(T4, boot={**boot, "initrd_bytes": 20_000_000})).failed == []
    assert Verdict(host(T4, disk={**DEBIAN_12["disk"], "free_bytes": GIB})).failed == ["disk"]


def test_nouveau() -> None:
    facts = host(T4, modules={"nouveau": True, "nvidia": None})
    verdict = Verdict(facts)
    assert verdict.failed == ["nouveau"]
    assert "nvidia_driver_reboot: when_needed" in verdict.text("nouveau")
    verdict = Verdict(facts, reboot="when_needed")
    assert (verdict.failed, verdict.status("nouveau"), verdict.reboot_required) == ([], "warn", True)


def test_gpus_in_use_at_an_upgrade() -> None:
    users = [
        {"pid": 12, "command": "python3", "unit": "jupyter.service"},
        {"pid": 13, "command": "ai102-server", "unit": "ai102-inference-server.service"},
    ]
    facts = host(
        H100, smi="b200x2_driver580_v13.xml", packages=installed("580.95.05-1"), users=users,
        modules={"nouveau": False, "nvidia": "580.95.05"},
    )  # fmt: skip
    verdict = Verdict(facts, branch="595", reboot="when_needed")
    assert (verdict.change, verdict.failed) == ("upgrade", ["in_use"])
    assert "python3 (jupyter.service, pid 12)" in verdict.text("in_use")
    assert "ai102-server" not in verdict.text("in_use"), "the caller stops its own"
    verdict = Verdict(facts, branch="595", reboot="when_needed", allow_in_use=True)
    assert (verdict.failed, verdict.status("in_use")) == ([], "warn")


def test_an_upgrade_under_a_loaded_driver_needs_leave_to_restart() -> None:
    facts = host(
        H100, smi="b200x2_driver580_v13.xml", packages=installed("580.95.05-1"),
        modules={"nouveau": False, "nvidia": "580.95.05"},
    )  # fmt: skip
    verdict = Verdict(facts, branch="595")
    assert (verdict.failed, verdict.reboot_required) == (["reboot"], True)
    assert Verdict(facts, branch="595", reboot="when_needed").failed == []


def test_a_build_that_was_seen_to_fail() -> None:
    facts = host(
        H100,
        os={"id": "debian", "codename": "trixie", "version": "13"},
        next_kernel="6.12.117+deb13-amd64",
        running_kernel="6.12.117+deb13-amd64",
        kernels=[kernel("6.12.117+deb13-amd64", True)],
        candidates=DEBIAN_13_CANDIDATES,
        components={"trixie": ["contrib", "main", "non-free", "non-free-firmware"]},
        python="3.11",
    )
    verdict = Verdict(facts, source="distribution")
    assert (verdict.branch, verdict.kernel_modules, verdict.failed) == ("550", "open", [])
    assert verdict.status("build") == "warn"
    assert "was seen to fail from 6.12.107 on" in verdict.text("build")
    # The number of the release may say less than the package's version.
    facts.update(next_kernel=KERNEL, running_kernel=KERNEL, kernels=[kernel(KERNEL, True)])
    assert Verdict(facts, source="distribution").status("build") == "absent"
    facts["packages"] = {f"linux-image-{KERNEL}": "6.12.110-1"}
    assert Verdict(facts, source="distribution").status("build") == "warn"


def test_packages_that_no_source_has() -> None:
    candidates = {name: version for name, version in DEBIAN_12["candidates"].items() if name != "nvidia-smi"}
    verdict = Verdict(host(T4, candidates=candidates), source="distribution")
    assert verdict.failed == ["packages"]
    assert "no package source has nvidia-smi" in verdict.text("packages")


def test_packages_of_another_source_in_front() -> None:
    candidates = {**DEBIAN_12["candidates"], "nvidia-kernel-dkms": "595.71.05-1"}
    verdict = Verdict(host(T4, candidates=candidates), source="distribution")
    assert verdict.failed == ["packages"]
    assert "apt-cache policy nvidia-kernel-dkms" in verdict.text("packages")


def test_packages_of_nvidia_that_are_there_in_part() -> None:
    candidates = {"nvidia-kernel-open-dkms": "580.95.05-1", "nvidia-persistenced": "580.95.05-1"}
    verdict = Verdict(host(T4, candidates=candidates))
    assert verdict.failed == ["packages"]
    assert "no package source has nvidia-driver-cuda" in verdict.text("packages")
    assert verdict.candidate == "580.95.05-1"


def test_packages_of_debian_are_not_taken_for_those_of_nvidia() -> None:
    verdict = Verdict(host(V100))
    assert "set up when the driver is installed" in verdict.text("packages")
    assert verdict.candidate is None


def test_a_driver_of_the_runfile() -> None:
    verdict = Verdict(host(T4, runfile=True))
    assert verdict.failed == ["packages"]
    assert "nvidia-uninstall" in verdict.text("packages")


@pytest.mark.parametrize(
    ("packages", "options", "change"),
    [
        (DEBIAN_12["packages"], {}, "install"),
        (DISTRIBUTION, {}, "none"),
        (installed("470.256.02-1"), {}, "upgrade"),
        (installed("595.71.05-1"), {}, "downgrade"),
        (installed("535.309.01-0+deb12u1"), {}, "switch"),
        (installed("535.261.03-1", "nvidia-open-kernel-dkms"), {}, "switch"),
    ],
)
def test_what_is_done_with_the_driver(packages: dict[str, str], options: dict[str, t.Any], change: str) -> None:
    verdict = Verdict(host(T4, packages=packages), source="distribution", **options)
    assert verdict.change == change
    assert (verdict.installed is None) == (change == "install")


def test_what_is_installed_is_told() -> None:
    verdict = Verdict(host(T4, packages=installed("1:580.95.05-1", "nvidia-kernel-open-dkms", "libcuda1")))
    assert verdict.installed == {
        "version": "580.95.05",
        "branch": "580",
        "kernel_modules": "open",
        "packages": {"nvidia-kernel-open-dkms": "1:580.95.05-1", "libcuda1": "1:580.95.05-1"},
    }
    assert upstream("535.309.01-0+deb12u1") == "535.309.01"


# ------------------------------------------------------------------------------------ drivers that others installed


def test_a_provided_driver_is_only_compared() -> None:
    facts = host(A100, A100, smi="a100_mig_driver535_v12.xml", packages={}, kernels=[kernel(KERNEL, False)])
    verdict = Verdict(facts, source="provided")
    assert (verdict.branch, verdict.onnxruntime_flavour, verdict.failed) == ("535", "gpu_cuda12", [])
    assert (verdict.packages, verdict.change) == ([], "none")
    verdict = Verdict(facts, source="provided", flavour="gpu")
    assert verdict.failed == ["driver"]
    assert "needs driver 580 or newer, not 535" in verdict.text("driver")
    assert "ai102_gpu_driver: managed" in verdict.text("driver")
    assert "inference_server_flavour: gpu_cuda12" in verdict.text("driver")


def test_no_driver_is_provided() -> None:
    verdict = Verdict(host(T4), source="provided")
    assert (verdict.state, verdict.failed) == ("unsupported", ["driver"])
    assert "no driver is installed" in verdict.text("driver")


def test_a_provided_driver_need_not_stand_in_the_table() -> None:
    facts = host(T4, packages=installed("590.48.01-1", "nvidia-kernel-open-dkms"))
    assert (Verdict(facts, source="provided").branch, Verdict(facts, source="provided").failed) == ("590", [])


# ---------------------------------------------------------------------------------------------------------- the table


def test_device_numbers_belong_to_one_generation() -> None:
    ranges = sorted((first, last) for generation in TABLE.generations for first, last in generation.ranges)
    assert all(first <= last for first, last in ranges)
    assert all(before[1] < after[0] for before, after in itertools.pairwise(ranges))


@pytest.mark.parametrize(
    ("device", "generation"),
    [(K80, "kepler"), ("0x13f2", "maxwell"), ("0x15f8", "pascal"), (V100, "volta"), (T4, "turing"), (A100, "ampere"),
     ("0x2236", "ampere"), ("0x25b6", "ampere"), (L4, "ada"), ("0x26b9", "ada"), (H100, "hopper"), ("0x2335", "hopper"),
     (B200, "blackwell"), ("0x2bb5", "blackwell"), ("0x3182", "blackwell")],
)  # fmt: skip
def test_well_known_devices(device: str, generation: str) -> None:
    found = TABLE.generation_of(device)
    assert found is not None
    assert found.name == generation


def test_every_branch_that_is_offered_is_known() -> None:
    offered = {
        str(number)
        for entry in (*DOCUMENT["packages"]["nvidia"].values(), *DOCUMENT["packages"]["distribution"].values())
        for holder in (entry, *entry.get("releases", {}).values())
        for number in holder.get("branches", ())
    }
    assert offered <= set(DOCUMENT["branches"])
    assert all(source.startswith("https://") for source in DOCUMENT["sources"].values())
    assert all("{" not in name for name in TABLE.every_name())
    assert {"nvidia-dkms-580-server-open", "nvidia-driver-pinning-580", "nvlsm"} <= set(TABLE.every_name())


def test_the_container_toolkit_is_no_driver() -> None:
    for name in ("nvidia-container-toolkit", "libnvidia-container1", "libnvidia-container-tools"):
        assert not any(fnmatch.fnmatchcase(name, pattern) for pattern in TABLE.known)


@pytest.mark.parametrize(
    "change", [{"schema": 2}, {"branches": None}, {"generations": {"x": {}}}, {"packages": {"known": []}}]
)
def test_a_table_that_is_not_complete_is_refused(change: dict[str, t.Any]) -> None:
    with pytest.raises(TableError, match="compatibility table"):
        Table({**DOCUMENT, **change})


def test_the_locks_of_the_role_fit_the_table() -> None:
    summary = yaml.safe_load((FILES / "python/summary.yml").read_text())
    for python in ("3.10", "3.11", "3.12", "3.13"):
        locks = read_locks(summary, python)
        assert set(locks) == {"gpu", "gpu_cuda12"}
        for lock in locks.values():
            assert any(number >= lock.minimum_driver for number in TABLE.branches)
