# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""From requests to runs of a session: who runs when, and who runs together.

A request that finds an idle slot runs at once, on the thread it came on. One that finds none waits, and its thread is
free for other requests: whoever has the slot has a *helper*, a thread of this module, go on with those that wait, one
batch after the other, until nobody does. So batches grow only while the engine is busy, a lone request is never held
up, no thread sleeps for each request that waits, and none has to wake up before the next run can begin. ``delay`` adds
a wait for company, for engines that are far faster with full batches.

Requests fit together when they ask for the same outputs and have the same datatypes and shapes behind the batch axis,
or shapes that padding makes the same.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, Protocol

import numpy as np

from ai102_server.codec.datatypes import Array
from ai102_server.errors import RequestError
from ai102_server.threads import blocking

__all__ = ["Batcher", "BatchingPlan", "Caller", "Outcome", "Question", "QueueLimits", "pad"]

logger = logging.getLogger(__name__)

_REST_SECONDS: Final = 10.0
"""A helper that nobody needs ends."""
_TICK_SECONDS: Final = 0.02
"""How late those who have waited too long may be told."""
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


class Question(NamedTuple):
    """A request, decoded.

    ``inputs`` are arrays by input name; with batching, the first axis of all of them is the batch. ``outputs`` are the
    names of the outputs to compute, ``deadline`` is the ``time.monotonic()`` after which nobody waits for them.
    """

    inputs: Mapping[str, Array]
    outputs: Sequence[str]
    deadline: float | None = None


class Caller(Protocol):
    """One request, as a batcher sees it. ``answer`` or ``fail`` is called once, on whatever thread, and raises nothing.

    ``deadline`` is what is known of the deadline before the request is decoded.
    """

    deadline: float | None

    def ask(self) -> Question:
        """Decode the request. Raises ``RequestError``, or what a library does."""

    def answer(self, outcome: Outcome) -> None:
        """Encode and send what came out."""

    def fail(self, error: Exception) -> None:
        """Say why nothing came out: ``RequestError``, or what the run or ``ask`` raised."""


class _Request:
    """One that waits, or runs. ``question`` is None as long as it has not been decoded."""

    __slots__ = ("caller", "deadline", "enqueued", "key", "question", "rows")

    def __init__(self, caller: Caller, deadline: float | None, question: Question | None = None) -> None:
        self.caller = caller
        self.deadline = deadline
        self.question = question
        self.rows = 1
        self.key: object = None
        self.enqueued = 0.0


