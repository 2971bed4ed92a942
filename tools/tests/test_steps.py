"""Tests of what is printed about a step that failed."""

from __future__ import annotations

from pathlib import Path

import _steps
import pytest
from _steps import REASONS_MAX, Runner, Step, reasons


def test_the_reason_is_found_far_from_the_end() -> None:
    log = "\n".join(
        ["collected 3 items", "E       assert 1 == 2", *["changed: [host]"] * 500, "FAILED tests/test_a.py::test_b"]
    )
    assert reasons(log) == ["E       assert 1 == 2", "FAILED tests/test_a.py::test_b"]


def test_without_a_reason_the_end_is_shown() -> None:
    assert reasons("\n".join(f"line {number}" for number in range(100)))[-1] == "line 99"
    assert len(reasons("\n".join(f"line {number}" for number in range(100)))) == REASONS_MAX


def test_a_step_waits_for_the_one_it_comes_after_and_lets_others_go_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(_steps, "LOGS", tmp_path)
    monkeypatch.setattr(_steps, "ROOT", tmp_path)
    order = tmp_path / "order"
    steps = [
        Step("build", [["sh", "-c", f"sleep 0.6; echo build >> {order}; exit 1"]]),
        Step("later", [["sh", "-c", f"echo later >> {order}"]], after="build"),
        Step("other", [["sh", "-c", f"echo other >> {order}"]]),
        Step("lonely", [["sh", "-c", f"echo lonely >> {order}"]], after="not of this run"),
    ]
    assert not Runner(len(steps)).run(steps, workers=2)
    assert order.read_text().split() == ["other", "lonely", "build", "later"]
