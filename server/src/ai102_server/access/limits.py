# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Memory that all worker processes share: limits, in-flight counts, and a number that grows with each revocation.

It is made before the fork: a file without a name (``memfd_create``), mapped into every process. Its locks are POSIX
record locks on ranges of that file, because the kernel releases them when their process dies, however it dies; beneath
them a ``threading.Lock`` keeps the threads of one process apart, since such locks belong to processes.

The table of subjects is a set-associative cache: the key, a keyed hash of the subject, decides on a set of 16 slots,
and the lock of that set is the only one that is taken. Named subjects and anonymous sources have sets of their own, so
that no flood of addresses makes room at the cost of a subject. In a full set the slot makes room that has the least to
forget: whose bucket is full, or will be first. A slot with requests in flight is never taken away.

In-flight counts stand in one row for each process, which claims its row by a lock that it keeps. So rows of the dead
are known, and are cleared by whoever looks next.

A lock that processes share is a system call, gives up the interpreter, and has all callers of a busy subject wait for
each other. So where a rate is high a process takes tokens for the next 50 ms at once, and hands them out by itself;
what is in flight it counts in its own row first and looks at the sum then, which needs no lock either. Tokens never
come into being by that. A process that has taken some that it does not need keeps them from the others for a second at
most: no more than a sixteenth of the burst.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import secrets
import threading
import time
from typing import Final

from ai102_server.config.access import Limit

__all__ = ["REFUSED", "SharedTable"]

WAYS: Final = 16
ROWS: Final = 128
"""Processes that can count at the same time."""
REFUSED: Final = -1
_HEADER: Final = 64
"""Bytes. The first eight are the generation, the next four how many rows were ever claimed."""
_ROW_LOCKS: Final = 1 << 32
"""Locks need no bytes behind them: those of rows and of log-ins are far beyond those of the sets."""
_PASS_LOCKS: Final = 1 << 33
_FOREVER: Final = float("inf")
_LEASE_SECONDS: Final = 0.05
"""So long a process that is busy does with the tokens it takes."""
_LEASE_SHARE: Final = 1 / 16
"""Of the burst; a process never takes more."""
_LEASE_ENDS: Final = 1.0
"""Seconds after which tokens that were taken and not handed out are lost."""


class _Lease:
    """Tokens that this process has taken from a bucket."""

    __slots__ = ("tokens", "until")

    def __init__(self, tokens: int, until: float) -> None:
        self.tokens = tokens
        self.until = until


