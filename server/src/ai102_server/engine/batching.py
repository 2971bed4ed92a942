# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""From requests to runs of a session: who runs when, and who runs together.

There is no thread of its own and no timer. A request that finds an idle slot runs at once, on the thread it came on.
One that finds none waits; when a slot becomes free, the first that waits takes it, together with those behind it that
fit into one batch, runs them all, and gives each its rows. So batches grow only while the engine is busy, and a lone
request is never held up. (The pattern is known as leader and followers: D. C. Schmidt et al., "Pattern-Oriented
Software Architecture", volume 2, 2000.) ``delay`` adds a wait for company, for engines that are far faster with full
batches.

Requests fit together when they ask for the same outputs and have the same datatypes and shapes behind the batch axis,
or shapes that padding makes the same.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np

from ai102_server.codec.datatypes import Array
from ai102_server.errors import RequestError

__all__ = ["Batcher", "BatchingPlan", "Outcome", "QueueLimits", "Turn", "pad"]

Run = Callable[[Mapping[str, Array], Sequence[str]], list[Array]]


@dataclass(frozen=True)
class BatchingPlan:
    """How requests of one model are put together.

    ``max_size`` is the largest number of rows of one run; 1: requests run one by one. ``padding`` gives, for the inputs
    whose shapes behind the batch axis may be padded, the value to pad with. ``delay`` in seconds. ``slot``: what of a
    request needs one. ``run`` is the rule. ``whole`` is all from before it is decoded until its answer is encoded, for
    engines on the processors that do that as well: what more requests could do at the same time would only keep each
    other from them. ``nothing`` is for models so quick that handing a slot to another thread costs more than a run.
    """

    max_size: int = 1
    padding: Mapping[str, float] = field(default_factory=dict)
    delay: float = 0.0
    slot: Literal["run", "whole", "nothing"] = "run"


@dataclass(frozen=True)
class QueueLimits:
    """``length`` requests may wait for this model, each for at most ``seconds``."""

    length: int = 64
    seconds: float = 30.0


@dataclass
class Outcome:
    """What became of a request: outputs in the order asked for; times in seconds; rows of the run it was part of."""

    outputs: list[Array]
    queued: float
    ran: float
    batch: int


class _Request:
    __slots__ = ("batch", "deadline", "enqueued", "error", "inputs", "key", "outcome", "outputs", "rows", "wake")

    def __init__(self, inputs: Mapping[str, Array], outputs: Sequence[str], deadline: float | None) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self.deadline = deadline
        self.rows = 1
        self.key: object = None
        self.enqueued = 0.0
        self.wake: Any = None
        self.batch: list[_Request] | None = None
        self.outcome: Outcome | None = None
        self.error: Exception | None = None


class Batcher:
    """Runs the requests of one model, at most ``slots`` runs at a time.

    Args:
        run: Computes the named outputs of a batch; called from several threads at once when there are several slots.
        plan: How requests are put together.
        slots: Runs at the same time.
        limits: Bounds of the queue.
        observe: Called after each run with its rows and its seconds.

    """

    def __init__(
        self,
        run: Run,
        plan: BatchingPlan,
        slots: int,
        limits: QueueLimits,
        observe: Callable[[int, float], None] | None = None,
    ) -> None:
        self._run: Final = run
        self._plan: Final = plan
        self._limits: Final = limits
        self._observe: Final = observe
        self._lock: Final = threading.Lock()
        self._waiting: Final[deque[_Request]] = deque()
        self._idle = slots
        self._company: Any = None
        self._company_rows = 0

    @property
    def plan(self) -> BatchingPlan:
        """How requests are put together."""
        return self._plan

    @property
    def waiting(self) -> int:
        """Requests that wait for a slot."""
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """Whether one more request would be turned away."""
        return len(self._waiting) >= self._limits.length and self._idle == 0

    def __call__(self, inputs: Mapping[str, Array], outputs: Sequence[str], deadline: float | None = None) -> Outcome:
        """Run a request.

        Args:
            inputs: Arrays by input name. With batching, the first axis of all of them is the batch.
            outputs: Names of the outputs to compute.
            deadline: ``time.monotonic()`` after which nobody waits for the answer any more.

        Raises:
            RequestError: 503 when the queue is full or the wait is too long, 504 when the deadline passed before the
                request ran, 400 when the model refuses the inputs.

        """
        with self.turn(deadline) as run:
            return run(inputs, outputs, deadline)

    def turn(self, deadline: float | None = None) -> Turn:
        """What a request is decoded, run and encoded in; see ``Turn``."""
        return Turn(self, deadline)

    def run_batched(self, inputs: Mapping[str, Array], outputs: Sequence[str], deadline: float | None) -> Outcome:
        """Run a request together with others that wait. Raises ``RequestError``, as a call does."""
        request = _Request(inputs, outputs, deadline)
        if self._plan.max_size > 1:
            self._describe(request)
        if not self._begin(request):
            return _outcome(request)
        batch = request.batch or [request]
        if self._plan.delay:
            self._gather(batch)
        self._lead(batch)
        return _outcome(request)

    def take(self, deadline: float | None) -> float:
        """Take a slot for one request alone. Returns the seconds it took. Raises ``RequestError``, as a call does."""
        request = _Request({}, (), deadline)
        if not self._begin(request):
            assert request.error is not None  # noqa: S101 - nobody runs it for us
            raise request.error
        return time.monotonic() - request.enqueued if request.enqueued else 0.0

    def _begin(self, request: _Request) -> bool:
        """Wait for a slot; False when the request was dealt with meanwhile."""
        with self._lock:
            if self._idle:
                self._idle -= 1
                return True
            if len(self._waiting) >= self._limits.length:
                raise _busy("queue_full")
            request.enqueued = time.monotonic()
            request.wake = threading.Lock()
            request.wake.acquire()
            self._waiting.append(request)
            self._tell_company(request.rows)
        self._wait(request)
        return request.batch is not None

    def run_alone(self, inputs: Mapping[str, Array], outputs: Sequence[str], queued: float) -> Outcome:
        """Run a request that has a slot of its own, after ``queued`` seconds of waiting for it."""
        started = time.monotonic()
        arrays = self._run(inputs, outputs)
        seconds = time.monotonic() - started
        first = next(iter(inputs.values()), None)
        rows = len(first) if first is not None and first.ndim else 1
        if self._observe is not None:
            self._observe(rows, seconds)
        return Outcome(arrays, queued, seconds, rows)

    def _describe(self, request: _Request) -> None:
        """Set what decides with whom a request can run."""
        padding = self._plan.padding
        key: list[object] = [tuple(request.outputs)]
        rows = -1
        for name in sorted(request.inputs):
            array = request.inputs[name]
            if array.ndim == 0 or rows not in {-1, len(array)}:
                # Not one batch axis for all: such a request runs alone.
                request.key = object()
                return
            rows = len(array)
            if name in padding:
                # Lengths within a factor of two: padding then at most doubles the work.
                key.append(tuple(axis.bit_length() for axis in array.shape[1:]))
            else:
                key.append(array.shape[1:])
        request.rows = max(rows, 1)
        request.key = tuple(key)

    def _wait(self, request: _Request) -> None:
        """Wait until the request has run, or has become the one that runs the next batch (``request.batch``)."""
        limit = request.enqueued + self._limits.seconds
        until = limit if request.deadline is None else min(limit, request.deadline)
        if request.wake.acquire(timeout=max(until - time.monotonic(), 0)):
            return
        with self._lock:
            try:
                self._waiting.remove(request)
                gone = True
            except ValueError:
                # Taken into a batch in this very moment: its answer comes, and is as good as any.
                gone = False
        if not gone:
            request.wake.acquire()
            return
        if request.deadline is not None and request.deadline <= limit:
            raise _too_late()
        raise _busy("queue_timeout")

    # The one that runs a batch ------------------------------------------------------------------------------------
    def _lead(self, batch: list[_Request]) -> None:
        """Run a batch, hand the slot on, and give every request its part."""
        started = time.monotonic()
        outputs: list[Array] = []
        error: Exception | None = None
        try:
            outputs = self._run(self._join(batch), batch[0].outputs)
        except Exception as caught:  # noqa: BLE001 - raised again on the thread of each request
            error = caught
        ended = time.monotonic()
        self.hand_over()
        rows = sum(request.rows for request in batch)
        if error is not None and len(batch) > 1:
            # One of them may be to blame: each gets an answer of its own.
            self._one_by_one(batch, started)
        elif error is not None:
            batch[0].error = error
        else:
            self._split(batch, outputs, rows, started, ended)
            if self._observe is not None:
                self._observe(rows, ended - started)
        for request in batch:
            if request.wake is not None and request.batch is None:
                request.wake.release()

    def hand_over(self) -> None:
        """Give the slot to the first request that waits, with those that fit to it; or note that it is idle."""
        expired: list[_Request] = []
        first: _Request | None = None
        with self._lock:
            waiting = self._waiting
            now = time.monotonic()
            while waiting:
                first = waiting.popleft()
                if first.deadline is not None and first.deadline <= now:
                    expired.append(first)
                    continue
                first.batch = [first]
                self._fill(first.batch)
                break
            else:
                self._idle += 1
                first = None
        for request in expired:
            request.error = _too_late()
            request.wake.release()
        if first is not None:
            first.wake.release()

    def _fill(self, batch: list[_Request]) -> int:
        """Add those that wait and fit to the first. Returns the rows still free. Called with the lock held."""
        first = batch[0]
        room = self._plan.max_size - sum(request.rows for request in batch)
        if room <= 0 or not self._waiting:
            return room
        left: list[_Request] = []
        while self._waiting and room > 0:
            request = self._waiting.popleft()
            if request.key == first.key and request.rows <= room:
                batch.append(request)
                room -= request.rows
            else:
                left.append(request)
        self._waiting.extendleft(reversed(left))
        return room

    def _gather(self, batch: list[_Request]) -> None:
        """Wait for company, no longer than ``delay`` and never into the deadline of a request."""
        wait = self._plan.delay
        deadlines = [request.deadline for request in batch if request.deadline is not None]
        if deadlines:
            wait = min(wait, (min(deadlines) - time.monotonic()) / 2)
        with self._lock:
            room = self._fill(batch)
            if wait <= 0 or room <= 0 or self._company is not None:  # another slot gathers already
                return
            company = self._company = threading.Lock()
            company.acquire()
            self._company_rows = room
        company.acquire(timeout=wait)
        with self._lock:
            self._company = None
            self._fill(batch)

    def _tell_company(self, rows: int) -> None:
        if self._company is not None:
            self._company_rows -= rows
            if self._company_rows <= 0 and self._company.locked():
                self._company.release()

    # Rows -----------------------------------------------------------------------------------------------------------
    def _join(self, batch: Sequence[_Request]) -> Mapping[str, Array]:
        if len(batch) == 1:
            return batch[0].inputs
        joined: dict[str, Array] = {}
        for name in batch[0].inputs:
            arrays = [request.inputs[name] for request in batch]
            if name in self._plan.padding:
                arrays = pad(arrays, self._plan.padding[name])
            joined[name] = np.concatenate(arrays)
        return joined

    @staticmethod
    def _split(batch: Sequence[_Request], outputs: list[Array], rows: int, started: float, ended: float) -> None:
        if len(batch) == 1:
            request = batch[0]
            queued = started - request.enqueued if request.enqueued else 0.0
            request.outcome = Outcome(outputs, queued, ended - started, rows)
            return
        at = 0
        for request in batch:
            part = slice(at, at + request.rows)
            at = part.stop
            queued = started - request.enqueued if request.enqueued else 0.0
            request.outcome = Outcome([output[part] for output in outputs], queued, ended - started, rows)

    def _one_by_one(self, batch: Sequence[_Request], started: float) -> None:
        for request in batch:
            begun = time.monotonic()
            try:
                outputs = self._run(request.inputs, request.outputs)
            except Exception as caught:  # noqa: BLE001 - raised again on the thread of each request
                request.error = caught
                continue
            ended = time.monotonic()
            queued = started - request.enqueued if request.enqueued else 0.0
            request.outcome = Outcome(outputs, queued, ended - begun, request.rows)
            if self._observe is not None:
                self._observe(request.rows, ended - begun)


class Turn:
    """The time in which a request is decoded, run and encoded.

    Entered once the request has been received. Where the plan says ``whole``, that waits for a slot, which is given
    back at the end; with ``run`` only the call waits, together with others.
    """

    __slots__ = ("_alone", "_batcher", "_deadline", "_queued", "_whole")

    def __init__(self, batcher: Batcher, deadline: float | None) -> None:
        self._batcher: Final = batcher
        self._deadline: Final = deadline
        self._whole: Final = batcher.plan.slot == "whole"
        self._alone: Final = batcher.plan.slot != "run"
        self._queued = 0.0

    def __enter__(self) -> Turn:
        """Wait for a slot, if one is needed. Raises ``RequestError`` (503, 504)."""
        if self._whole:
            self._queued = self._batcher.take(self._deadline)
        return self

    def __call__(self, inputs: Mapping[str, Array], outputs: Sequence[str], deadline: float | None) -> Outcome:
        """Run the request. Arguments and errors are those of ``Batcher``."""
        if not self._alone:
            return self._batcher.run_batched(inputs, outputs, deadline)
        if deadline is not None and deadline <= time.monotonic():
            raise _too_late()
        return self._batcher.run_alone(inputs, outputs, self._queued)

    def __exit__(self, *_: object) -> None:
        """Give the slot to the next."""
        if self._whole:
            self._batcher.hand_over()


def _outcome(request: _Request) -> Outcome:
    if request.error is not None:
        raise request.error
    assert request.outcome is not None  # noqa: S101 - whoever ran it has set one of the two
    return request.outcome


def _too_late() -> RequestError:
    return RequestError(504, "the deadline of the request passed before it could run", retry_after=1)


def _busy(reason: str) -> RequestError:
    message = "the server is busy: too many requests wait already"
    return RequestError(503, message, retry_after=1, reason=reason)


def pad(arrays: Sequence[Array], value: float) -> list[Array]:
    """Arrays with equal lengths of all axes but the first, filled up at their ends."""
    target = [max(lengths) for lengths in zip(*(array.shape[1:] for array in arrays), strict=True)]
    padded: list[Array] = []
    for array in arrays:
        missing = [want - have for want, have in zip(target, array.shape[1:], strict=True)]
        if not any(missing):
            padded.append(array)
            continue
        wider: Array = np.full((len(array), *target), value, dtype=array.dtype)
        wider[tuple(slice(axis) for axis in array.shape)] = array
        padded.append(wider)
    return padded
