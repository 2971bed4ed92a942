# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tests of the one release mechanism."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.ai102.inference.plugins.module_utils._release import (
    Release,
    ReleaseError,
    ReleaseFile,
    ReleaseLink,
    ReleaseStore,
    diff_entries,
    read_release,
)


def make(text: str, **more: str) -> Release:
    """A release with one file of the given text."""
    return Release(files=(ReleaseFile("etc/a.conf", text.encode()),), **more)  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> ReleaseStore:
    return ReleaseStore(tmp_path / "component")


def test_same_content_is_the_same_release_in_any_order() -> None:
    one, two = ReleaseFile("a", b"1"), ReleaseFile("b", b"2")
    assert Release((one, two)).id == Release((two, one)).id


@pytest.mark.parametrize(
    "other",
    [
        Release((ReleaseFile("a", b"2"),)),
        Release((ReleaseFile("b", b"1"),)),
        Release((ReleaseFile("a", b"1", 0o600),)),
        Release((ReleaseFile("a", b"1"),), owner="ai102"),
        Release((ReleaseFile("a", b"1"),), links=(ReleaseLink("l", "/x"),)),
    ],
)
def test_any_difference_is_another_release(other: Release) -> None:
    assert other.id != Release((ReleaseFile("a", b"1"),)).id


@pytest.mark.parametrize("dest", ["/etc/passwd", "../x", "a/../../x", ""])
def test_paths_cannot_leave_the_release(dest: str) -> None:
    with pytest.raises(ReleaseError, match="relative path"):
        Release((ReleaseFile(dest, b""),))


def test_a_path_cannot_be_given_twice() -> None:
    with pytest.raises(ReleaseError, match="twice"):
        Release((ReleaseFile("a", b""),), links=(ReleaseLink("a", "/x"),))


def test_stage_switch_and_back(store: ReleaseStore) -> None:
    first, second = make("1"), make("2")
    assert store.stage(first) is True
    assert store.current() is None
    assert store.switch(first.id) is True
    assert store.previous() is None
    store.stage(second)
    store.switch(second.id)
    assert (store.path / "current/etc/a.conf").read_text() == "2"
    assert store.previous() == first.id
    assert store.back() == first.id
    assert (store.path / "current/etc/a.conf").read_text() == "1"
    assert store.previous() == second.id


def test_nothing_to_do_the_second_time(store: ReleaseStore) -> None:
    store.stage(make("1"))
    store.switch(make("1").id)
    assert store.stage(make("1")) is False
    assert store.switch(make("1").id) is False
    assert store.previous() is None


def test_a_refused_release_leaves_nothing_behind(store: ReleaseStore) -> None:
    store.stage(make("1"))
    store.switch(make("1").id)

    def refuse(directory: Path) -> None:
        assert (directory / "etc/a.conf").read_text() == "2"
        raise ReleaseError("no")

    with pytest.raises(ReleaseError, match="no"):
        store.stage(make("2"), refuse)
    assert os.listdir(store.path / "releases") == [make("1").id]
    assert store.current() == make("1").id


def test_a_release_edited_by_hand_is_written_again(store: ReleaseStore) -> None:
    release = make("1")
    store.stage(release)
    store.switch(release.id)
    (store.path / "current/etc/a.conf").write_text("edited")
    assert not store.intact(release)
    assert store.stage(release) is True
    assert (store.path / "current/etc/a.conf").read_text() == "1"
    assert os.listdir(store.path / "releases") == [release.id]


def test_switching_to_what_is_not_staged_names_what_there_is(store: ReleaseStore) -> None:
    store.stage(make("1"))
    with pytest.raises(ReleaseError, match=make("1").id):
        store.switch("0000000000000000")


@pytest.mark.parametrize("release_id", ["", "..", "a/b", ".staging-x"])
def test_ids_are_not_paths(store: ReleaseStore, release_id: str) -> None:
    with pytest.raises(ReleaseError, match="not the id"):
        store.directory(release_id)


def test_no_way_back_is_said(store: ReleaseStore) -> None:
    with pytest.raises(ReleaseError, match="no previous release"):
        store.back()


def test_a_switch_can_leave_the_way_back_alone(store: ReleaseStore) -> None:
    for text in "123":
        store.stage(make(text))
    store.switch(make("1").id)
    store.switch(make("2").id)
    store.switch(make("3").id, remember=False)
    assert store.previous() == make("1").id


def test_prune_keeps_current_and_previous(store: ReleaseStore) -> None:
    releases = [make(str(number)) for number in range(5)]
    for number, release in enumerate(releases):
        store.stage(release)
        os.utime(store.directory(release.id), (number, number))
    store.switch(releases[0].id)
    store.switch(releases[1].id)
    removed = store.prune(3)
    assert removed == [releases[2].id, releases[3].id]
    assert store.previous() == releases[0].id
    assert store.prune(1) == [releases[4].id]
    assert len(store.releases()) == 2


def test_a_missing_previous_is_not_offered(store: ReleaseStore) -> None:
    store.stage(make("1"))
    store.stage(make("2"))
    store.switch(make("1").id)
    store.switch(make("2").id)
    (store.directory(make("1").id) / "etc/a.conf").unlink()
    (store.directory(make("1").id) / "etc").rmdir()
    store.directory(make("1").id).rmdir()
    assert store.previous() is None


def test_modes_links_and_ownership(tmp_path: Path) -> None:
    owned: list[tuple[str, str, str]] = []
    store = ReleaseStore(tmp_path, chown=lambda path, owner, group: owned.append((path.name, owner, group)))
    release = Release(
        (ReleaseFile("run", b"x", 0o700),), links=(ReleaseLink("environment", "/opt/x"),), owner="ai102", group="g"
    )
    store.stage(release)
    directory = store.directory(release.id)
    assert (directory / "run").stat().st_mode & 0o777 == 0o700
    assert os.readlink(directory / "environment") == "/opt/x"
    assert ("run", "ai102", "g") in owned


def test_diff_shows_what_changes_and_hides_secrets(store: ReleaseStore) -> None:
    store.stage(make("1\n"))
    before = read_release(store.directory(make("1\n").id))
    after = {"etc/a.conf": "2\n", "new": ""}
    shown = diff_entries(before, after, "/x", secret=False)
    assert [entry["after_header"] for entry in shown] == ["/x/etc/a.conf", "/x/new"]
    assert shown[0]["before"] == "1\n"
    hidden = diff_entries(before, after, "/x", secret=True)
    assert "2" not in hidden[0]["after"]


def test_binary_content_is_named_by_its_digest(store: ReleaseStore) -> None:
    release = Release((ReleaseFile("b", b"\xff\xfe"),))
    store.stage(release)
    assert "sha256" in read_release(store.directory(release.id))["b"]
