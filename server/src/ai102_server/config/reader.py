# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Reads one section of the configuration file: every mistake is collected, none raises.

A converter takes the value as YAML gave it and returns it in the type that is wanted, or raises ``ValueError`` with
what is wrong and how to mend it; the path of the key is put in front.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, TypeVar

__all__ = [
    "MISSING",
    "Section",
    "kind_of",
    "to_choice",
    "to_component",
    "to_count",
    "to_flag",
    "to_integer",
    "to_mode",
    "to_path",
    "to_seconds",
    "to_text",
    "to_version",
]

MAX_MODE: Final = 0o777

_T = TypeVar("_T")
MISSING: Final = object()


class Section:
    """One mapping of the file. Every key that is read is remembered, so that the others can be reported."""

    def __init__(self, value: object, path: str, problems: list[str]) -> None:
        self.path = path
        self.problems = problems
        self.known: list[str] = []
        self.data: dict[object, object] = {}
        if value is MISSING or value is None:
            return
        if not isinstance(value, dict):
            self.report("", f"must be a mapping of keys to values, not {kind_of(value)}")
            return
        self.data = value

    def at(self, key: str) -> str:
        """Path of a key from the top of the file, such as ``listen.tls.key``."""
        return f"{self.path}.{key}" if self.path else key

    def report(self, key: str, message: str) -> None:
        """Note a mistake of a key, or of the section itself when ``key`` is empty."""
        where = self.at(key) if key else self.path
        self.problems.append(f"{where}: {message}" if where else message)

    def has(self, key: str) -> bool:
        """Whether the file gives this key a value."""
        return self.data.get(key) is not None

    def raw(self, key: str) -> object:
        """The value as YAML gave it; ``MISSING`` when there is none."""
        self.known.append(key)
        value = self.data.get(key, MISSING)
        return MISSING if value is None else value

    def get(self, key: str, default: _T, convert: Callable[[object], _T]) -> _T:
        """Value of ``key``; the default when the key is absent or its value was reported as wrong."""
        value = self.raw(key)
        if value is MISSING:
            return default
        try:
            return convert(value)
        except ValueError as error:
            self.report(key, str(error))
            return default

    def require(self, key: str, fallback: _T, convert: Callable[[object], _T], hint: str) -> _T:
        """As ``get`` for a key that must be there; ``hint`` says what belongs there."""
        if not self.has(key):
            self.known.append(key)
            self.report(key, f"is missing: {hint}")
            return fallback
        return self.get(key, fallback, convert)

    def section(self, key: str) -> Section:
        """The mapping below a key; empty when there is none."""
        return Section(self.raw(key), self.at(key), self.problems)

    def finish(self) -> None:
        """Report the keys that nobody asked for."""
        for key in self.data:
            if key not in self.known:
                near = difflib.get_close_matches(str(key), self.known, n=1)
                hint = f"did you mean '{near[0]}'?" if near else f"known keys here: {', '.join(sorted(self.known))}"
                self.report(str(key), f"unknown key; {hint}")


def kind_of(value: object) -> str:
    """What people call the type of a value."""
    names = {bool: "true/false", int: "a number", float: "a number", str: "text", list: "a list", dict: "a mapping"}
    return names.get(type(value), type(value).__name__)


def to_text(value: object) -> str:
    """Text that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"must be text, not {kind_of(value)}")
    return value


def to_version(value: object) -> str:
    """A version, text or a whole number, as text."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError(f'must be text, not {kind_of(value)}; write it in quotes, as in version: "1.10"')
    return to_component(str(value))


def to_component(value: object) -> str:
    """Text that can stand in an URL and in a path as one component."""
    text = to_text(value)
    if text in {".", ".."} or not all(c.isascii() and (c.isalnum() or c in "._-") for c in text):
        raise ValueError(f"'{text}' may only hold letters, digits, '.', '_' and '-'")
    return text


def to_path(value: object) -> Path:
    """An absolute path."""
    path = Path(to_text(value))
    if not path.is_absolute():
        raise ValueError(f"'{path}' must be an absolute path")
    return path


def to_flag(value: object) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {kind_of(value)}")
    return value


def to_integer(low: int, high: int) -> Callable[[object], int]:
    """A whole number from ``low`` to ``high``."""

    def convert(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"must be a whole number, not {kind_of(value)}")
        if not low <= value <= high:
            raise ValueError(f"{value} is out of range, must be {low} to {high}")
        return value

    return convert


def to_seconds(low: float, high: float) -> Callable[[object], float]:
    """A number of seconds from ``low`` to ``high``."""

    def convert(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"must be a number of seconds, not {kind_of(value)}")
        if not low <= value <= high:
            raise ValueError(f"{value} is out of range, must be {low:g} to {high:g} seconds")
        return float(value)

    return convert


def to_choice(choices: Iterable[str]) -> Callable[[object], str]:
    """One of the texts given."""
    allowed = tuple(choices)

    def convert(value: object) -> str:
        text = str(value)
        if text not in allowed:
            near = difflib.get_close_matches(text, allowed, n=1)
            mean = f"; did you mean '{near[0]}'?" if near else ""
            raise ValueError(f"'{text}' is not one of {', '.join(allowed)}{mean}")
        return text

    return convert


def to_mode(value: object) -> int:
    """A file mode in octal."""
    # YAML 1.1 reads 0660 as the octal number it looks like; "0660" is text.
    try:
        mode = int(value, 8) if isinstance(value, str) else value
    except ValueError:
        mode = None
    if isinstance(mode, bool) or not isinstance(mode, int) or not 0 <= mode <= MAX_MODE:
        raise ValueError('must be an octal file mode in quotes, such as "0660"')
    return mode


def to_count(value: object) -> int | None:
    """A whole number from 1 to 1024, or ``auto`` (None)."""
    if value == "auto":
        return None
    if isinstance(value, str):
        raise ValueError(f"'{value}' is neither a whole number nor auto")
    return to_integer(1, 1024)(value)
