# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Admission: so many requests are in the house, the others are told to come back.

Without a bound a server under overload answers everybody too late; with one it answers most in time. It is asked before
a body is read, so that those who are turned away cost next to nothing, and health and metrics keep threads to run on.
"""

from __future__ import annotations

import threading
from typing import Final

from ai102_server.errors import RequestError

__all__ = ["Admission"]


class Admission:
    """So many requests may be inside at a time."""

    def __init__(self, limit: int) -> None:
        self._limit: Final = limit
        self._lock: Final = threading.Lock()
        self._inflight = 0

    @property
    def inflight(self) -> int:
        """Requests inside: read, waiting, or running."""
        return self._inflight

    def enter(self) -> None:
        """Let one in. Raises ``RequestError`` (503)."""
        with self._lock:
            if self._inflight >= self._limit:
                message = "the server is busy: too many requests wait already"
                raise RequestError(503, message, retry_after=1, reason="queue_full")
            self._inflight += 1

    def leave(self) -> None:
        """One is done."""
        with self._lock:
            self._inflight -= 1
