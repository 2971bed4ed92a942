# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When an engine is restarted, and what is linked beside other people's files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from ansible_collections.ai102.inference.plugins.module_utils import _containers
from ansible_collections.ai102.inference.plugins.module_utils._containers import ContainerError, Links, Notes, Unit


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("Docker version 20.10.24+dfsg1, build 5d6db84", "20.10.24"),
        ("Docker version 26.1.5+dfsg1, build 411e817", "26.1.5"),
        ("containerd github.com/containerd/containerd 1.7.24~ds1 1.7.24~ds1-6+deb13u1", "1.7.24"),
        ("containerd containerd.io v2.1.4 75cb2b7193e4e490e9fbdc236c0e811ccaba3376", "2.1.4"),
        ("podman version 5.4.2", "5.4.2"),
        ("20.10.24+dfsg1\n", "20.10.24"),
        ("Client:\n  Version:  1.6.20~ds1\n", "1.6.20"),
        ("no version", None),
    ],
)
def test_versions_without_what_distributions_append(text: str, version: str | None) -> None:
    assert _containers.version_of(text) == version


def unit(**properties: str) -> Unit:
    return Unit("docker.service", {"ActiveState": "active", "LoadState": "loaded", **properties})


@pytest.mark.parametrize(
    ("noted", "started", "changed", "expected"),
    [
        (
            {"invocation": "a", "fingerprint": "now"},
            "@100",
            200.0,
            False,
        ),  # as we started it; somebody touched the file
        ({"invocation": "a", "fingerprint": "old"}, "@100", 50.0, True),  # the run before was interrupted
        ({"invocation": "b", "fingerprint": "old"}, "@100", 50.0, False),  # somebody else restarted it after the change
        ({"invocation": "b", "fingerprint": "now"}, "@100", 200.0, True),  # changed after somebody else's restart
        ({}, "@100", 50.0, False),
        ({}, "@100", 200.0, True),
        ({}, "", 200.0, False),
    ],
)
def test_a_restart_is_needed_when_something_else_is_in_force(
    noted: dict[str, str], started: str, changed: float, expected: bool
) -> None:
    running = unit(InvocationID="a", ExecMainStartTimestamp=started)
    assert _containers.needs_restart(running, noted, "now", changed) is expected


def test_fingerprints_tell_files_apart(tmp_path: Path) -> None:
    path = tmp_path / "daemon.json"
    missing = _containers.fingerprint([str(path)])
    path.write_text("{}")
    there = _containers.fingerprint([str(path)])
    assert missing != there == _containers.fingerprint([str(path)])
    assert _containers.changed_at([str(path), "/nowhere"]) == pytest.approx(path.stat().st_ctime)


def test_notes_are_kept_for_each_unit(tmp_path: Path) -> None:
    notes = Notes(tmp_path / "notes.json")
    assert notes.read("docker.service") == {}
    notes.write("docker.service", "a", "x")
    notes.write("containerd.service", "b", "y")
    assert notes.read("docker.service") == {"invocation": "a", "fingerprint": "x"}
    notes.path.write_text("damaged")
    assert notes.read("docker.service") == {}


class TestLinks:
    """In a directory that stands for the host."""

    @pytest.fixture
    def links(self, tmp_path: Path) -> Links:
        """One link that is wanted."""
        release = tmp_path / "releases" / "1"
        (release / "registries" / "r:5000").mkdir(parents=True)
        (tmp_path / "current").symlink_to("releases/1")
        certificates = tmp_path / "certs.d"
        wanted = {str(certificates / "r:5000"): "registries/r:5000"}
        return Links(tmp_path / "current", wanted, [str(certificates)])

    def test_they_are_made_once(self, links: Links, tmp_path: Path) -> None:
        assert [path.name for path in links.missing()] == ["r:5000"]
        links.make()
        assert (tmp_path / "certs.d" / "r:5000").is_dir()
        assert not links.missing()
        assert not links.stale()

    def test_those_of_ours_that_are_not_wanted_go(self, links: Links, tmp_path: Path) -> None:
        links.make()
        (tmp_path / "certs.d" / "other").mkdir()
        (tmp_path / "certs.d" / "theirs").symlink_to("/etc")
        rest = Links(links.current, {}, links.directories)
        assert [path.name for path in rest.stale()] == ["r:5000"]
        rest.make()
        assert sorted(os.listdir(tmp_path / "certs.d")) == ["other", "theirs"]

    def test_what_others_have_there_is_refused(self, links: Links, tmp_path: Path) -> None:
        (tmp_path / "certs.d" / "r:5000").mkdir(parents=True)
        with pytest.raises(ContainerError, match="was not made by this role"):
            links.make()

    def test_a_link_into_another_place_of_ours_is_mended(self, links: Links, tmp_path: Path) -> None:
        (tmp_path / "certs.d").mkdir()
        (tmp_path / "certs.d" / "r:5000").symlink_to(f"{links.current}/registries/old")
        links.make()
        assert os.readlink(tmp_path / "certs.d" / "r:5000").endswith("/registries/r:5000")


def test_a_unit_that_cannot_be_started_is_reported_with_its_last_words() -> None:
    def run(command: Sequence[str]) -> tuple[int, str]:
        return (0, "unable to configure\n\n") if command[0] == "journalctl" else (1, "Job failed.\n")

    with pytest.raises(
        ContainerError, match=r"'systemctl start docker.service' failed: Job failed. Its last words: un"
    ):
        _containers.Systemd(run).do("start", "docker.service")


def test_waiting_ends() -> None:
    answers = iter([None, None, "26.1.5"])
    assert _containers.wait_until(lambda: next(answers), 5, "it", interval=0) == "26.1.5"
    with pytest.raises(ContainerError, match="it did not answer within 0 s"):
        _containers.wait_until(lambda: None, 0, "it did not answer", interval=0)


def test_the_guard_drops_what_nobody_published() -> None:
    text = _containers.guard(["172.24.0.0/16", "172.17.0.0/16"])
    assert "ip daddr != { 172.24.0.0/16, 172.17.0.0/16 } accept" in text
    assert text.index("delete table") < text.index("chain prerouting")
    assert "chain" not in _containers.guard([])