class SharedTable:
    """Counts for at least ``subjects`` subjects, half of them anonymous. One object serves all threads of a process."""

    def __init__(self, subjects: int) -> None:
        self._sets = -(-subjects // (2 * WAYS)) * 2
        self._slots = slots = self._sets * WAYS
        size = _HEADER + slots * 32 + slots * ROWS * 4
        self._fd = os.memfd_create("ai102-access", os.MFD_CLOEXEC)
        os.ftruncate(self._fd, size)
        whole = memoryview(mmap.mmap(self._fd, size))
        self.generation: Final = whole[0:8].cast("Q")
        """One number. A process that sees another one than before must look again at what was revoked."""
        self._high = whole[8:12].cast("I")
        offset = _HEADER
        self._keys = whole[offset : offset + slots * 8].cast("Q")
        offset += slots * 8
        self._tokens = whole[offset : offset + slots * 8].cast("d")
        offset += slots * 8
        self._updated = whole[offset : offset + slots * 8].cast("d")
        offset += slots * 8
        # When the bucket will be full again; what is beyond that has no history.
        self._full_at = whole[offset : offset + slots * 8].cast("d")
        offset += slots * 8
        self._inflight = whole[offset:].cast("I")
        self._secret = secrets.token_bytes(16)
        self._lock = threading.Lock()
        self._leases: dict[int, _Lease] = {}
        self._row = -1
        self._pid = 0

    # Revocation --------------------------------------------------------------------------------------------------
    def bump(self) -> None:
        """Let every process look again at what was revoked."""
        with self._lock:
            fcntl.lockf(self._fd, fcntl.LOCK_EX, 1, 0)
            try:
                self.generation[0] += 1
            finally:
                fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, 0)

    # Rows --------------------------------------------------------------------------------------------------------
    def claim(self) -> int:
        """Give this process a row to count in, the same one each time. Raises ``RuntimeError`` when all are taken."""
        with self._lock:
            if self._pid == os.getpid():
                return self._row
            for row in range(ROWS):
                if self._try(_ROW_LOCKS + row):
                    self._clear(row)
                    self._row, self._pid = row, os.getpid()
                    self._high[0] = max(self._high[0], row + 1)
                    return row
        raise RuntimeError(f"more than {ROWS} processes count requests")

    def reclaim(self) -> None:
        """Clear the counts of processes that died, and tokens that nobody wanted."""
        now = time.monotonic()
        with self._lock:
            self._leases = {key: lease for key, lease in self._leases.items() if lease.until > now}
            for row in range(self._high[0]):
                # To its owner a lock always looks free.
                if row != self._row and self._try(_ROW_LOCKS + row):
                    self._clear(row)
                    self._unlock(_ROW_LOCKS + row)

    def _clear(self, row: int) -> None:
        self._inflight[row * self._slots : (row + 1) * self._slots] = memoryview(bytes(self._slots * 4)).cast("I")

    def _try(self, where: int) -> bool:
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, where)
        except OSError:
            return False
        return True

    def _unlock(self, where: int) -> None:
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, where)

    # Log-ins -----------------------------------------------------------------------------------------------------
    def enter_pass(self, number: int) -> bool:
        """Take one of the passes that exist once for all processes; the caller keeps its own threads apart."""
        return self._try(_PASS_LOCKS + number)

    def leave_pass(self, number: int) -> None:
        """Give a pass back."""
        self._unlock(_PASS_LOCKS + number)

    # Limits ------------------------------------------------------------------------------------------------------
    def key(self, subject: str, *, anonymous: bool) -> int:
        """The key of a subject, or of an anonymous source: 64 bits that nobody outside can aim at a set."""
        digest = hashlib.blake2b(subject.encode("utf-8", "surrogatepass"), digest_size=8, key=self._secret).digest()
        # The lowest bit says which sets; 0 is no key.
        return ((int.from_bytes(digest, "big") >> 1 | 1 << 62) << 1 | anonymous) & ((1 << 64) - 1)

    def take(self, key: int, limit: Limit, hint: int = 0) -> tuple[int, float]:
        """Count a request. ``hint`` is the slot of the last time.

        Returns the slot, to be given to ``release`` when the limit has ``concurrent``, and 0; or ``REFUSED`` and the
        seconds after which another try may succeed.
        """
        with self._lock:
            if self._keys[hint] == key and self._take_alone(key, limit, hint):
                return hint, 0.0
            which = key % self._sets
            fcntl.lockf(self._fd, fcntl.LOCK_EX, 1, which)
            try:
                return self._take(key, which * WAYS, limit, hint)
            finally:
                fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, which)

    def _take_alone(self, key: int, limit: Limit, slot: int) -> bool:
        """Count a request without asking other processes; False, and nothing changed, when that cannot be."""
        lease = None
        if limit.requests_per_second:
            lease = self._leases.get(key)
            if lease is None or not lease.tokens or lease.until <= time.monotonic():
                return False
        if limit.concurrent and not self._enter(slot, limit.concurrent):
            return False
        if self._keys[slot] != key:
            # Given to another subject in this very moment.
            if limit.concurrent:
                self._leave(slot)
            return False
        if lease is not None:
            lease.tokens -= 1
        else:
            self._full_at[slot] = time.monotonic()
        return True

    def _take(self, key: int, first: int, limit: Limit, hint: int) -> tuple[int, float]:
        now = time.monotonic()
        slot = hint if self._keys[hint] == key else self._find(key, first, limit, now)
        if slot == REFUSED:
            return REFUSED, 1.0
        rate = limit.requests_per_second
        if rate:
            tokens = min(limit.burst, self._tokens[slot] + (now - self._updated[slot]) * rate)
            lease = self._leases.get(key)
            left = lease.tokens if lease is not None and lease.until > now else 0
            if not left and tokens < 1.0:
                return REFUSED, (1.0 - tokens) / rate
        if limit.concurrent and not self._enter(slot, limit.concurrent):
            return REFUSED, 1.0
        if not rate:
            self._full_at[slot] = now
        elif left:
            self._leases[key].tokens = left - 1
        else:
            taken = max(1, int(min(tokens, rate * _LEASE_SECONDS, limit.burst * _LEASE_SHARE)))
            self._updated[slot] = now
            self._tokens[slot] = tokens - taken
            self._full_at[slot] = now + (limit.burst - tokens + taken) / rate
            if taken > 1:
                self._leases[key] = _Lease(taken - 1, now + _LEASE_ENDS)
        return slot, 0.0

    def _enter(self, slot: int, most: int) -> bool:
        """Count one more in flight, unless there are ``most``. Others do the same: count first, then look."""
        where = self._row * self._slots + slot
        self._inflight[where] += 1
        if self._used(slot) > most:
            self._inflight[where] -= 1
            return False
        return True

    def _leave(self, slot: int) -> None:
        where = self._row * self._slots + slot
        if self._inflight[where]:
            self._inflight[where] -= 1

    def _used(self, slot: int) -> int:
        return sum(self._inflight[slot : self._high[0] * self._slots : self._slots])

    def _find(self, key: int, first: int, limit: Limit, now: float) -> int:
        keys = self._keys[first : first + WAYS].tolist()
        if key in keys:
            return first + keys.index(key)
        best, soonest = REFUSED, _FOREVER
        for slot in range(first, first + WAYS):
            # A slot that was never used is full since the machine started.
            if self._full_at[slot] < soonest and not self._used(slot):
                best, soonest = slot, self._full_at[slot]
        if best != REFUSED:
            # The key first and last: a process that dies in between leaves a slot of nobody.
            self._keys[best] = 0
            self._tokens[best], self._updated[best], self._full_at[best] = float(limit.burst), now, now
            self._keys[best] = key
        return best

    def release(self, slot: int) -> None:
        """A request that was counted as in flight has ended."""
        with self._lock:
            self._leave(slot)

    def inflight(self, key: int) -> int:
        """How many requests of a subject are in flight, in all processes."""
        first = key % self._sets * WAYS
        keys = self._keys[first : first + WAYS].tolist()
        return self._used(first + keys.index(key)) if key in keys else 0
