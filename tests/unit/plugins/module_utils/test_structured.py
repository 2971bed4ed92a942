# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Values of ours beside those of others."""

from __future__ import annotations

import itertools
import json
import random
from typing import Any

import pytest
from ansible_collections.ai102.inference.plugins.module_utils import _structured
from ansible_collections.ai102.inference.plugins.module_utils._structured import Merge, Record, merge

OURS = {"live-restore": True, "log-opts": {"max-size": "50m", "max-file": "5"}}


def after(document: dict[str, Any], *steps: dict[str, Any], **options: Any) -> Merge:
    """The last of several merges, each with the record of the one before as it comes from the disk."""
    result = Merge(document, Record())
    for values in steps:
        kept = json.loads(json.dumps(result.record.to_json()))
        result = merge(result.document, values, Record.from_json(kept), **options)
    return result


def test_values_are_put_beside_those_of_others() -> None:
    result = after({"dns": ["192.0.2.1"], "log-opts": {"tag": "x"}}, OURS)
    assert result.document == {
        "dns": ["192.0.2.1"],
        "log-opts": {"tag": "x", "max-size": "50m", "max-file": "5"},
        "live-restore": True,
    }
    assert not result.conflicts


@pytest.mark.parametrize(
    "theirs",
    [
        {},
        {"dns": ["192.0.2.1"]},
        {"log-opts": {"tag": "x"}},
        {"log-opts": {}},
        {"live-restore": True},
        {"log-opts": {"max-size": "50m"}},
    ],
)
def test_taking_everything_back_leaves_what_was_there(theirs: dict[str, Any]) -> None:
    result = after(theirs, OURS, {})
    assert result.document == theirs
    assert result.record == Record()


def test_a_second_merge_changes_nothing() -> None:
    first = after({"a": 1}, OURS)
    second = after({"a": 1}, OURS, OURS)
    assert second.document == first.document
    assert second.record == first.record
    assert not second.edits


def test_a_value_of_others_is_not_overwritten() -> None:
    result = after({"live-restore": False}, OURS)
    assert [str(conflict) for conflict in result.conflicts] == ["live-restore is false, wanted true"]
    assert result.document["live-restore"] is False
    assert ("live-restore",) not in result.record.entries


def test_a_value_of_others_is_replaced_with_consent_and_comes_back() -> None:
    result = after({"live-restore": False, "log-opts": "none"}, OURS, OURS, takes_over=True)
    assert result.document == OURS
    assert not result.conflicts
    assert merge(result.document, {}, result.record).document == {"live-restore": False, "log-opts": "none"}


def test_true_is_not_one() -> None:
    assert after({"live-restore": 1}, {"live-restore": True}).conflicts


def test_drift_of_a_value_of_ours_is_undone() -> None:
    result = after({}, OURS)
    drifted = {**result.document, "live-restore": False}
    mended = merge(drifted, OURS, result.record)
    assert mended.document["live-restore"] is True
    assert not mended.conflicts


def test_a_value_that_somebody_changed_after_us_is_theirs_when_we_go() -> None:
    result = after({}, OURS)
    drifted = {**result.document, "live-restore": False}
    assert merge(drifted, {}, result.record).document == {"live-restore": False}


def test_a_value_that_was_there_as_wanted_stays_its_authors() -> None:
    result = after({"live-restore": True}, OURS)
    assert ("live-restore",) not in result.record.entries
    changed = merge(result.document, {"live-restore": False}, result.record)
    assert [conflict.path for conflict in changed.conflicts] == [("live-restore",)]


def test_a_value_that_is_not_wanted_any_more_goes() -> None:
    result = after({"a": {"b": 1}}, {"a": {"c": 2}, "d": {"e": {"f": 3}}}, {"a": {"c": 2}})
    assert result.document == {"a": {"b": 1, "c": 2}}


def test_nothing_is_wanted_of_null() -> None:
    assert after({"a": 1}, {"a": None, "b": {"c": None}}).document == {"a": 1}


def test_a_single_value_in_the_way_of_a_dictionary() -> None:
    assert [c.path for c in after({"log-opts": "none"}, OURS).conflicts] == [("log-opts",)] * 2


def test_items_are_added_to_a_list_of_others() -> None:
    lists = [("mirrors",)]
    first = after({"mirrors": ["a"]}, {"mirrors": ["b", "a"]}, lists=lists)
    assert first.document == {"mirrors": ["a", "b"]}
    second = merge(first.document, {"mirrors": ["c"]}, first.record, lists)
    assert second.document == {"mirrors": ["a", "c"]}
    assert merge(second.document, {}, second.record, lists).document == {"mirrors": ["a"]}
    assert after({}, {"mirrors": ["b"]}, {}, lists=lists).document == {}


