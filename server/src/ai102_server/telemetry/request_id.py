# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""The id that follows a request from the gateway through every log."""

from __future__ import annotations

import random
import re
from typing import Final

__all__ = ["REQUEST_ID_HEADER", "request_id"]

REQUEST_ID_HEADER: Final = "X-Request-ID"
_ACCEPTED: Final = re.compile(r"[A-Za-z0-9._:+/=-]{1,128}")


def request_id(given: str | None) -> str:
    """The id the caller gave, or a new one when it gave none or one that does not belong into a header or a log."""
    if given is not None and _ACCEPTED.fullmatch(given):
        return given
    # Ids are no secrets. Asking the kernel would give up the interpreter, and under load others would have it first.
    return f"{random.getrandbits(128):032x}"
