# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Declared state of GPUs, against a stand-in for nvidia-smi that remembers what it was told."""

from __future__ import annotations

import json
import typing as t
from collections.abc import Sequence
from pathlib import Path

import pytest
from ansible_collections.ai102.inference.plugins.module_utils import _gpu_settings
from ansible_collections.ai102.inference.plugins.module_utils._gpu_settings import (
    SettingsError,
    apply,
    main,
    parse_list,
    parse_query,
    plan,
    read,
    validate,
)


class Smi:
    """Answers as nvidia-smi does for two A100, one of which has no ECC; it is no GPU."""

    def __init__(self) -> None:
        self.gpus: list[dict[str, t.Any]] = [
            {"mig": "Disabled", "pending": "Disabled", "ecc": "Enabled", "ecc_pending": "Enabled", "power": 400.0},
            {"mig": "[N/A]", "pending": "[N/A]", "ecc": "[N/A]", "ecc_pending": "[N/A]", "power": 250.0},
        ]
        self.instances: list[str] = []
        self.calls: list[str] = []
        self.reset_needed = False
        self.refuses: dict[str, str] = {}

    def __call__(self, arguments: Sequence[str]) -> tuple[int, str]:
        command = " ".join(arguments[1:])
        self.calls.append(command)
        for words, answer in self.refuses.items():
            if words in command:
                return 3, answer
        return self._answer(list(arguments[1:]), command)

    def _answer(self, words: list[str], command: str) -> tuple[int, str]:
        if command.startswith("--query-gpu"):
            return 0, "".join(
                f"{number}, GPU-{number}, {gpu['mig']}, {gpu['pending']}, {gpu['ecc']}, {gpu['ecc_pending']}, "
                f"{gpu['power']:.2f}, 100.00, 400.00\n"
                for number, gpu in enumerate(self.gpus)
            )
        if command == "-L":
            lines = ["GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-0)"]
            lines += [
                f"  MIG {name:<12} Device  {number}: (UUID: MIG-{number})"
                for number, name in enumerate(sorted(self.instances, reverse=True))
            ]
            return 0, "\n".join([*lines, "GPU 1: Tesla V100 (UUID: GPU-1)"])
        if words[0] == "mig":
            self.instances = words[4].split(",") if words[3] == "-cgi" else [] if words[3] == "-dgi" else self.instances
            return 0, ""
        gpu = self.gpus[int(words[1])]
        if words[2] == "-mig":
            gpu["pending"] = {"0": "Disabled", "1": "Enabled"}[words[3]]
            if not self.reset_needed:
                gpu["mig"] = gpu["pending"]
        elif words[2] == "--gpu-reset":
            gpu["mig"] = gpu["pending"]
        elif words[2] == "-pl":
            gpu["power"] = float(words[3])
        elif words[2] == "-e":
            gpu["ecc_pending"] = {"0": "Disabled", "1": "Enabled"}[words[3]]
        return 0, ""


@pytest.fixture
def smi() -> Smi:
    return Smi()


def _twice(smi: Smi, declared: list[dict[str, t.Any]], tmp_path: Path) -> dict[str, t.Any]:
    """Apply, and prove that a second time changes nothing."""
    first = apply(declared, smi, tmp_path / "applied.json")
    second = apply(declared, smi, tmp_path / "applied.json")
    assert not second["changed"], second["commands"]
    return first


def test_limits(smi: Smi, tmp_path: Path) -> None:
    done = _twice(smi, [{"power_limit_w": 300}, {"gpus": [1], "power_limit_w": 200}], tmp_path)
    assert [gpu["power"] for gpu in smi.gpus] == [300.0, 200.0]
    assert done["after"] == ["GPU 0: 300 W", "GPU 1: 200 W"]


def test_a_gpu_is_named_by_its_uuid(smi: Smi, tmp_path: Path) -> None:
    _twice(smi, [{"gpus": ["GPU-1"], "power_limit_w": 150}], tmp_path)
    assert [gpu["power"] for gpu in smi.gpus] == [400.0, 150.0]


def test_clocks_are_locked_once_and_freed_once(smi: Smi, tmp_path: Path) -> None:
    _twice(smi, [{"gpus": [0], "graphics_clocks_mhz": [210, 1410]}], tmp_path)
    _twice(smi, [{"gpus": [0], "graphics_clocks_mhz": []}], tmp_path)
    assert [call for call in smi.calls if "gc" in call] == ["-i 0 -lgc 210,1410", "-i 0 -rgc"]


def test_clocks_are_locked_again_after_a_start(smi: Smi, tmp_path: Path) -> None:
    declared = [{"gpus": [0], "memory_clocks_mhz": [800, 1215]}]
    apply(declared, smi, tmp_path / "before the start")
    assert apply(declared, smi, tmp_path / "after it")["changed"]


