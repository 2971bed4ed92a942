# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the host's half of `server_access` writes, shows and leaves alone."""

from __future__ import annotations

import grp
import json
import os
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils import basic
from ansible.module_utils.testing import patch_module_args
from ansible_collections.ai102.inference.plugins.modules import server_access

ALICE = {"name": "alice", "role": "user", "hash": "$argon2id$secret"}
KEY = "-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----\n"


class Exit(Exception):
    """What the module returned."""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the module and give its result."""

    def leave(_module: Any, **result: Any) -> None:
        raise Exit(result)

    monkeypatch.setattr(basic.AnsibleModule, "exit_json", leave)
    monkeypatch.setattr(basic.AnsibleModule, "fail_json", leave)

    def call(*accounts: Any, check: bool = False, **more: Any) -> dict[str, Any]:
        arguments = {
            "path": str(tmp_path / "access"),
            "group": grp.getgrgid(os.getgid()).gr_name,
            "accounts": [],
            "signing_key": "-",
            "passphrase": "",
            "document": json.dumps({"accounts": accounts}),
            "key": KEY,
            "_ansible_check_mode": check,
            "_ansible_diff": True,
            **more,
        }
        with patch_module_args(arguments), pytest.raises(Exit) as left:
            server_access.main()
        result: dict[str, Any] = left.value.args[0]
        return result

    return call


def test_files_are_the_group_s_to_read_and_a_second_run_changes_nothing(run: Any, tmp_path: Path) -> None:
    assert run(ALICE)["changed"]
    root = tmp_path / "access"
    modes = {path.name: path.stat().st_mode & 0o777 for path in (root, *root.rglob("*"))}
    files = {"site.pem": 0o640, "accounts.yml": 0o640, "policy.yml": 0o640}
    assert modes == {"access": 0o750, "keys": 0o750, **files}
    assert (root / "keys/site.pem").read_text() == KEY
    again = run(ALICE)
    assert not again["changed"]
    assert again["files"] == []


def test_a_mode_that_somebody_changed_is_mended(run: Any, tmp_path: Path) -> None:
    run(ALICE)
    (tmp_path / "access/keys/site.pem").chmod(0o644)
    assert run(ALICE)["changed"]
    assert (tmp_path / "access/keys/site.pem").stat().st_mode & 0o777 == 0o640


def test_check_mode_writes_nothing(run: Any, tmp_path: Path) -> None:
    assert run(ALICE, check=True)["changed"]
    assert list(tmp_path.iterdir()) == []


def test_a_diff_shows_who_and_never_a_secret(run: Any) -> None:
    shown = json.dumps(run(ALICE, policy={"roles": {"auditor": ["viewer"]}})["diff"])
    assert "alice: role=user" in shown
    assert "auditor" in shown
    assert "secret" not in shown
    changed = run({**ALICE, "hash": "$argon2id$another"})["diff"]
    assert "secret" not in json.dumps(changed)
    assert changed[-1]["before"] != changed[-1]["after"]


def test_a_policy_that_is_no_longer_wanted_goes(run: Any, tmp_path: Path) -> None:
    run(ALICE, policy={"roles": {"auditor": ["viewer"]}})
    done = run(ALICE)
    assert done["files"] == [str(tmp_path / "access/policy.yml")]
    assert "auditor" not in (tmp_path / "access/policy.yml").read_text()


def test_what_the_server_refuses_is_not_put_in_place(run: Any, tmp_path: Path) -> None:
    root = tmp_path / "access"
    config = {"access": {"accounts": f"{root}/accounts.yml"}}
    script = tmp_path / "check"
    script.write_text(
        "accounts=$(cut -d '\"' -f 6 $1); ! grep bob $accounts >/dev/null || { echo no bob in $accounts >&2; exit 1; }"
    )
    checks = f"sh {script} {{config}}"
    run(ALICE, config=config, validate=checks)
    before = {path: path.read_text() for path in root.rglob("*") if path.is_file()}
    refused = run(ALICE, {**ALICE, "name": "bob"}, config=config, validate=checks)
    assert refused["msg"].endswith(f"nothing was changed: no bob in {root}/accounts.yml")
    assert {path: path.read_text() for path in root.rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["access", "check"]


def test_without_its_action_it_says_so(run: Any) -> None:
    assert "needs its action plugin" in run(ALICE, key=None)["msg"]
