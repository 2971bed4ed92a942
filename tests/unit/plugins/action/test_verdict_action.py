# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The action writes three files, shows the table and fails with the failures in its message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from ansible.errors import AnsibleError
from ansible_collections.ai102.inference.plugins.action import verdict as action

GOOD = {"check": "cpu", "host": "a", "status": "pass", "expected": "4 cores", "actual": "8 cores", "hint": ""}
BAD = {"check": "memory", "host": "b", "status": "fail", "expected": "16 GB", "actual": "4 GB", "hint": "Add memory."}


def run(check_mode: bool = False, **args: Any) -> dict[str, Any]:
    task = MagicMock(check_mode=check_mode, args=args, async_val=0, action="ai102.inference.verdict")
    module = action.ActionModule(task, MagicMock(), MagicMock(), MagicMock(), MagicMock(), MagicMock())
    return module.run(task_vars={})


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(action.display, "display", lambda text, *_args, **_kwargs: lines.append(text))
    return lines


def test_good_verdict(tmp_path: Path, shown: list[str]) -> None:
    result = run(kind="verify", checks=[GOOD], directory=str(tmp_path / "reports"))
    assert result["ok"] is True
    assert result["changed"] is False
    assert "failed" not in result
    assert [Path(name).name for name in result["files"]] == ["verify.json", "verify.xml", "verify.html"]
    document = json.loads((tmp_path / "reports" / "verify.json").read_text())
    assert document == result["verdict"]
    assert document["checks"] == [GOOD]
    assert "PASS" in shown[0]
    assert sorted(path.name for path in (tmp_path / "reports").iterdir()) == [
        "verify.html",
        "verify.json",
        "verify.xml",
    ]


def test_bad_verdict_fails_with_the_failures_but_writes_the_files(tmp_path: Path, shown: list[str]) -> None:
    result = run(kind="verify", checks=[GOOD, BAD], directory=str(tmp_path))
    assert result["failed"] is True
    assert "b: memory: 4 GB; expected: 16 GB" in result["msg"]
    assert "Add memory." in result["msg"]
    assert (tmp_path / "verify.html").exists()


def test_fail_can_be_turned_off(shown: list[str]) -> None:
    result = run(kind="verify", checks=[BAD], fail=False)
    assert "failed" not in result
    assert result["ok"] is False


def test_no_checks_is_a_failure(shown: list[str]) -> None:
    assert run(kind="verify", checks=[])["failed"] is True


def test_check_mode_writes_nothing(tmp_path: Path, shown: list[str]) -> None:
    result = run(check_mode=True, kind="verify", checks=[BAD], directory=str(tmp_path / "reports"))
    assert result["failed"] is True
    assert not (tmp_path / "reports").exists()


def test_wrong_check_is_named(shown: list[str]) -> None:
    with pytest.raises(AnsibleError, match="unknown keys: state"):
        run(kind="verify", checks=[{**GOOD, "state": "x"}])


def test_unwritable_directory_is_named(tmp_path: Path, shown: list[str]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AnsibleError, match="cannot be written to .*/file"):
        run(kind="verify", checks=[GOOD], directory=str(tmp_path / "file"))


def test_registered_results_of_every_host() -> None:
    hostvars = {
        "a": {"seen": {"checks": [GOOD], "changed": False}},
        "b": {"seen": {"unreachable": True, "msg": "Failed to connect\n via ssh: timed out"}},
        "c": {"seen": {"failed": True, "msg": "sudo: a password is required"}},
        "d": {"seen": {"skipped": True}},
        "e": {},
    }
    checks = action.registered_checks(hostvars, list(hostvars), ["seen"])
    assert [(check["host"], check["check"], check["status"]) for check in checks] == [
        ("a", "cpu", "pass"),
        ("b", "reachable", "fail"),
        ("c", "facts", "fail"),
        ("e", "reachable", "fail"),
    ]
    assert checks[1]["actual"] == "Failed to connect via ssh: timed out"
    assert "password" in checks[2]["actual"]
