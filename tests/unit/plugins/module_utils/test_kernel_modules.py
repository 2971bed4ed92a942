# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether every kernel has a driver's modules, from files and outputs as Debian writes them."""

from __future__ import annotations

import gzip
import lzma
import struct
import typing as t
from pathlib import Path

import pytest
from ansible_collections.ai102.inference.plugins.module_utils._kernel_modules import (
    Kernel,
    KernelModule,
    ModuleFileError,
    find_module,
    first_errors,
    installed_kernels,
    judge,
    parse_dkms,
    parse_modinfo,
    read_module,
    split_signature,
)

# Of the module that Debian 12 builds.
MODINFO = """\
filename:       /lib/modules/6.1.0-56-amd64/updates/dkms/nvidia-current.ko
alias:          char-major-195-*
version:        535.309.01
alias:          pci:v000010DEd*sv*sd*bc06sc80i00*
vermagic:       6.1.0-56-amd64 SMP preempt mod_unload modversions
signer:         DKMS module signing key
sig_hashalgo:   sha256
signature:      59:E8:17:2F:44:5E:A8:2A:86:B8:C0:98:29:34:16:F5:E3:6A:81:BD:
\t\tE4:AF:12:99:D6:51:B3:0F:37:86:F7:CA:BE:AD:C6:99:7D:0F:9F:ED:
"""

# The end of the log of a build that fails: Debian 13's open modules for its kernel.
FAILED = """\
NV_CONFTEST_CFLAGS=-Werror=implicit-int -Wno-error
CONFTEST: dma_fence_set_error
/var/lib/dkms/open/550.163.01/build/nvidia/nv-pci.c: In function 'nv_resize_pcie_bars':
/var/lib/dkms/open/550.163.01/build/nvidia/nv-pci.c:237:9: error: too few arguments to function 'pci_resize_resource'
  237 |     r = pci_resize_resource(pci_dev, NV_GPU_BAR1, requested_size);
make[4]: *** [scripts/Makefile.build:234: nvidia/nv-pci.o] Error 1
"""


def _kernel(root: Path, release: str, *files: str) -> Path:
    (root / "boot").mkdir(exist_ok=True)
    (root / f"boot/vmlinuz-{release}").write_bytes(b"")
    directory = root / "modules" / release
    for name in files:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def test_kernels_are_those_that_can_be_booted(tmp_path: Path) -> None:
    _kernel(tmp_path, "6.1.0-9-amd64")
    _kernel(tmp_path, "6.1.0-56-amd64")
    (tmp_path / "modules/6.1.0-50-amd64/updates").mkdir(parents=True)  # left over from a kernel that was removed
    assert installed_kernels(tmp_path / "modules", tmp_path / "boot") == ["6.1.0-9-amd64", "6.1.0-56-amd64"]
    assert installed_kernels(tmp_path / "nothing", tmp_path / "boot") == []


def test_modules_are_found_by_any_of_their_names(tmp_path: Path) -> None:
    directory = _kernel(tmp_path, "6", "updates/dkms/nvidia-current-uvm.ko.xz", "kernel/drivers/nvidia_uvm.ko")
    found = find_module(directory, ["nvidia-uvm", "nvidia-current-uvm"])
    assert found == directory / "updates/dkms/nvidia-current-uvm.ko.xz"
    assert find_module(directory, ["nvidia-uvm"]) == directory / "kernel/drivers/nvidia_uvm.ko"
    assert find_module(directory, ["nvidia"]) is None


def test_what_modinfo_says() -> None:
    told = parse_modinfo(MODINFO)
    assert told["version"] == "535.309.01"
    assert told["vermagic"].startswith("6.1.0-56-amd64 ")
    assert told["alias"] == "char-major-195-*"
    assert "E4" not in told


