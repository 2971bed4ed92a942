# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""How steps are declared, and what they are told about the package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import orjson

from ai102_server.config.reader import MISSING, Section, kind_of
from ai102_server.errors import ModelError

__all__ = ["VALUE", "ReadFile", "Refused", "Step", "read_labels", "read_steps", "to_number", "to_numbers"]

ReadFile = Callable[[str], bytes]
VALUE: Final = "value"
_T = TypeVar("_T")


class Refused(Exception):  # noqa: N818 - it is not an error of ours
    """What a client sent cannot be processed; the message goes on after the name of the element."""


@dataclass(frozen=True)
class Step:
    """A step as declared: its kind and its options; a step that is given one value has it as option ``value``."""

    kind: str
    options: Section


def read_steps(section: Section) -> list[Step]:
    """The steps below ``section``; mistakes in their form are reported."""
    value = section.raw("steps")
    if value is MISSING:
        return []
    if not isinstance(value, list):
        section.report("steps", f"must be a list of steps, not {kind_of(value)}")
        return []
    steps: list[Step] = []
    for index, item in enumerate(value):
        at = section.at(f"steps[{index}]")
        if isinstance(item, str):
            steps.append(Step(item, Section(None, f"{at}.{item}", section.problems)))
        elif isinstance(item, dict) and len(item) == 1 and isinstance(next(iter(item)), str):
            kind, options = next(iter(item.items()))
            given = options if isinstance(options, dict) or options is None else {VALUE: options}
            steps.append(Step(kind, Section(given, f"{at}.{kind}", section.problems)))
        else:
            section.report(f"steps[{index}]", 'must be the name of a step, or one with its options: {"softmax": {}}')
    return steps


def to_number(value: object) -> float:
    """A number that is finite."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"must be a number, not {kind_of(value)}")
    number = float(value)
    if number != number or number in (float("inf"), float("-inf")):  # noqa: PLR0124 - NaN is what does not equal itself
        raise ValueError("must be a finite number")
    return number


def to_numbers(value: object) -> tuple[float, ...]:
    """A number, or a list of numbers: one for each channel."""
    items = value if isinstance(value, list) else [value]
    if not items:
        raise ValueError("must be a number, or one for each channel")
    return tuple(to_number(item) for item in items)


def read_labels(section: Section, key: str, read_file: ReadFile) -> tuple[str, ...] | None:
    """Labels of the file that an option names, in their order; None when it names none, or it cannot be used."""
    value = section.raw(key)
    if value is MISSING:
        return None
    if not isinstance(value, str):
        section.report(key, f"must be the name of a file, not {kind_of(value)}")
        return None
    try:
        return _labels(read_file(value), value)
    except (ValueError, ModelError) as error:
        section.report(key, str(error))
        return None


def _labels(content: bytes, name: str) -> tuple[str, ...]:
    if not name.endswith(".json"):
        labels: Any = content.decode("utf-8").splitlines()
    else:
        labels = orjson.loads(content)
        if isinstance(labels, dict):
            labels = labels.get("labels")
    if not isinstance(labels, list) or not labels or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"{name} must hold a label in each line, a JSON list of labels, or one under 'labels'")
    return tuple(labels)
