# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Counting in shared memory, and reading what all workers counted."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from ai102_server.errors import ServerError
from ai102_server.telemetry.process import start_ticks
from ai102_server.telemetry.record import REASONS, STATUSES, Record, reason_of
from ai102_server.telemetry.shared import (
    BATCH_SIZES,
    BUCKETS,
    COUNTERS,
    SLOTS,
    Fields,
    Process,
    Slots,
    TelemetryShared,
)

__all__ = ["KEEP_SECONDS", "REUSE_SECONDS", "Counter", "ModelState", "Series", "Store"]

Floats = npt.NDArray[np.float64]

KEEP_SECONDS: Final = 600.0
"""So long the figures of a model that is no longer there are still shown, so that all who collect them see the last."""
REUSE_SECONDS: Final = 10.0
"""A slot is not given to another model earlier: by then every worker has counted what it still had of the old one."""

_UNKNOWN: Final = 0
"""Slot of what no registered model answered: what a client typed must not become a label."""
_BOUNDS: Final[Floats] = np.array(BUCKETS)
_STATUS_INDEX: Final = {status: index for index, status in enumerate(STATUSES)}
_OTHER_STATUS: Final = len(STATUSES)
_REASON_INDEX: Final = {reason: index for index, reason in enumerate(REASONS)}
_ABSENT: Final = 0
_READY: Final = 1
_NOT_READY: Final = 2
_SLOT_TYPE: Final = np.dtype(
    {
        "names": ["removed", "used", "name", "version"],
        "formats": ["f8", "u1", f"S{Slots.NAME}", f"S{Slots.VERSION}"],
        "offsets": [0, 8, 16, 16 + Slots.NAME],
        "itemsize": Slots.ITEM,
    }
)
_STATE_TYPE: Final = np.dtype(
    {
        "names": ["state", "provider", "sha256", "reason"],
        "formats": ["u1", f"S{Slots.PROVIDER}", f"S{Slots.SHA256}", f"S{Slots.REASON}"],
        "offsets": [0, 8, 8 + Slots.PROVIDER, 8 + Slots.PROVIDER + Slots.SHA256],
        "itemsize": Slots.STATE,
    }
)


class ModelState(NamedTuple):
    """A model version in one worker."""

    name: str
    version: str
    worker: int
    ready: bool
    provider: str
    sha256: str
    reason: str


class Series(NamedTuple):
    """What all workers counted for one model version; columns of ``values`` are those of ``Fields``."""

    name: str
    version: str
    registered: bool
    values: Floats


class Counter:
    """A counter of this worker. Make it with ``Telemetry.counter``."""

    def __init__(self, cells: Floats, index: int) -> None:
        self._cells: Final = cells
        self._index: Final = index
        self._lock: Final = threading.Lock()

    def inc(self, amount: float = 1.0) -> None:
        """Count; any thread may."""
        with self._lock:
            self._cells[self._index] += amount


