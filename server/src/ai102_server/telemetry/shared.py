# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""The memory that all processes of a server share for their figures. It is created before the fork.

Each worker has a row of its own and is the only one that counts in it, so that counting needs no lock; whichever worker
is asked adds the rows up. A worker that takes the place of a dead one goes on in the same row. What the workers must
agree on (which model has which slot of a row) changes seldom, under a lock that the kernel releases when its holder
dies.

This module knows sizes only: the supervisor imports it, and must not load numpy, which starts threads.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import threading
import weakref
from collections.abc import Iterator
from typing import Final

from ai102_server.config import Config
from ai102_server.privacy.keys import Keyring
from ai102_server.privacy.pseudonyms import Pseudonyms
from ai102_server.telemetry.record import REASONS, STATUSES

__all__ = ["BATCH_SIZES", "BUCKETS", "COUNTERS", "PHASES", "SLOTS", "Fields", "Process", "Slots", "TelemetryShared"]

SLOTS: Final = 256
"""Model versions that can be registered at a time, and one slot for requests of no registered model."""
COUNTERS: Final = 128
"""Series of counters that other parts of the server can make."""
BUCKETS: Final = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
"""Upper bounds of the buckets of all histograms of time, in seconds."""
BATCH_SIZES: Final = 256
"""Largest batch with a series of its own; larger ones are counted together."""
PHASES: Final = ("read", "decode", "queue", "run", "encode")

_PAGE: Final = mmap.PAGESIZE


class Fields:
    """Columns of a slot: 64-bit floating point numbers, which count exactly to 2^53.

    A histogram has a column for each bucket, one for what is above, and one for the sum.
    """

    HISTOGRAM: Final = len(BUCKETS) + 2
    STATUS: Final = 0
    REASON: Final = STATUS + len(STATUSES) + 1
    REQUEST: Final = REASON + len(REASONS)
    QUEUE: Final = REQUEST + HISTOGRAM
    INFERENCE: Final = QUEUE + HISTOGRAM
    RUN: Final = INFERENCE + HISTOGRAM
    # Of each phase: how often, and the sum of seconds.
    PHASE: Final = RUN + HISTOGRAM
    BYTES_IN: Final = PHASE + 2 * len(PHASES)
    BYTES_OUT: Final = BYTES_IN + 1
    # Seconds of requests that were answered with 200, and of all others.
    SECONDS_OK: Final = BYTES_OUT + 1
    SECONDS_FAILED: Final = SECONDS_OK + 1
    # ``time.time()`` of the last request.
    LAST: Final = SECONDS_FAILED + 1
    LOADED: Final = LAST + 1
    FAILED: Final = LOADED + 1
    UNLOADED: Final = FAILED + 1
    # By exact size of the batch: runs, and the sum of seconds. Index 0 is for the sizes above the largest.
    RUNS: Final = UNLOADED + 1
    RUN_SECONDS: Final = RUNS + BATCH_SIZES + 1
    # Rows of all runs.
    ROWS: Final = RUN_SECONDS + BATCH_SIZES + 1
    COUNT: Final = ROWS + 1


class Slots:
    """The table of slots: sizes of its columns in bytes."""

    NAME: Final = 200
    VERSION: Final = 64
    PROVIDER: Final = 64
    SHA256: Final = 64
    REASON: Final = 240
    # Time of removal (8), used (1), name, version.
    ITEM: Final = 288
    # State (1), provider, sha256, reason, of each worker.
    STATE: Final = 384
    KEY: Final = 512


class Process:
    """Columns of a worker's own figures: 64-bit floating point numbers."""

    PID: Final = 0
    STARTED: Final = 1
    INFLIGHT: Final = 2
    WAITING: Final = 3
    READY: Final = 4
    DRAINING: Final = 5
    LOG_DROPPED: Final = 6
    SPANS_MADE: Final = 7
    SPANS_SENT: Final = 8
    SPANS_FAILED: Final = 9
    # Collections, collected, uncollectable of the three generations of Python's collector.
    COLLECTOR: Final = 10
    RESTARTS: Final = 19
    COUNT: Final = 24


class TelemetryShared:
    """Shared memory for ``workers`` processes, the lock, and what must be the same in all of them.

    Make it before the fork with ``create``. The operating system gives memory to a page when it is first written, so
    that room for many models costs nothing until they are there.
    """

    def __init__(self, workers: int, keyring: Keyring) -> None:
        self.workers: Final = workers
        self.supervisor: Final = os.getpid()
        self.pseudonyms: Final = Pseudonyms(keyring)
        offset = 0
        offsets: list[int] = []
        for size in (
            16 * 8,  # epoch of the slot table, and of the counters
            workers * Process.COUNT * 8,
            SLOTS * Slots.ITEM,
            workers * SLOTS * Slots.STATE,
            COUNTERS * Slots.KEY,
            workers * COUNTERS * 8,
            workers * SLOTS * Fields.COUNT * 8,
        ):
            offsets.append(offset)
            offset += -(-size // _PAGE) * _PAGE
        self.header, self.processes, self.slots, self.states, self.keys, self.counters, self.rows = offsets
        self.memory: Final = mmap.mmap(-1, offset)
        self._descriptor: Final = os.memfd_create("ai102-telemetry-lock", os.MFD_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)
        self._thread_lock: Final = threading.Lock()

    @classmethod
    def create(cls, config: Config, workers: int) -> TelemetryShared:
        """For this configuration. Raises ``ServerError`` when the key of hashes cannot be read."""
        source = config.privacy.hash_key
        return cls(workers, Keyring.generate() if source is None else Keyring.load(source))

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Exclude the other threads and processes. Not reentrant."""
        with self._thread_lock:
            # A record lock belongs to the process and dies with it, unlike a semaphore in shared memory.
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN)