def test_items_need_a_list() -> None:
    assert after({"mirrors": "a"}, {"mirrors": ["b"]}, lists=[("mirrors",)]).conflicts
    with pytest.raises(_structured.StructuredError, match="has to be a list"):
        after({}, {"mirrors": "b"}, lists=[("mirrors",)])


def test_a_record_that_is_none_is_refused() -> None:
    with pytest.raises(_structured.StructuredError, match="not a record"):
        Record.from_json({"entries": 3})


def test_paths_as_people_write_them() -> None:
    assert _structured.dotted(("plugins", "io.containerd.grpc.v1.cri", "x")) == 'plugins."io.containerd.grpc.v1.cri".x'


def random_values(random_source: random.Random, depth: int = 0) -> dict[str, Any]:
    """Nested dictionaries of few keys, so that two of them often meet."""
    result: dict[str, Any] = {}
    for key in "abcd":
        what = random_source.random()
        if what < 0.3 and depth < 2:
            result[key] = random_values(random_source, depth + 1)
        elif what < 0.6:
            result[key] = random_source.choice([0, 1, "x", [1], [1, 2]])
    return result


@pytest.mark.parametrize("seed", range(200))
def test_whatever_was_wanted_in_between_taking_it_back_leaves_what_was_there(seed: int) -> None:
    source = random.Random(seed)
    theirs, first, second = (random_values(source) for _each in range(3))
    for takes_over, steps in itertools.product((False, True), ([first, {}], [first, second, {}], [first, first, {}])):
        assert after(theirs, *steps, takes_over=takes_over).document == theirs, (theirs, steps, takes_over)


def test_json_keeps_its_indentation() -> None:
    text = '{\n    "dns": ["192.0.2.1"]\n}\n'
    file = _structured.Json()
    written = file.write(text, after(file.read(text), {"live-restore": True}))
    assert written == '{\n    "dns": [\n        "192.0.2.1"\n    ],\n    "live-restore": true\n}\n'


@pytest.mark.parametrize("text", ["[1]", "{", "true"])
def test_what_is_no_json_object_is_refused(text: str) -> None:
    with pytest.raises(_structured.StructuredError, match="JSON"):
        _structured.Json().read(text)


def test_an_empty_file_has_nothing_in_it() -> None:
    assert _structured.Json().read(" \n") == {}


def test_the_format_goes_by_the_name() -> None:
    assert _structured.format_of("auto", "/etc/docker/daemon.json").name == "JSON"
    with pytest.raises(_structured.StructuredError, match="set format"):
        _structured.format_of("auto", "/etc/hosts")


TOML = """\
# from the distribution
version = 2

[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    [plugins."io.containerd.grpc.v1.cri".cni]
      bin_dir = "/usr/lib/cni"   # where Debian has them
"""


class TestToml:
    """With tomlkit, which hosts have as a package."""

    @pytest.fixture(autouse=True)
    def library(self) -> None:
        """These tests need it here too."""
        pytest.importorskip("tomlkit")

    def test_comments_stay(self) -> None:
        values = {"plugins": {"io.containerd.grpc.v1.cri": {"enable_cdi": True, "registry": {"config_path": "/x"}}}}
        file = _structured.Toml()
        result = after(file.read(TOML), values)
        written = file.write(TOML, result)
        for line in TOML.splitlines():
            assert line in written
        assert file.read(written) == result.document
        back = merge(result.document, {}, result.record)
        assert file.read(file.write(written, back)) == file.read(TOML)

    def test_a_new_file(self) -> None:
        file = _structured.Toml()
        result = after({}, {"storage": {"driver": "overlay"}})
        assert file.read(file.write("", result)) == {"storage": {"driver": "overlay"}}

    def test_what_is_no_toml_is_refused(self) -> None:
        with pytest.raises(_structured.StructuredError, match="not TOML"):
            _structured.Toml().read("a = = 1")

    @pytest.mark.parametrize("seed", range(60))
    def test_every_merge_can_be_written(self, seed: int) -> None:
        import tomlkit

        source = random.Random(seed)
        theirs, first, second = (random_values(source) for _each in range(3))
        file = _structured.Toml()
        text = tomlkit.dumps(theirs)
        result = Merge(theirs, Record())
        for values in (first, second, {}):
            result = merge(file.read(text), values, result.record, takes_over=True)
            text = file.write(text, result)
        assert file.read(text) == theirs
