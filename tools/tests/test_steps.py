"""Tests of what is printed about a step that failed."""

from __future__ import annotations

from _steps import REASONS_MAX, reasons


def test_the_reason_is_found_far_from_the_end() -> None:
    log = "\n".join(
        ["collected 3 items", "E       assert 1 == 2", *["changed: [host]"] * 500, "FAILED tests/test_a.py::test_b"]
    )
    assert reasons(log) == ["E       assert 1 == 2", "FAILED tests/test_a.py::test_b"]


def test_without_a_reason_the_end_is_shown() -> None:
    assert reasons("\n".join(f"line {number}" for number in range(100)))[-1] == "line 99"
    assert len(reasons("\n".join(f"line {number}" for number in range(100)))) == REASONS_MAX
