# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules ``content`` and ``python_environment`` as the action plugins call them."""

from __future__ import annotations

import hashlib
import os
import sys
import types
import typing as t
import zipfile
from pathlib import Path

import pytest
from ansible_collections.ai102.inference.plugins.module_utils._content import ContentError, sha256_of
from ansible_collections.ai102.inference.plugins.module_utils._environment import EnvironmentBuildError, complete
from ansible_collections.ai102.inference.plugins.modules import content, python_environment


def _call(module: t.Any, params: dict[str, t.Any], check: bool = False) -> dict[str, t.Any]:
    result: dict[str, t.Any] = module.run(types.SimpleNamespace(params=params, check_mode=check))
    return result


@pytest.fixture
def params(tmp_path: Path) -> dict[str, t.Any]:
    """Return the options of ``content`` for a directory of one file."""
    return {
        "dest": str(tmp_path / "d"),
        "files": [{"path": "a", "sha256": hashlib.sha256(b"content").hexdigest(), "size": 7}],
        "state": "present",
        "replace": False,
        "owner": str(os.geteuid()),
        "group": str(os.getegid()),
        "mode": "0444",
        "directory_mode": "0755",
        "blobs": str(tmp_path / "blobs"),
        "incoming": {},
    }


def _arrived(tmp_path: Path, data: bytes) -> dict[str, str]:
    path = tmp_path / "incoming"
    path.write_bytes(data)
    return {hashlib.sha256(data).hexdigest(): str(path)}


def test_content_is_asked_for_then_placed_then_left_alone(params: dict[str, t.Any], tmp_path: Path) -> None:
    first = _call(content, params)
    assert (first["changed"], first["missing"]) == (False, [params["files"][0]["sha256"]])
    second = _call(content, {**params, "incoming": _arrived(tmp_path, b"content")})
    assert (second["changed"], second["missing"]) == (True, [])
    assert (tmp_path / "d/a").read_bytes() == b"content"
    assert not (tmp_path / "incoming").exists()
    assert not _call(content, params)["changed"]


def test_check_mode_of_content_writes_nothing(params: dict[str, t.Any], tmp_path: Path) -> None:
    assert _call(content, params, check=True)["changed"]
    assert list(tmp_path.iterdir()) == []


def test_other_content_is_refused_unless_it_may_be_replaced(params: dict[str, t.Any], tmp_path: Path) -> None:
    _call(content, {**params, "incoming": _arrived(tmp_path, b"content")})
    params["files"] = [{"path": "a", "sha256": hashlib.sha256(b"new").hexdigest()}]
    with pytest.raises(ContentError, match="with other content and must not change: a: other content"):
        _call(content, params)
    _call(content, {**params, "replace": True, "incoming": _arrived(tmp_path, b"new")})
    assert (tmp_path / "d/a").read_bytes() == b"new"
    assert [blob.name for blob in (tmp_path / "blobs").iterdir()] == [params["files"][0]["sha256"]]


def test_absent_content_takes_its_blobs_along(params: dict[str, t.Any], tmp_path: Path) -> None:
    _call(content, {**params, "incoming": _arrived(tmp_path, b"content")})
    assert _call(content, {**params, "state": "absent"}, check=True)["changed"]
    assert (tmp_path / "d").exists()
    assert _call(content, {**params, "state": "absent"})["changed"]
    assert not (tmp_path / "d").exists()
    assert list((tmp_path / "blobs").iterdir()) == []
    assert not _call(content, {**params, "state": "absent"})["changed"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, t.Any]:
    """Return the options of ``python_environment`` for a wheel of one module, which has arrived."""
    wheel = tmp_path / "demo-1.0-py3-none-any.whl"
    info = "demo-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("demo.py", "")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", f"demo.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    sha256 = sha256_of(wheel)
    return {
        "interpreter": sys.executable,
        "candidates": {f"{sys.version_info.major}.{sys.version_info.minor}": "digest1"},
        "flavour": "cpu",
        "path": str(tmp_path / "environments"),
        "blobs": str(tmp_path / "blobs"),
        "wheelhouses": str(tmp_path / "wheelhouses"),
        "modules": ["demo"],
        "left_out": [],
        "references": [],
        "keep": 0,
        "files": [{"path": wheel.name, "sha256": sha256, "size": wheel.stat().st_size}],
        "requirements": f"demo==1.0 --hash=sha256:{sha256}\n",
        "incoming": {sha256: str(wheel)},
    }


def test_an_environment_is_predicted_asked_for_built_and_left_alone(
    environment: dict[str, t.Any], tmp_path: Path
) -> None:
    old = tmp_path / "environments/old"
    old.mkdir(parents=True)
    (tmp_path / "wheelhouses/old").mkdir(parents=True)
    assert _call(python_environment, {**environment, "files": [], "incoming": {}}, check=True)["changed"]
    asked = _call(python_environment, {**environment, "incoming": {}})
    assert (asked["changed"], len(asked["missing"])) == (False, 1)
    assert not (tmp_path / "environments/digest1").exists()
    built = _call(python_environment, environment)
    assert built["changed"]
    assert built["versions"]["demo"] == "1.0"
    assert built["pruned"] == [str(old)]
    assert complete(tmp_path / "environments/digest1") is not None
    assert [path.name for path in (tmp_path / "wheelhouses").iterdir()] == ["digest1"]
    again = _call(python_environment, {**environment, "files": [], "incoming": {}})
    assert (again["changed"], again["versions"]) == (False, built["versions"])


def test_a_python_without_a_lock_is_named(environment: dict[str, t.Any]) -> None:
    environment["candidates"] = {"3.1": "x"}
    with pytest.raises(
        EnvironmentBuildError, match=r"there is no cpu lock for the host's Python 3\.\d+; there is: 3\.1"
    ):
        _call(python_environment, environment)