def test_what_dkms_says_in_both_forms() -> None:
    text = """\
nvidia-current/535.309.01, 6.1.0-56-amd64, x86_64: installed
nvidia-current-open/550.163.01: added
nvidia, 470.1, 5.10.0-1-amd64, x86_64: installed (WARNING! Diff between built and installed module!)
Error! Could not locate dkms.conf file.
"""
    assert [(e["name"], e["version"], e["kernel"], e["state"]) for e in parse_dkms(text)] == [
        ("nvidia-current", "535.309.01", "6.1.0-56-amd64", "installed"),
        ("nvidia-current-open", "550.163.01", "", "added"),
        ("nvidia", "470.1", "5.10.0-1-amd64", "installed"),
    ]
    assert parse_dkms(text)[2]["warning"].startswith("WARNING")


def _signed(content: bytes, signature: bytes, **changes: int) -> bytes:
    fields = {"algorithm": 0, "hash": 0, "kind": 2, "signer": 0, "key": 0, "length": len(signature), **changes}
    return content + signature + struct.pack(">BBBBB3xI", *fields.values()) + b"~Module signature appended~\n"


def test_a_signed_module_is_taken_apart() -> None:
    assert split_signature(_signed(b"ELF", b"sig")) == (b"ELF", b"sig")
    assert split_signature(b"ELF without a signature") is None


@pytest.mark.parametrize("changes", [{"length": 999}, {"kind": 1}, {"length": 0}, {"key": 4}])
def test_a_damaged_signature_is_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ModuleFileError):
        split_signature(_signed(b"ELF", b"sig", **changes))


def test_packed_modules_are_read(tmp_path: Path) -> None:
    for suffix, pack in (("", bytes), (".xz", lzma.compress), (".gz", gzip.compress)):
        path = tmp_path / f"nvidia.ko{suffix}"
        path.write_bytes(pack(b"content"))
        assert read_module(path) == b"content"
    assert read_module(tmp_path / "nvidia.ko.zst") is None
    (tmp_path / "nvidia.ko.xz").write_bytes(b"no archive")
    with pytest.raises(ModuleFileError):
        read_module(tmp_path / "nvidia.ko.xz")


def test_a_log_is_read_for_what_went_wrong_first() -> None:
    assert first_errors(FAILED) == [
        "nvidia/nv-pci.c:237:9: error: too few arguments to function 'pci_resize_resource'",
    ]
    assert first_errors("ERROR: modpost: GPL-incompatible module nvidia.ko uses GPL-only symbol") != []
    assert first_errors("all is well") == []


def _found(**changes: t.Any) -> KernelModule:
    fields: dict[str, t.Any] = {
        "name": "nvidia",
        "path": "/lib/modules/6/updates/dkms/nvidia.ko",
        "version": "535.309.01",
        "vermagic": "6 SMP preempt",
        "signer": "DKMS module signing key",
        "hash": "sha256",
        "signature": "valid",
    }
    return KernelModule(**{**fields, **changes})


@pytest.mark.parametrize(
    ("module", "signed", "words"),
    [
        (_found(), True, ""),
        (_found(version="535.261.03"), False, "535.261.03, not 535.309.01"),
        (_found(vermagic="5 SMP"), False, "built for 5 kernel"),
        (_found(signature="invalid"), False, "not of the key of this host"),
        (_found(signature="absent"), False, ""),
        (_found(signature="absent"), True, "Secure Boot is on"),
    ],
)
def test_what_is_wrong_with_a_module(module: KernelModule, signed: bool, words: str) -> None:
    problems = judge(Kernel("6", True, "installed", [module]), "535.309.01", signed)
    assert (words in problems[0]) if words else problems == []


def test_a_kernel_without_modules() -> None:
    problems = judge(Kernel("6", True, "added", missing=["nvidia", "nvidia-uvm"]), "535.309.01", False)
    assert problems == ["kernel 6 has no nvidia, nvidia-uvm (dkms: added)"]


def test_modules_of_one_kernel_must_agree_without_a_version() -> None:
    kernel = Kernel("6", True, "installed", [_found(), _found(name="nvidia-uvm", version="550.1")])
    assert len(judge(kernel, "", False)) == 1
