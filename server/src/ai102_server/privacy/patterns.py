# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Regular expressions of operators, admitted only when no text can make them slow.

Python's ``re`` tries one way after the other, and a pattern such as ``(a+)+b`` has exponentially many on some texts.
The number of ways to try from one position is bounded by what the pattern is built of, so it is counted, and a pattern
with too many is refused with a hint. That is stricter than needed for some harmless patterns, and safe for all: the
time a pattern takes grows with the length of the text, and no faster.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["MAX_PATTERNS", "MAX_PATTERN_CHARACTERS", "MAX_STEPS", "CustomPattern"]

# Python's own, without type information, and under other names before 3.11.
_constants: Final[Any] = importlib.import_module("re._constants" if sys.version_info >= (3, 11) else "sre_constants")
_parser: Final[Any] = importlib.import_module("re._parser" if sys.version_info >= (3, 11) else "sre_parse")

MAX_PATTERNS: Final = 32
MAX_PATTERN_CHARACTERS: Final = 500
MAX_STEPS: Final = 32_768
"""Ways to match from one position, times the characters that each looks at."""
_MAX_DEPTH: Final = 20

_REPEATS: Final = frozenset(
    getattr(_constants, name) for name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT") if hasattr(_constants, name)
)
_GROUPS: Final = frozenset(
    getattr(_constants, name) for name in ("ASSERT", "ASSERT_NOT", "ATOMIC_GROUP") if hasattr(_constants, name)
)


@dataclass(frozen=True)
class CustomPattern:
    """A pattern that was admitted. What it finds is replaced by ``[name]``."""

    name: str
    pattern: re.Pattern[str]

    @classmethod
    def parse(cls, name: str, text: str) -> CustomPattern:
        """Check and compile. Raises ``ValueError`` with what is wrong and how to mend it."""
        if len(text) > MAX_PATTERN_CHARACTERS:
            raise ValueError(f"has {len(text)} characters, at most {MAX_PATTERN_CHARACTERS} are allowed")
        try:
            # Counted before it is compiled: compiling takes time of its own for what is refused here.
            parsed = _parser.parse(text)
            ways = _ways(parsed, 0)
            shortest, longest = parsed.getwidth()
            if shortest == 0:
                raise ValueError("can match nothing at all: make one part of it mandatory")
            if ways * longest > MAX_STEPS:
                raise ValueError(
                    f"may take more than {MAX_STEPS} steps at each character: "
                    "use smaller bounds, or fewer parts that vary"
                )
            return cls(name, re.compile(text))
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"is not a regular expression: {error}") from None


def _ways(parsed: Iterable[tuple[Any, Any]], depth: int) -> int:
    """Upper bound of the ways in which a parsed pattern can match from one position. Raises ``ValueError``."""
    if depth > _MAX_DEPTH:
        raise ValueError("is nested too deeply")
    total = 1
    for operator, argument in parsed:
        total *= _ways_of(operator, argument, depth)
        if total > MAX_STEPS:
            return MAX_STEPS + 1
    return total


def _ways_of(operator: Any, argument: Any, depth: int) -> int:  # noqa: ANN401  # Python's parser has no types
    if operator in _REPEATS:
        low, high, item = argument
        if high is _constants.MAXREPEAT:
            raise ValueError("repeats without a bound ('*', '+', '{2,}'): give one, such as {1,64}")
        inner = _ways(item, depth + 1)
        # From low to high times, and each time in as many ways as what is repeated has.
        times = range(low, min(high, low + MAX_STEPS) + 1)
        ways: int = sum(inner ** min(count, MAX_STEPS.bit_length()) for count in times)
        return min(ways, MAX_STEPS + 1)
    if operator is _constants.BRANCH:
        return sum(_ways(branch, depth + 1) for branch in argument[1])
    if operator is _constants.SUBPATTERN:
        return _ways(argument[-1], depth + 1)
    if operator in _GROUPS:
        return _ways(argument[1] if isinstance(argument, tuple) else argument, depth + 1)
    if operator in {_constants.GROUPREF, _constants.GROUPREF_EXISTS}:
        raise ValueError("refers back to a group, which is not allowed: write the alternatives out")
    return 1
