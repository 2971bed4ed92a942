# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The store of delivered content and the directories that are made of it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from ansible_collections.ai102.inference.plugins.module_utils import _content
from ansible_collections.ai102.inference.plugins.module_utils._content import (
    VERIFIED_MTIME,
    BlobStore,
    ContentError,
    ContentFile,
    Directory,
    parse_files,
    sweep,
)


def _file(store: BlobStore, tmp_path: Path, path: str, content: bytes) -> ContentFile:
    sha256 = hashlib.sha256(content).hexdigest()
    source = tmp_path / "source"
    source.write_bytes(content)
    store.take(source, sha256)
    return ContentFile(path, sha256, len(content))


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


@pytest.mark.parametrize("path", ["", ".", "../x", "/etc/passwd", "a/../b", "a//b", "./a"])
def test_paths_cannot_leave_the_directory(path: str) -> None:
    with pytest.raises(ContentError, match="not a plain relative path"):
        parse_files([{"path": path, "sha256": "0" * 64}])


def test_what_is_not_a_sha256_is_refused() -> None:
    with pytest.raises(ContentError, match="not a sha256"):
        parse_files([{"path": "a", "sha256": "../../etc/shadow"}])


def test_a_path_cannot_be_named_twice() -> None:
    with pytest.raises(ContentError, match="named twice"):
        parse_files([{"path": "a", "sha256": "0" * 64}, {"path": "a", "sha256": "1" * 64}])


def test_wrong_content_is_not_taken(store: BlobStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"evil")
    wanted = hashlib.sha256(b"good").hexdigest()
    with pytest.raises(ContentError, match=f"expected {wanted}"):
        store.take(source, wanted)
    assert list(store.path.iterdir()) == []


def test_a_directory_shares_its_files_with_the_store(store: BlobStore, tmp_path: Path) -> None:
    file = _file(store, tmp_path, "sub/a", b"content")
    directory = Directory(tmp_path / "d", [file], store)
    assert directory.differences() == ["the directory is missing"]
    directory.build(str(os.geteuid()), str(os.getegid()))
    assert directory.differences() == []
    placed = (tmp_path / "d/sub/a").stat()
    assert placed.st_ino == store.blob(file.sha256).stat().st_ino
    assert placed.st_mode & 0o777 == 0o444


def test_looking_at_an_untouched_directory_reads_nothing(
    store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = _file(store, tmp_path, "a", b"content")
    directory = Directory(tmp_path / "d", [file], store)
    directory.build(str(os.geteuid()), str(os.getegid()))
    monkeypatch.setattr(_content, "sha256_of", lambda path: pytest.fail(f"{path} was read"))
    assert directory.differences() == []
    assert store.missing([file]) == []


def test_a_file_that_was_written_to_is_found_and_its_blob_is_missing(store: BlobStore, tmp_path: Path) -> None:
    file = _file(store, tmp_path, "a", b"content")
    directory = Directory(tmp_path / "d", [file], store)
    directory.build(str(os.geteuid()), str(os.getegid()))
    (tmp_path / "d/a").chmod(0o644)
    (tmp_path / "d/a").write_bytes(b"CONTENT")
    assert directory.differences() == ["a: other content"]
    assert store.missing([file]) == [file.sha256]


def test_a_blob_that_was_only_touched_is_read_and_stays(store: BlobStore, tmp_path: Path) -> None:
    file = _file(store, tmp_path, "a", b"content")
    os.utime(store.blob(file.sha256))
    assert store.missing([file]) == []
    store.revalidate(file.sha256)
    assert int(store.blob(file.sha256).stat().st_mtime) == VERIFIED_MTIME


def test_added_and_missing_files_are_differences(store: BlobStore, tmp_path: Path) -> None:
    files = [_file(store, tmp_path, "a", b"1"), _file(store, tmp_path, "b", b"2")]
    directory = Directory(tmp_path / "d", files, store)
    directory.build(str(os.geteuid()), str(os.getegid()))
    (tmp_path / "d/b").unlink()
    (tmp_path / "d/c").symlink_to("/etc/passwd")
    assert directory.differences() == ["b: missing", "c: not expected"]


def test_a_refused_directory_leaves_the_one_before(store: BlobStore, tmp_path: Path) -> None:
    Directory(tmp_path / "d", [_file(store, tmp_path, "a", b"old")], store).build(str(os.geteuid()), str(os.getegid()))

    def refuse(staged: Path) -> None:
        assert (staged / "a").read_bytes() == b"new"
        raise ContentError("refused")

    with pytest.raises(ContentError, match="refused"):
        Directory(tmp_path / "d", [_file(store, tmp_path, "a", b"new")], store).build(
            str(os.geteuid()), str(os.getegid()), verify=refuse
        )
    assert (tmp_path / "d/a").read_bytes() == b"old"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["blobs", "d", "source"]


def test_a_directory_is_replaced(store: BlobStore, tmp_path: Path) -> None:
    for content in (b"old", b"new"):
        Directory(tmp_path / "d", [_file(store, tmp_path, "a", content)], store).build(
            str(os.geteuid()), str(os.getegid())
        )
    assert (tmp_path / "d/a").read_bytes() == b"new"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["blobs", "d", "source"]


def test_other_permissions_mean_copies(store: BlobStore, tmp_path: Path) -> None:
    file = _file(store, tmp_path, "a", b"content")
    Directory(tmp_path / "d", [file], store).build(str(os.geteuid()), str(os.getegid()), file_mode=0o555)
    assert (tmp_path / "d/a").stat().st_mode & 0o777 == 0o555
    assert store.blob(file.sha256).stat().st_mode & 0o777 == 0o444


def test_only_unused_content_is_pruned(store: BlobStore, tmp_path: Path) -> None:
    used = _file(store, tmp_path, "a", b"used")
    unused = _file(store, tmp_path, "a", b"unused")
    Directory(tmp_path / "d", [used], store).build(str(os.geteuid()), str(os.getegid()))
    (store.path / ".staging-interrupted").write_bytes(b"half")
    assert store.prune() == [".staging-interrupted", unused.sha256]
    assert [blob.name for blob in store.path.iterdir()] == [used.sha256]


def test_sweep_removes_only_what_was_interrupted(tmp_path: Path) -> None:
    (tmp_path / ".staging-1-x").mkdir()
    (tmp_path / "1").mkdir()
    sweep(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["1"]


def test_remove_takes_the_whole_directory(store: BlobStore, tmp_path: Path) -> None:
    directory = Directory(tmp_path / "d", [_file(store, tmp_path, "a", b"x")], store)
    directory.build(str(os.geteuid()), str(os.getegid()))
    directory.remove()
    assert not directory.exists()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["blobs", "source"]


def test_an_unknown_owner_is_named(store: BlobStore, tmp_path: Path) -> None:
    directory = Directory(tmp_path / "d", [_file(store, tmp_path, "a", b"x")], store)
    with pytest.raises(ContentError, match="no such user or group"):
        directory.build(owner="nobody-of-this-name")