class Store:
    """Shared memory as seen by one worker, which counts in its own row only."""

    def __init__(self, shared: TelemetryShared, worker: int) -> None:
        if not 0 <= worker < shared.workers:
            raise ServerError(f"worker {worker} has no place in the shared figures of {shared.workers} workers")
        memory, workers = shared.memory, shared.workers
        self.shared: Final = shared
        self.worker: Final = worker
        self._header: Final = np.frombuffer(memory, np.int64, 16, shared.header)
        self.processes: Final[Floats] = np.frombuffer(
            memory, np.float64, workers * Process.COUNT, shared.processes
        ).reshape(workers, Process.COUNT)
        self._slots: Final = np.frombuffer(memory, _SLOT_TYPE, SLOTS, shared.slots)
        self._states: Final = np.frombuffer(memory, _STATE_TYPE, workers * SLOTS, shared.states).reshape(workers, SLOTS)
        self._keys: Final = np.frombuffer(memory, f"S{Slots.KEY}", COUNTERS, shared.keys)
        self._counters: Final[Floats] = np.frombuffer(memory, np.float64, workers * COUNTERS, shared.counters).reshape(
            workers, COUNTERS
        )
        self._rows: Final[Floats] = np.frombuffer(
            memory, np.float64, workers * SLOTS * Fields.COUNT, shared.rows
        ).reshape(workers, SLOTS, Fields.COUNT)
        self._row: Final = self._rows[worker]
        self.process: Final = self.processes[worker]
        self._epoch = -1
        self._known: dict[tuple[str, str], int] = {}
        self._made: dict[bytes, Counter] = {}
        self._attach()

    def _attach(self) -> None:
        """Take this worker's row, which a dead one may have had."""
        with self.shared.lock():
            if self.process[Process.PID]:
                self.process[Process.RESTARTS] += 1
            for column in (Process.INFLIGHT, Process.WAITING, Process.READY, Process.DRAINING):
                self.process[column] = 0
            self.process[Process.PID] = os.getpid()
            self.process[Process.STARTED] = start_ticks(os.getpid()) or 0
            # What the dead one had loaded is not loaded now.
            for slot in np.flatnonzero(self._states[self.worker]["state"]):
                self._leave(int(slot))

    # Models ------------------------------------------------------------------------------------------------------
    def register(self, name: str, version: str, provider: str, sha256: str, ready: bool, reason: str) -> None:
        """Note that this worker has loaded the model, or failed to. Raises ``ServerError`` when there is no room."""
        key = name.encode(), version.encode()
        if len(key[0]) > Slots.NAME or len(key[1]) > Slots.VERSION:
            raise ServerError(
                f"model '{name[:50]}…' version '{version[:20]}': a name has at most {Slots.NAME} bytes, "
                f"a version {Slots.VERSION}"
            )
        with self.shared.lock():
            slot = self._find(key)
            if slot is None:
                slot = self._allocate(name, version)
                self._slots[slot] = (0.0, 1, *key)
                self._header[0] += 1
            self._slots["removed"][slot] = 0.0
            # What is cut off would be a character cut in half.
            self._states[self.worker, slot] = (
                _READY if ready else _NOT_READY,
                provider.encode()[: Slots.PROVIDER],
                sha256.encode()[: Slots.SHA256],
                reason.encode()[: Slots.REASON],
            )
            self._row[slot, Fields.LOADED if ready else Fields.FAILED] += 1

    def remove(self, name: str, version: str) -> None:
        """Note that this worker has unloaded the model. Nothing happens when it had none."""
        with self.shared.lock():
            slot = self._find((name.encode(), version.encode()))
            if slot is not None and self._states[self.worker, slot]["state"] != _ABSENT:
                self._row[slot, Fields.UNLOADED] += 1
                self._leave(slot)

    def _leave(self, slot: int) -> None:
        self._states[self.worker, slot] = (_ABSENT, b"", b"", b"")
        if not self._states[:, slot]["state"].any():
            self._slots["removed"][slot] = time.time()

    def _find(self, key: tuple[bytes, bytes]) -> int | None:
        table = self._slots
        found = np.flatnonzero((table["used"] == 1) & (table["name"] == key[0]) & (table["version"] == key[1]))
        return int(found[0]) if len(found) else None

    def _allocate(self, name: str, version: str) -> int:
        """A free slot, or the one of the model that has been away for the longest time."""
        used, removed = self._slots["used"][1:], self._slots["removed"][1:]
        free = np.flatnonzero(used == 0)
        if len(free):
            return int(free[0]) + 1
        gone = np.where((removed > 0) & (removed <= time.time() - REUSE_SECONDS), removed, np.inf)
        slot = int(gone.argmin())
        if gone[slot] == np.inf:
            raise ServerError(
                f"no room to count for model '{name}' version '{version}': {SLOTS - 1} model versions are loaded "
                f"or were within {REUSE_SECONDS:g} s; unload some"
            )
        self._rows[:, slot + 1] = 0.0
        self._states[:, slot + 1] = (_ABSENT, b"", b"", b"")
        return slot + 1

    @property
    def known(self) -> dict[tuple[str, str], int]:
        """Slots by name and version, as of now."""
        if self._epoch != self._header[0]:
            with self.shared.lock():
                self._epoch = int(self._header[0])
                self._known = {
                    (item["name"].decode(), item["version"].decode()): int(slot)
                    for slot, item in zip(
                        np.flatnonzero(self._slots["used"]), self._slots[self._slots["used"] == 1], strict=True
                    )
                }
        return self._known

    def states(self) -> list[ModelState]:
        """Every model in every worker that has it, or failed to load it."""
        with self.shared.lock():
            return [
                ModelState(
                    self._slots[slot]["name"].decode(),
                    self._slots[slot]["version"].decode(),
                    int(worker),
                    bool(item["state"] == _READY),
                    *(item[column].decode(errors="ignore") for column in ("provider", "sha256", "reason")),
                )
                for worker, slot in np.argwhere(self._states["state"] != _ABSENT)
                for item in (self._states[worker, slot],)
            ]

    # Counting ----------------------------------------------------------------------------------------------------
    def count(self, records: Sequence[Record]) -> None:
        """Count requests. One thread at a time."""
        if not records:
            return
        known = self.known
        # Of each field the values of all records: no type says that.
        columns: Any = Record._make(zip(*records, strict=True))
        slots = np.array([known.get(key, _UNKNOWN) for key in zip(columns.model, columns.version, strict=True)])
        group = _Group(self._row, slots)
        status = np.array(columns.status)
        group.add(
            Fields.STATUS,
            len(STATUSES) + 1,
            np.array([_STATUS_INDEX.get(item, _OTHER_STATUS) for item in columns.status]),
        )
        ok = status == 200  # noqa: PLR2004  # the only status of an answer
        if not ok.all():
            for record, slot in zip(records, slots, strict=True):
                reason = reason_of(record) if record.status != 200 else None  # noqa: PLR2004
                if reason is not None:
                    self._row[slot, Fields.REASON + _REASON_INDEX[reason]] += 1
        seconds = np.array(columns.seconds, np.float64)
        queue = np.array(columns.queue_seconds, np.float64)
        run = np.array(columns.inference_seconds, np.float64)
        group.observe(Fields.REQUEST, seconds)
        group.observe(Fields.QUEUE, queue)
        group.observe(Fields.INFERENCE, run)
        phases = (columns.read_seconds, columns.decode_seconds, queue, run, columns.encode_seconds)
        for index, phase in enumerate(phases):
            group.sum_up(Fields.PHASE + 2 * index, np.asarray(phase, np.float64))
        group.total(Fields.BYTES_IN, np.array(columns.bytes_in, np.float64))
        group.total(Fields.BYTES_OUT, np.array(columns.bytes_out, np.float64))
        group.total(Fields.SECONDS_OK, np.where(ok, seconds, 0.0))
        group.total(Fields.SECONDS_FAILED, np.where(ok, 0.0, seconds))
        np.maximum.at(self._row[:, Fields.LAST], slots, np.array(columns.started, np.float64))

    def count_runs(self, runs: Sequence[tuple[str, str, int, float]]) -> None:
        """Count runs of sessions, each with model, version, rows and seconds. One thread at a time."""
        if not runs:
            return
        known = self.known
        slots = np.array([known.get((name, version), _UNKNOWN) for name, version, _rows, _seconds in runs])
        rows = np.array([run[2] for run in runs], np.int64)
        seconds = np.array([run[3] for run in runs], np.float64)
        group = _Group(self._row, slots)
        group.observe(Fields.RUN, seconds)
        group.total(Fields.ROWS, rows.astype(np.float64))
        index = np.where((rows < 1) | (rows > BATCH_SIZES), 0, rows)
        np.add.at(self._row, (slots, Fields.RUNS + index), 1.0)
        np.add.at(self._row, (slots, Fields.RUN_SECONDS + index), seconds)

    def counter(self, name: str, description: str, labels: dict[str, str]) -> Counter:
        """A counter that other parts of the server count in; the same one for the same name and labels.

        Raises ``ServerError`` when there are too many.
        """
        key = orjson.dumps({"n": name, "d": description, "l": labels}, option=orjson.OPT_SORT_KEYS)
        if len(key) > Slots.KEY:
            raise ServerError(f"counter {name}: name, description and labels have {len(key)} bytes, too many")
        with self.shared.lock():
            if key not in self._made:
                used = int(self._header[1])
                found = np.flatnonzero(self._keys[:used] == key)
                index = int(found[0]) if len(found) else used
                if index == COUNTERS:
                    raise ServerError(f"counter {name}: there are {COUNTERS} already")
                self._keys[index] = key
                self._header[1] = max(used, index + 1)
                self._made[key] = Counter(self._counters[self.worker], index)
            return self._made[key]

    # Reading -----------------------------------------------------------------------------------------------------
    def series(self, registered_only: bool = False) -> list[Series]:
        """What all workers counted, by model version; that of no model, if there is any, has empty names."""
        with self.shared.lock():
            names = [(int(slot), self._slots[slot].copy()) for slot in np.flatnonzero(self._slots["used"])]
        result: list[Series] = []
        if not registered_only:
            values = self._total(_UNKNOWN)
            if values.any():
                result.append(Series("", "", False, values))
        for slot, item in names:
            registered = item["removed"] == 0.0
            if registered or (not registered_only and item["removed"] > time.time() - KEEP_SECONDS):
                values = self._total(slot)
                result.append(Series(item["name"].decode(), item["version"].decode(), bool(registered), values))
        return result

    def _total(self, slot: int) -> Floats:
        rows = self._rows[:, slot]
        values: Floats = rows.sum(axis=0)
        # A time, of which the latest counts.
        values[Fields.LAST] = rows[:, Fields.LAST].max()
        return values

    def counters(self) -> Iterable[tuple[str, str, dict[str, str], float]]:
        """Name, description, labels and value of the counters of other parts, over all workers."""
        for index in range(int(self._header[1])):
            key = orjson.loads(bytes(self._keys[index]))
            yield key["n"], key["d"], key["l"], float(self._counters[:, index].sum())

    def alive(self) -> list[int]:
        """Workers that live: their process is there, and is the one that wrote its number down."""
        return [
            worker
            for worker, row in enumerate(self.processes)
            if row[Process.PID] and start_ticks(int(row[Process.PID])) == row[Process.STARTED]
        ]


