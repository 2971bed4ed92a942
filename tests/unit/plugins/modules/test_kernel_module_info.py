# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Signatures of module files, made and verified with the real openssl, as the kernel's sign-file makes them."""

from __future__ import annotations

import lzma
import shutil
import struct
import subprocess
import typing as t
from pathlib import Path

import pytest
from ansible_collections.ai102.inference.plugins.modules import kernel_module_info

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl")


class Module:
    """What the functions use of AnsibleModule."""

    def __init__(self, tmpdir: Path) -> None:
        self.tmpdir = str(tmpdir)

    def get_bin_path(self, name: str) -> str | None:
        return shutil.which(name)

    def run_command(self, command: list[str], **_options: t.Any) -> tuple[int, str, str]:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr


def _key(folder: Path, name: str) -> Path:
    """Make a key, and its certificate as DKMS keeps it."""
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -subj /CN={name} -days 1 -keyout {name}.key -out {name}.pem"
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    subprocess.run(
        f"openssl x509 -in {name}.pem -outform DER -out {name}.der".split(), cwd=folder, check=True, capture_output=True
    )
    return folder / f"{name}.der"


def _sign(folder: Path, name: str, content: bytes) -> bytes:
    (folder / "content").write_bytes(content)
    command = (
        f"openssl cms -sign -binary -noattr -nocerts -outform DER -signer {name}.pem -inkey {name}.key"
        " -in content -out signature"
    )
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    signature = (folder / "signature").read_bytes()
    end = struct.pack(">BBBBB3xI", 0, 0, 2, 0, 0, len(signature)) + b"~Module signature appended~\n"
    return content + signature + end


def test_a_signature_is_of_the_host_or_not(tmp_path: Path) -> None:
    ours, others = _key(tmp_path, "ours"), _key(tmp_path, "others")
    signed = _sign(tmp_path, "ours", b"\x7fELF a module")
    module: t.Any = Module(tmp_path)
    path = tmp_path / "nvidia.ko"
    cases: list[tuple[bytes, list[Path], str]] = [
        (signed, [ours], "valid"),
        (signed, [others, ours], "valid"),
        (signed, [others], "invalid"),
        (signed.replace(b"a module", b"b module"), [ours], "invalid"),
        (b"\x7fELF a module", [ours], "absent"),
        (signed, [], "unknown"),
        (signed[:-40] + signed[-28:], [ours], "invalid"),
    ]
    for content, certificates, expected in cases:
        path.write_bytes(content)
        assert kernel_module_info.verify(module, path, certificates) == expected
    packed = tmp_path / "nvidia.ko.xz"
    packed.write_bytes(lzma.compress(signed))
    assert kernel_module_info.verify(module, packed, [ours]) == "valid"


def test_logs_of_builds_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_module_info, "DKMS", tmp_path)
    failed = tmp_path / "nvidia-current/535.1/build/make.log"
    failed.parent.mkdir(parents=True)
    failed.write_text("for 6.1.0-9-amd64\nnv.c:1:1: error: no such thing\n")
    assert kernel_module_info.build_errors("nvidia", ["6.1.0-9-amd64"]) == ["nv.c:1:1: error: no such thing"]
    assert kernel_module_info.build_errors("nvidia", ["6.1.0-50-amd64"]) == []