class _Waiting:
    """The caller of those who call a batcher as a function: waits until there is an outcome."""

    def __init__(self, question: Question) -> None:
        self.deadline = question.deadline
        self._question = question
        self._done = threading.Lock()
        self._done.acquire()
        self._outcome: Outcome | None = None
        self._error: Exception | None = None

    def ask(self) -> Question:
        return self._question

    def answer(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self._done.release()

    def fail(self, error: Exception) -> None:
        self._error = error
        self._done.release()

    def result(self) -> Outcome:
        self._done.acquire()
        if self._error is not None:
            raise self._error
        assert self._outcome is not None  # noqa: S101 - one of the two has been called
        return self._outcome


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
        self._resting: Final[list[threading.Lock]] = []
        self._helpers = 0
        # For each slot one that runs and one that answers: more would only keep each other from it.
        self._most_helpers: Final = 2 * slots
        self._company: Any = None
        self._company_rows = 0
        _timekeeper.watch(self)

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
        """Run a request, and wait for its outcome. For the arguments see ``Question``.

        Raises:
            RequestError: 503 when the queue is full or the wait is too long, 504 when the deadline passed before the
                request ran, 400 when the model refuses the inputs.

        """
        caller = _Waiting(Question(inputs, outputs, deadline))
        self.submit(caller)
        return caller.result()

    def submit(self, caller: Caller) -> None:
        """Run a request now, on this thread, or as soon as there is a slot, on another one.

        The caller is told the outcome, or the errors that a call raises, before or after this returns.
        """
        if self._plan.slot == "run":
            try:
                question = caller.ask()
            except Exception as error:  # noqa: BLE001 - whatever it is, the caller is told
                caller.fail(error)
                return
            request = _Request(caller, question.deadline, question)
            if self._plan.max_size > 1:
                self._describe(request)
        else:
            request = _Request(caller, caller.deadline)
            if self._plan.slot == "nothing":
                with blocking():
                    self._alone(request)
                return
        try:
            mine = self._enter(request)
        except RequestError as error:
            caller.fail(error)
            return
        if mine:
            with blocking():
                self._lead([request])

    # Slots ----------------------------------------------------------------------------------------------------------
    def _enter(self, request: _Request) -> bool:
        """Take a slot, or queue up and return False. Raises ``RequestError`` (503) when the queue is full."""
        with self._lock:
            if self._idle:
                self._idle -= 1
                return True
            if len(self._waiting) >= self._limits.length:
                raise _busy("queue_full")
            request.enqueued = time.monotonic()
            self._waiting.append(request)
            if self._company is not None:
                self._tell_company(request.rows)
        _timekeeper.wake()
        return False

    def _pass_on(self, *, helping: bool = False) -> bool:
        """Give a slot to a helper, or note that it is idle.

        Returns False, and a helper keeps it, when all helpers have something to do and there are enough of them.
        """
        with self._lock:
            if not self._waiting:
                self._idle += 1
                return True
            if self._resting:
                self._resting.pop().release()
                return True
            if helping and self._helpers >= self._most_helpers:
                return False
            self._helpers += 1
        try:
            threading.Thread(target=self._help, name="batch-helper", daemon=True).start()
        except RuntimeError:
            # No more threads may be had. The slot must not be lost with it: the next request takes it.
            with self._lock:
                self._helpers -= 1
                self._idle += 1
            logger.exception("no thread can be started for those who wait")
        return True

    def _help(self) -> None:
        """Go on with those who wait, as one who has been given a slot; then rest for a while."""
        rest = threading.Lock()
        rest.acquire()
        while True:
            while batch := self._next():
                if not self._lead(batch, helping=True):
                    break
            with self._lock:
                self._resting.append(rest)
            if not rest.acquire(timeout=_REST_SECONDS):
                with self._lock:
                    if rest in self._resting:
                        self._resting.remove(rest)
                        self._helpers -= 1
                        return
                # Called in this very moment.
                rest.acquire()

    def _next(self) -> list[_Request]:
        """The first that waits, with those that fit to it; nobody, and the slot is idle, when nobody waits."""
        expired: list[_Request] = []
        batch: list[_Request] = []
        with self._lock:
            now = time.monotonic()
            while self._waiting:
                request = self._waiting.popleft()
                if request.deadline is not None and request.deadline <= now:
                    expired.append(request)
                    continue
                batch.append(request)
                self._fill(batch)
                break
            else:
                self._idle += 1
        for request in expired:
            request.caller.fail(_too_late())
        return batch

    def expire(self, now: float) -> bool:
        """Tell those who have waited too long. Returns whether anybody still waits."""
        late: list[_Request] = []
        with self._lock:
            for request in self._waiting:
                if request.enqueued + self._limits.seconds <= now or (
                    request.deadline is not None and request.deadline <= now
                ):
                    late.append(request)
            for request in late:
                self._waiting.remove(request)
            left = bool(self._waiting)
        for request in late:
            passed = request.deadline is not None and request.deadline <= now
            request.caller.fail(_too_late() if passed else _busy("queue_timeout"))
        return left

    # Runs -----------------------------------------------------------------------------------------------------------
    def _lead(self, batch: list[_Request], *, helping: bool = False) -> bool:
        """Run a batch as the one who has the slot. Returns whether a helper keeps it for the next batch."""
        if batch[0].question is None:
            try:
                self._alone(batch[0])
            finally:
                if not helping:
                    self._pass_on()
            return helping
        if self._plan.delay:
            self._gather(batch)
        started = time.monotonic()
        outputs: list[Array] = []
        failure: Exception | None = None
        try:
            outputs = self._run(self._join(batch), batch[0].question.outputs)
        except Exception as error:  # noqa: BLE001 - whatever it is, the callers are told
            failure = error
        ended = time.monotonic()
        rows = sum(request.rows for request in batch)
        if len(batch) > 1 and any(output.shape[:1] != (rows,) for output in outputs):
            # Not what was found when the model was loaded: whose rows these are, nobody can tell.
            failure = ValueError("the outputs of a batch have not one row for each row of the inputs")
        # The next ones run while the answers of these are encoded.
        passed = self._pass_on(helping=helping)
        if failure is None:
            if self._observe is not None:
                self._observe(rows, ended - started)
            self._split(batch, outputs, rows, started, ended)
        elif len(batch) > 1:
            # One of them may be to blame: each gets an answer of its own.
            for request in batch:
                self._alone(request, started)
        else:
            batch[0].caller.fail(failure)
        return not passed

    def _alone(self, request: _Request, started: float | None = None) -> None:
        """Run one request by itself, and decode it if that is not done. ``started`` is when its wait ended."""
        caller = request.caller
        now = time.monotonic()
        queued = (started or now) - request.enqueued if request.enqueued else 0.0
        try:
            inputs, outputs, deadline = request.question or caller.ask()
            begun = _in_time(deadline)
            arrays = self._run(inputs, outputs)
            ended = time.monotonic()
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller is told
            caller.fail(error)
            return
        first = next(iter(inputs.values()), None)
        rows = len(first) if first is not None and first.ndim else 1
        if self._observe is not None:
            self._observe(rows, ended - begun)
        caller.answer(Outcome(arrays, queued, ended - begun, rows))

    def _describe(self, request: _Request) -> None:
        """Set what decides with whom a request can run."""
        inputs, outputs, _ = _asked(request)
        padding = self._plan.padding
        key: list[object] = [tuple(outputs)]
        rows = -1
        for name in sorted(inputs):
            array = inputs[name]
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
        self._company_rows -= rows
        if self._company_rows <= 0 and self._company.locked():
            self._company.release()

    # Rows -----------------------------------------------------------------------------------------------------------
    def _join(self, batch: Sequence[_Request]) -> Mapping[str, Array]:
        asked = [_asked(request).inputs for request in batch]
        if len(asked) == 1:
            return asked[0]
        joined: dict[str, Array] = {}
        for name in asked[0]:
            arrays = [inputs[name] for inputs in asked]
            if name in self._plan.padding:
                arrays = pad(arrays, self._plan.padding[name])
            joined[name] = np.concatenate(arrays)
        return joined

    @staticmethod
    def _split(batch: Sequence[_Request], outputs: list[Array], rows: int, started: float, ended: float) -> None:
        at = 0
        for request in batch:
            mine = outputs
            if len(batch) > 1:
                part = slice(at, at + request.rows)
                at = part.stop
                mine = [output[part] for output in outputs]
            queued = started - request.enqueued if request.enqueued else 0.0
            request.caller.answer(Outcome(mine, queued, ended - started, rows))


class _Timekeeper:
    """Looks after those who wait in any batcher of this process, as long as somebody does."""

    def __init__(self) -> None:
        self._batchers: Final[weakref.WeakSet[Batcher]] = weakref.WeakSet()
        self._somebody: Final = threading.Event()
        self._pid = 0
        self._lock: Final = threading.Lock()

    def watch(self, batcher: Batcher) -> None:
        with self._lock:
            self._batchers.add(batcher)
            if self._pid != os.getpid():
                # Threads do not come along with a fork.
                self._pid = os.getpid()
                threading.Thread(target=self._run, name="batch-timekeeper", daemon=True).start()

    def wake(self) -> None:
        """Somebody waits."""
        if not self._somebody.is_set():
            self._somebody.set()

    def _run(self) -> None:
        while True:
            self._somebody.wait()
            # Before the look: whoever comes after it sets it again.
            self._somebody.clear()
            time.sleep(_TICK_SECONDS)
            with self._lock:
                batchers = list(self._batchers)
            now = time.monotonic()
            for batcher in batchers:
                try:
                    if batcher.expire(now):
                        self._somebody.set()
                except Exception:
                    # Without this thread nobody would ever be told again.
                    logger.exception("requests that wait cannot be looked after")


_timekeeper: Final = _Timekeeper()


def _asked(request: _Request) -> Question:
    assert request.question is not None  # noqa: S101 - what runs together has been decoded
    return request.question


def _in_time(deadline: float | None) -> float:
    """``time.monotonic()``. Raises ``RequestError`` (504) when that is after the deadline."""
    now = time.monotonic()
    if deadline is not None and deadline <= now:
        raise _too_late()
    return now


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
