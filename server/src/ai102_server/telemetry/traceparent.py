# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""The header ``traceparent`` of W3C Trace Context (https://www.w3.org/TR/trace-context/), which logs need as well."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

__all__ = ["Parent", "parse_traceparent"]

_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_SAMPLED: Final = 0x01


class Parent(NamedTuple):
    """What ``traceparent`` says."""

    trace_id: str
    span_id: str
    sampled: bool


def parse_traceparent(header: str | None) -> Parent | None:
    """The header's parts; None when there is none or it is not valid, which the standard says to ignore."""
    if header is None:
        return None
    match = _TRACEPARENT.fullmatch(header.strip())
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    # Version 0 ends here; later ones may go on. Zeros stand for nothing.
    if version == "ff" or (version == "00" and rest) or not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return Parent(trace_id, span_id, bool(int(flags, 16) & _SAMPLED))
