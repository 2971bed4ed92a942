# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The file, what is remembered of it, its validation and the way back."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ai102.inference.plugins.module_utils._structured import StructuredError
from ansible_collections.ai102.inference.plugins.modules import structured_file

VALUES = {"live-restore": True, "log-opts": {"max-size": "50m"}}
THEIRS = '{\n    "dns": ["192.0.2.1"]\n}\n'


class Stop(Exception):
    """The module has failed."""


class Module:
    """What the code under test uses of AnsibleModule."""

    def __init__(self, check_mode: bool, **params: Any) -> None:
        self.params = params
        self.check_mode = check_mode
        self.warnings: list[str] = []

    def fail_json(self, msg: str, **_result: Any) -> None:
        """End with a message."""
        raise Stop(msg)

    def warn(self, message: str) -> None:
        """Keep a warning."""
        self.warnings.append(message)


class Place:
    """A file in a directory that stands for the host."""

    def __init__(self, path: Path) -> None:
        self.directory = path
        self.path = path / "etc" / "daemon.json"
        self.path.parent.mkdir()

    def run(self, check_mode: bool = False, **params: Any) -> dict[str, Any]:
        """Run the module."""
        options = {
            "path": str(self.path),
            "format": "auto",
            "values": VALUES,
            "lists": [],
            "owner": "test",
            "state": "present",
            "conflict": "refuse",
            "validate": "",
            "mode": "0644",
            "records": str(self.directory / "records"),
            **params,
        }
        module: Any = Module(check_mode, **options)
        return structured_file.run(module)

    def says(self) -> Any:
        """What the file says."""
        return json.loads(self.path.read_text())

    def files(self) -> list[str]:
        """Everything below the directory."""
        return sorted(str(path.relative_to(self.directory)) for path in self.directory.rglob("*") if path.is_file())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Nothing is there yet."""
    return Place(tmp_path)


def test_a_new_file_comes_and_goes(place: Place) -> None:
    assert place.run()["changed"]
    assert place.says() == VALUES
    assert stat.S_IMODE(place.path.stat().st_mode) == 0o644
    assert not place.run()["changed"]
    assert place.run(state="absent")["changed"]
    assert place.files() == []
    assert not place.run(state="absent")["changed"]


def test_permissions_and_words_of_others_stay(place: Place) -> None:
    place.path.write_text(THEIRS)
    place.path.chmod(0o640)
    result = place.run()
    assert stat.S_IMODE(place.path.stat().st_mode) == 0o640
    assert result["owned"] == ["live-restore", "log-opts.max-size"]
    assert result["diff"]["before"] == THEIRS
    place.run(state="absent")
    assert place.says() == json.loads(THEIRS)


def test_a_check_touches_nothing(place: Place) -> None:
    place.path.write_text(THEIRS)
    assert place.run(check_mode=True)["changed"]
    assert place.path.read_text() == THEIRS
    assert place.files() == ["etc/daemon.json"]
    place.run()
    before = place.files()
    assert place.run(check_mode=True, state="absent")["changed"]
    assert place.files() == before


def test_a_file_that_is_refused_is_never_there(place: Place) -> None:
    place.path.write_text(THEIRS)
    for check_mode in (True, False):
        with pytest.raises(StructuredError, match=r"refused the new .*daemon.json \(exit 1\): .*daemon.json is bad"):
            place.run(check_mode, validate="/bin/sh -c 'echo $0 is bad; exit 1' {file}")
    assert place.files() == ["etc/daemon.json"]
    assert place.path.read_text() == THEIRS


def test_the_new_file_is_what_is_validated(place: Place) -> None:
    place.run(validate="/bin/grep -q live-restore {file}")
    with pytest.raises(StructuredError, match="is not installed"):
        place.run(values={"debug": True}, validate="/nowhere/check {file}")


def test_a_value_of_others_stops_it_before_anything_is_changed(place: Place) -> None:
    place.path.write_text('{"live-restore": false}')
    with pytest.raises(Stop, match="live-restore is false, wanted true. Nothing was changed"):
        place.run()
    assert place.files() == ["etc/daemon.json"]
    kept = place.run(conflict="keep")
    assert kept["conflicts"] == [{"path": "live-restore", "theirs": False, "wanted": True}]
    assert place.says() == {"live-restore": False, "log-opts": {"max-size": "50m"}}


def test_the_last_change_can_be_undone_once(place: Place) -> None:
    place.path.write_text(THEIRS)
    place.run()
    first = place.path.read_text()
    place.run(values={**VALUES, "debug": True})
    assert place.run(state="previous")["changed"]
    assert place.path.read_text() == first
    assert not place.run()["changed"]  # and it is known what is ours in it
    with pytest.raises(StructuredError, match="no change"):
        place.run(state="previous")


def test_undoing_the_first_change_leaves_no_trace(place: Place) -> None:
    place.run()
    place.run(state="previous")
    assert place.files() == []


def test_a_file_that_others_wrote_since_is_not_put_back(place: Place) -> None:
    place.run()
    place.path.write_text(THEIRS)
    with pytest.raises(StructuredError, match="written by somebody else since"):
        place.run(state="previous")
    assert place.path.read_text() == THEIRS


def test_owners_do_not_get_in_each_others_way(place: Place) -> None:
    place.run()
    place.run(owner="other", values={"debug": True})
    place.run(state="absent")
    assert place.says() == {"debug": True}
    place.run(owner="other", state="absent")
    assert place.says() == {}


def test_an_interruption_does_not_make_our_value_somebody_elses(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host stops between writing the file and writing down that it was written."""
    place.path.write_text(THEIRS)
    remember = structured_file.Target.remember
    calls: list[int] = []

    def once(target: Any, record: Any) -> None:
        calls.append(1)
        if len(calls) > 1:
            raise SystemExit
        remember(target, record)

    monkeypatch.setattr(structured_file.Target, "remember", once)
    with pytest.raises(SystemExit):
        place.run()
    monkeypatch.undo()
    place.run(values={"live-restore": False})
    assert place.says() == {"dns": ["192.0.2.1"], "live-restore": False}


def test_a_link_is_followed(place: Place) -> None:
    real = place.directory / "real.json"
    real.write_text(THEIRS)
    place.path.symlink_to(real)
    place.run()
    assert place.path.is_symlink()
    assert json.loads(real.read_text())["live-restore"] is True


def test_a_damaged_file_is_left_alone(place: Place) -> None:
    place.path.write_text("{")
    with pytest.raises(StructuredError, match="daemon.json: not JSON"):
        place.run()
    assert place.path.read_text() == "{"


def test_a_library_that_is_missing_stops_a_run_but_no_check(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a fresh host, where a check comes before the package."""
    monkeypatch.setitem(sys.modules, "tomlkit", None)
    with pytest.raises(StructuredError, match="TOML needs the Python library tomlkit"):
        place.run(format="toml")
    assert place.run(check_mode=True, format="toml")["changed"]
    assert not place.run(format="toml", values={})["changed"]
    assert not place.run(format="toml", state="absent")["changed"]
    assert place.files() == []
