# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Building, proving and removing virtual environments."""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path

import pytest
from ansible_collections.ai102.inference.plugins.module_utils import _environment
from ansible_collections.ai102.inference.plugins.module_utils._content import sha256_of
from ansible_collections.ai102.inference.plugins.module_utils._environment import (
    MARKER,
    EnvironmentBuildError,
    build,
    complete,
    in_use,
    removable,
)


def _make_wheel(folder: Path, code: str = "VALUE = 1\n", needs: str = "") -> str:
    """Write a wheel of one module and return its pin."""
    folder.mkdir(exist_ok=True)
    path = folder / "demo-1.0-py3-none-any.whl"
    info = "demo-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("demo.py", code)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n{needs}")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", f"demo.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return f"demo==1.0 --hash=sha256:{sha256_of(path)}\n"


def test_an_environment_is_built_proven_and_complete(tmp_path: Path) -> None:
    pin = _make_wheel(tmp_path / "wheels")
    record = build(tmp_path / "env", sys.executable, tmp_path / "wheels", pin, ["demo"], [], {"flavour": "cpu"})
    assert record["versions"]["demo"] == "1.0"
    assert record["providers"] == []
    assert complete(tmp_path / "env") == record


@pytest.mark.parametrize(
    ("code", "pin_of", "problem"),
    [
        ("raise ImportError('broken on purpose')\n", "right", "importing demo failed.*broken on purpose"),
        ("VALUE = 1\n", "wrong", "installing the wheels failed"),
    ],
)
def test_a_failing_build_leaves_nothing(tmp_path: Path, code: str, pin_of: str, problem: str) -> None:
    pin = _make_wheel(tmp_path / "wheels", code)
    if pin_of == "wrong":
        pin = f"demo==1.0 --hash=sha256:{'0' * 64}\n"
    with pytest.raises(EnvironmentBuildError, match=f"(?s){problem}"):
        build(tmp_path / "env", sys.executable, tmp_path / "wheels", pin, ["demo"], [], {})
    assert not (tmp_path / "env").exists()


def test_packages_must_fit_together_but_for_what_is_left_out(tmp_path: Path) -> None:
    pin = _make_wheel(tmp_path / "wheels", needs="Requires-Dist: somewhere-else\n")
    arguments = (tmp_path / "env", sys.executable, tmp_path / "wheels", pin, ["demo"])
    with pytest.raises(EnvironmentBuildError, match="demo 1.0 requires somewhere-else, which is not installed"):
        build(*arguments, ["another"], {})
    assert build(*arguments, ["another", "somewhere-else"], {})["versions"]["demo"] == "1.0"


def test_a_missing_venv_module_is_hinted_at(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentBuildError, match="is python3-venv installed"):
        build(tmp_path / "env", "/bin/false", tmp_path, "", [], [], {})


def _environment_at(path: Path, age: int) -> Path:
    (path / "bin").mkdir(parents=True)
    (path / "bin/python").touch()
    (path / MARKER).write_text("{}")
    os.utime(path / MARKER, (1_700_000_000 - age, 1_700_000_000 - age))
    return path


def test_without_its_marker_an_environment_is_not_complete(tmp_path: Path) -> None:
    _environment_at(tmp_path / "a", 0)
    assert complete(tmp_path / "a") == {}
    (tmp_path / "a" / MARKER).write_text("half")
    assert complete(tmp_path / "a") is None


def test_the_oldest_unused_go_and_the_used_stay(tmp_path: Path) -> None:
    root = tmp_path / "environments"
    paths = {
        name: _environment_at(root / name, age) for name, age in (("now", 0), ("b", 1), ("c", 2), ("d", 3), ("e", 4))
    }
    (root / "half").mkdir()
    release = tmp_path / "releases/1"
    release.mkdir(parents=True)
    (release / "environment").symlink_to(paths["e"])
    references = [str(tmp_path / "releases/*/environment")]
    assert in_use(references) == {paths["e"]}
    assert removable(root, "now", references, keep=1) == [root / "half", paths["d"], paths["c"]]
    assert removable(root, "now", references, keep=9) == [root / "half"]


def test_neither_configuration_nor_variables_add_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://elsewhere.example/simple")
    output = _environment._run(["/usr/bin/env"], "looking")
    assert "PIP_INDEX_URL" not in output
    assert "PIP_CONFIG_FILE=/dev/null" in output