class _Group:
    """Adds columns of many records to the slots they belong to, all at once."""

    def __init__(self, row: Floats, slots: npt.NDArray[np.intp]) -> None:
        self._row: Final = row
        self._active, self._place = np.unique(slots, return_inverse=True)

    def add(
        self, start: int, width: int, index: npt.NDArray[np.intp], place: npt.NDArray[np.intp] | None = None
    ) -> None:
        """Count one in the column ``start + index`` for each record."""
        place = self._place if place is None else place
        counts = np.bincount(place * width + index, minlength=len(self._active) * width)
        self._row[self._active, start : start + width] += counts.reshape(len(self._active), width)

    def total(self, column: int, values: Floats, place: npt.NDArray[np.intp] | None = None) -> None:
        """Add the values to a column."""
        place = self._place if place is None else place
        self._row[self._active, column] += np.bincount(place, values, len(self._active))

    def observe(self, start: int, values: Floats) -> None:
        """A histogram of the values that are numbers."""
        place = self._place
        known = ~np.isnan(values)
        if not known.all():
            values, place = values[known], place[known]
        if len(values):
            self.add(start, len(BUCKETS) + 1, np.searchsorted(_BOUNDS, values), place)
            self.total(start + len(BUCKETS) + 1, values, place)

    def sum_up(self, column: int, values: Floats) -> None:
        """Number and sum of the values that are numbers, in two columns."""
        known = ~np.isnan(values)
        if known.any():
            place = self._place[known]
            self._row[self._active, column] += np.bincount(place, minlength=len(self._active))
            self.total(column + 1, values[known], place)
