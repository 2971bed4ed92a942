# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""How long a client waits: the header ``X-Request-Timeout``.

Its value is a number of seconds (``2``, ``0.25``), or a whole number of at most 8 digits with a unit as in the header
``grpc-timeout``: H hours, M minutes, S seconds, m milliseconds, u microseconds, n nanoseconds (``250m``). Source: "gRPC
over HTTP2", section Requests.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from ai102_server.errors import RequestError

__all__ = ["TIMEOUT_HEADER", "earliest", "parse_timeout_header"]

TIMEOUT_HEADER: Final = "X-Request-Timeout"
_UNITS: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9, "": 1.0}
_FORM: Final = re.compile(r"([0-9]{1,8}(?:\.[0-9]{1,9})?)()|([0-9]{1,8})([HMSmun])")


# Clients send one value again and again.
@lru_cache(maxsize=256)
def parse_timeout_header(value: str) -> float:
    """Seconds, more than 0. Raises ``RequestError`` (400)."""
    match = _FORM.fullmatch(value.strip())
    seconds = 0.0
    if match is not None:
        seconds = float(match[1] or match[3]) * _UNITS[match[2] if match[1] else match[4]]
    if seconds <= 0:
        raise RequestError(
            400, f"{TIMEOUT_HEADER} must be a number of seconds above 0, or one with a unit, such as 0.25 or 250m"
        )
    return seconds


def earliest(first: float | None, second: float | None) -> float | None:
    """The shorter of two waits, where None is no bound."""
    if first is None or second is None:
        return second if first is None else first
    return min(first, second)
