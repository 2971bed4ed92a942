# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the module decides by itself; what it does to a host is tried in the Molecule scenario `firewall`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.ai102.inference.plugins.modules import nft_ruleset


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("fe80::1%eth0", "fe80::1"),
        ("fd00::1", "fd00::1"),
        ("::ffff:a00:1", "::ffff:a00:1"),
    ],
)
def test_addresses_as_sshd_writes_them(address: str, expected: str) -> None:
    assert nft_ruleset.mapped(address) == expected


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux")
def test_the_ssh_connection_is_found_above_a_process_without_the_variable() -> None:
    """As with sudo, which takes the variable away."""
    code = (
        "from ansible_collections.ai102.inference.plugins.modules.nft_ruleset import ssh_connection\n"
        "print(ssh_connection())"
    )
    root = Path(__file__).resolve().parents[4]
    environment = {
        "PATH": os.environ["PATH"],
        "SSH_CONNECTION": "::ffff:192.0.2.9 50022 192.0.2.1 2222",
        "PYTHONPATH": f"{root / '.collections'}:{os.pathsep.join(sys.path)}",
    }
    inner = f"import subprocess, sys\nsubprocess.run(['env', '-u', 'SSH_CONNECTION', sys.executable, '-c', {code!r}])"
    done = subprocess.run([sys.executable, "-c", inner], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "('192.0.2.9', 50022, 2222)", done.stderr


def test_files_appear_complete_and_are_left_alone_when_equal(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert nft_ruleset.read(str(path)) == ""
    nft_ruleset.write(str(path), "one", 0o600)
    inode = path.stat().st_ino
    nft_ruleset.write(str(path), "one", 0o600)
    assert path.stat().st_ino == inode
    nft_ruleset.write(str(path), "two", 0o644)
    assert path.read_text() == "two"
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [path]


def test_the_unit_loads_our_file_before_the_network() -> None:
    unit = nft_ruleset.unit("/usr/sbin/nft")
    assert "Before=network-pre.target" in unit
    assert "ExecStart=/usr/sbin/nft -f /etc/ai102/firewall/ruleset.nft" in unit
    assert "Conflicts" not in unit