def test_mig_is_made_and_made_again_only_for_other_profiles(smi: Smi, tmp_path: Path) -> None:
    layout = ["1g.5gb", "3g.20gb"]
    _twice(smi, [{"gpus": [0], "mig_instances": layout}], tmp_path)
    assert smi.instances == layout
    assert "mig -i 0 -cgi 1g.5gb,3g.20gb -C" in smi.calls
    smi.calls.clear()
    _twice(smi, [{"gpus": [0], "mig_instances": ["2g.10gb"]}], tmp_path)
    assert [call for call in smi.calls if call.startswith("mig")] == [
        "mig -i 0 -dci",
        "mig -i 0 -dgi",
        "mig -i 0 -cgi 2g.10gb -C",
    ]
    _twice(smi, [{"gpus": [0], "mig": False}], tmp_path)
    assert (smi.instances, smi.gpus[0]["mig"]) == ([], "Disabled")


def test_mig_without_instances_leaves_those_there_are(smi: Smi, tmp_path: Path) -> None:
    _twice(smi, [{"gpus": [0], "mig_instances": ["7g.40gb"]}], tmp_path)
    assert not apply([{"gpus": [0], "mig": True}], smi, tmp_path / "applied.json")["changed"]


def test_a_gpu_that_needs_a_reset_for_mig_is_reset(smi: Smi, tmp_path: Path) -> None:
    smi.reset_needed = True
    _twice(smi, [{"gpus": [0], "mig_instances": ["7g.40gb"]}], tmp_path)
    assert "-i 0 --gpu-reset" in smi.calls


def test_a_reset_that_is_refused_is_told(smi: Smi, tmp_path: Path) -> None:
    smi.reset_needed = True
    smi.refuses = {"--gpu-reset": "In use by another client"}
    with pytest.raises(SettingsError, match="In use by another client"):
        apply([{"gpus": [0], "mig": True}], smi, tmp_path / "applied.json")


def test_ecc_waits_for_a_restart(smi: Smi, tmp_path: Path) -> None:
    assert _twice(smi, [{"gpus": [0], "ecc": False}], tmp_path)["reset_required"]
    smi.gpus[0]["ecc"] = "Disabled"
    assert not apply([{"gpus": [0], "ecc": False}], smi, tmp_path / "applied.json")["reset_required"]


def test_what_is_not_declared_stays(smi: Smi, tmp_path: Path) -> None:
    assert not apply([{"gpus": "all"}], smi, tmp_path / "applied.json")["changed"]
    assert not (tmp_path / "applied.json").exists()


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"gpus": [1], "mig": True}, "cannot be divided"),
        ({"gpus": [1], "ecc": True}, "has no ECC"),
        ({"power_limit_w": 900}, "takes 100 to 400 W, not 900"),
    ],
)
def test_what_a_gpu_cannot_do_changes_nothing(smi: Smi, entry: dict[str, t.Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=words):
        apply([entry], smi, tmp_path / "applied.json")
    assert not [call for call in smi.calls if not call.startswith(("--query", "-L"))]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"power": 1}, "unknown keys: power"),
        ({"gpus": []}, "gpus must be"),
        ({"graphics_clocks_mhz": [1410, 210]}, "lowest, highest"),
        ({"graphics_clocks_mhz": [210]}, "lowest, highest"),
        ({"mig_instances": ["1g"]}, "not a MIG profile"),
        ({"mig": False, "mig_instances": ["1g.5gb"]}, "need mig: true"),
    ],
)
def test_what_cannot_be_meant_is_refused(entry: dict[str, t.Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        validate([entry])


def test_profiles_of_every_kind_are_known() -> None:
    validate([{"mig_instances": ["1g.10gb", "1g.10gb+me", "1c.3g.20gb", "7g.80gb"]}])


def test_a_driver_that_does_not_answer_is_told(smi: Smi) -> None:
    smi.refuses = {"--query-gpu": "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."}
    with pytest.raises(SettingsError, match="communicate with the NVIDIA driver"):
        read(smi)
    with pytest.raises(SettingsError, match="not understood"):
        parse_query("No devices were found\n")


def test_instances_belong_to_their_gpu() -> None:
    smi = Smi()
    smi.instances = ["1g.5gb", "3g.20gb"]
    assert parse_list(smi(["nvidia-smi", "-L"])[1]) == {"GPU-0": ["3g.20gb", "1g.5gb"], "GPU-1": []}


def test_a_plan_runs_nothing(smi: Smi) -> None:
    devices = read(smi)
    smi.calls.clear()
    assert plan([{"power_limit_w": 300}], devices, {})
    assert smi.calls == []


def test_the_program_for_the_start(
    smi: Smi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_gpu_settings, "run_program", smi)
    monkeypatch.setattr(_gpu_settings.apply, "__defaults__", (tmp_path / "applied.json",))
    path = tmp_path / "declared.json"
    path.write_text(json.dumps([{"power_limit_w": 300}]))
    assert main([str(path)]) == 0
    assert "GPU 0: 300 W" in capsys.readouterr().out
    assert main([str(path)]) == 0
    assert "as declared" in capsys.readouterr().out
    path.write_text(json.dumps([{"power_limit_w": 9000}]))
    assert main([str(path)]) == 1
    assert "9000" in capsys.readouterr().err
    assert main([]) == 2
