# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""The threads that take requests: many when they must wait for something, few when they only compete.

Granian takes a thread for each request while there are any, and threads of one interpreter that all have something to
do only take it from each other: with two of them, quick models answer up to 1.4 times as many requests as with sixteen.
But a thread that reads from a slow client, or runs a model, is no use to others. So a thread that has answered parks
when enough others are free, and when those that are free have been busy for too long, parked ones take their places.

Reading a request and running a quick model takes no time worth telling anybody. So threads only write down since when
they have been busy, and a watch looks at that while there is anything to look at.
"""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType
from typing import Final

__all__ = ["Takers", "blocking", "takers"]

logger = logging.getLogger(__name__)

FREE_THREADS: Final = 2
"""One that has the interpreter, and one that comes as soon as the first gives it up."""


TICK_SECONDS: Final = 0.005
"""How long a thread may be busy before it no longer counts as free, give or take as much."""
LINGER_TICKS: Final = 200
"""So long the watch goes on when there is nothing to look at: waking it costs more than a look."""


class Takers:
    """Keeps ``keep`` threads free. A thread counts from its first ``arrive`` on, and must never end."""

    def __init__(self, keep: int) -> None:
        self._keep: Final = keep
        self._lock: Final = threading.Lock()
        self._mine: Final = threading.local()
        self._free = 0
        self._parked: Final[list[threading.Lock]] = []
        # Since when each thread that counts as free has been busy. Whoever takes a thread out of it changes ``_free``.
        self._busy: Final[dict[int, float]] = {}
        self._something: Final = threading.Event()
        self._watched = False

    @property
    def free(self) -> int:
        """Threads that take requests, or are about to."""
        return self._free

    @property
    def parked(self) -> int:
        """Threads that wait until they are needed."""
        return len(self._parked)

    def arrive(self) -> None:
        """Count the calling thread, which takes a request."""
        if getattr(self._mine, "depth", None) is None:
            with self._lock:
                if not self._watched:
                    try:
                        threading.Thread(target=self._watch, name="takers-watch", daemon=True).start()
                    except RuntimeError:
                        # No more threads may be had. Without the watch nobody may park; the next request tries again.
                        return
                    self._watched = True
                self._mine.depth = 0
                self._mine.ident = threading.get_ident()
                self._free += 1

    def park(self) -> None:
        """Wait, with the request done, for as long as enough other threads are free."""
        if getattr(self._mine, "depth", None) is None:
            return
        if self._free <= self._keep:
            return
        with self._lock:
            if self._free <= self._keep:
                return
            self._free -= 1
            here = threading.Lock()
            here.acquire()
            self._parked.append(here)
        here.acquire()

    def __enter__(self) -> None:
        """Say that the calling thread is busy from now on, or waits."""
        mine = self._mine
        depth = getattr(mine, "depth", None)
        if depth is None:
            return
        mine.depth = depth + 1
        if depth:
            return
        self._busy[mine.ident] = time.monotonic()
        if not self._something.is_set():
            self._something.set()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Say that it takes requests again."""
        mine = self._mine
        depth = getattr(mine, "depth", None)
        if depth is None:
            return
        mine.depth = depth - 1
        if depth == 1 and self._busy.pop(mine.ident, None) is None:
            with self._lock:
                self._free += 1

    def _watch(self) -> None:
        idle = 0
        while True:
            self._something.wait()
            time.sleep(TICK_SECONDS)
            if self._busy:
                idle = 0
                try:
                    self._look(time.monotonic() - TICK_SECONDS)
                except Exception:
                    # Without this thread nobody who is parked would ever be woken.
                    logger.exception("threads that take requests cannot be looked after")
            elif idle < LINGER_TICKS:
                idle += 1
            else:
                # Before the look: whoever comes after it sets it again.
                self._something.clear()
                if self._busy:
                    self._something.set()

    def _look(self, before: float) -> None:
        """Have parked threads take the places of those that have been busy since ``before``."""
        with self._lock:
            for ident, since in self._busy.copy().items():
                if since > before or self._busy.pop(ident, None) is None:
                    continue
                self._free -= 1
                if self._free <= 0 and self._parked:
                    # Counted by us, so that nobody else wakes one as well.
                    self._free += 1
                    self._parked.pop().release()


takers: Final = Takers(FREE_THREADS)
"""Those of this process."""


def blocking() -> Takers:
    """The context for what may take long. It does nothing on threads that take no requests."""
    return takers
