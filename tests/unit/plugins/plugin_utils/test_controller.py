# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's half of a delivery."""

from __future__ import annotations

import hashlib
import types
import typing as t
from pathlib import Path

import pytest
from ansible_collections.ai102.inference.plugins.module_utils._content import ContentError
from ansible_collections.ai102.inference.plugins.plugin_utils import _controller
from ansible_collections.ai102.inference.plugins.plugin_utils._controller import ControllerAction


class _Host(ControllerAction):
    """A host that is asked for content, and remembers what it was given."""

    def __init__(self, wanted: list[str], keeps: bool = True) -> None:
        self.wanted = wanted
        self.keeps = keeps
        self.calls: list[list[str]] = []
        self.transferred: list[str] = []
        shell = types.SimpleNamespace(tmpdir="/tmp/x", join_path=lambda *parts: "/".join(parts))
        self._connection = t.cast("t.Any", types.SimpleNamespace(_shell=shell))
        self._task = t.cast("t.Any", types.SimpleNamespace(check_mode=False))

    def _execute_module(self, **options: t.Any) -> dict[str, t.Any]:
        incoming = list(options["module_args"].get("incoming", {}))
        self.calls.append(incoming)
        if self.keeps:
            self.wanted = [sha256 for sha256 in self.wanted if sha256 not in incoming]
        return {"changed": not self.wanted, "missing": list(self.wanted)}

    def _transfer_file(self, local_path: str, remote_path: str) -> None:
        self.transferred.append(remote_path)

    def _fixup_perms2(self, remote_paths: list[str], remote_user: str | None = None, execute: bool = True) -> None:
        return


def _sources(tmp_path: Path, count: int) -> dict[str, Path]:
    sources = {}
    for number in range(count):
        path = tmp_path / str(number)
        path.write_bytes(b"x" * 100 + bytes([number]))
        sources[hashlib.sha256(path.read_bytes()).hexdigest()] = path
    return sources


def test_only_what_the_host_lacks_is_transferred(tmp_path: Path) -> None:
    sources = _sources(tmp_path, 3)
    host = _Host(list(sources)[:1])
    answer = host.deliver("m", {}, sources, {})
    assert (answer["changed"], answer["transferred"], answer["transferred_bytes"]) == (True, 1, 101)
    assert host.transferred == [f"/tmp/x/{next(iter(sources))}"]


def test_a_host_that_has_all_costs_one_call(tmp_path: Path) -> None:
    host = _Host([])
    assert host.deliver("m", {}, _sources(tmp_path, 2), {})["transferred"] == 0
    assert host.calls == [[]]


def test_large_content_comes_in_portions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_controller, "_BATCH_BYTES", 200)
    sources = _sources(tmp_path, 5)
    host = _Host(list(sources))
    assert host.deliver("m", {}, sources, {})["transferred"] == 5
    assert [len(call) for call in host.calls] == [0, 2, 2, 1]


def test_nothing_is_transferred_in_check_mode(tmp_path: Path) -> None:
    sources = _sources(tmp_path, 1)
    host = _Host(list(sources))
    host._task.check_mode = True
    assert host.deliver("m", {}, sources, {})["transferred"] == 0
    assert host.transferred == []


def test_a_source_that_changed_meanwhile_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    sources = _sources(tmp_path, 1)
    next(iter(sources.values())).write_bytes(b"changed")
    host = _Host(list(sources))
    with pytest.raises(ContentError, match="has changed since it was described"):
        host.deliver("m", {}, sources, {})
    assert host.transferred == []


def test_a_host_that_keeps_nothing_does_not_loop(tmp_path: Path) -> None:
    sources = _sources(tmp_path, 1)
    with pytest.raises(ContentError, match="did not keep"):
        _Host(list(sources), keeps=False).deliver("m", {}, sources, {})


def test_content_that_the_control_node_lacks_is_named() -> None:
    with pytest.raises(ContentError, match="no content with sha256 abc"):
        _Host(["abc"]).deliver("m", {}, {}, {})
