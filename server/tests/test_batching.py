# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Who runs when, and who runs together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from ai102_server.codec import DATATYPES, TensorSpec
from ai102_server.codec.datatypes import Array
from ai102_server.config import Batching
from ai102_server.engine import batching
from ai102_server.engine.batching import Batcher, BatchingPlan, Outcome, Question, QueueLimits
from ai102_server.engine.planning import plan_batching
from ai102_server.errors import RequestError

FP32 = DATATYPES["FP32"]


class Engine:
    """Doubles ``x``; holds every run until it is let go, and remembers the shapes it was given."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.running = 0
        self.most = 0
        self.gate = threading.Event()
        self.gate.set()
        self.lock = threading.Lock()

    def __call__(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        with self.lock:
            self.shapes.append(inputs["x"].shape)
            self.running += 1
            self.most = max(self.most, self.running)
        assert self.gate.wait(10)
        with self.lock:
            self.running -= 1
        if bool((inputs["x"] == -1).any()):
            raise ValueError("minus one")
        return [inputs["x"] * 2 for _ in outputs]


def row(value: float, length: int = 2) -> dict[str, Array]:
    return {"x": np.full((1, length), value, np.float32)}


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.001)


class Crowd:
    """Requests on threads of their own."""

    def __init__(self, batcher: Batcher) -> None:
        self.batcher = batcher
        self.pool = ThreadPoolExecutor(64)

    def ask(self, inputs: dict[str, Array], deadline: float | None = None) -> Future[Outcome]:
        before, idle = self.batcher.waiting, self.batcher._idle
        future = self.pool.submit(self.batcher, inputs, ["y"], deadline)
        if not idle:
            wait_until(lambda: self.batcher.waiting != before or future.done())
        return future


def crowd(engine: Engine, plan: BatchingPlan, slots: int = 1, **limits: Any) -> Crowd:
    return Crowd(Batcher(engine, plan, slots, QueueLimits(**limits)))


def held(engine: Engine, people: Crowd, inputs: dict[str, Array] | None = None) -> Future[Outcome]:
    """A request that runs and does not end, so that those who come now wait."""
    engine.gate.clear()
    first = people.ask(inputs or row(0))
    wait_until(lambda: engine.running == 1)
    return first


def test_a_lone_request_runs_at_once_on_its_own_thread() -> None:
    threads: list[int] = []

    def run(inputs: Mapping[str, Array], _outputs: Sequence[str]) -> list[Array]:
        threads.append(threading.get_ident())
        return [inputs["x"]]

    outcome = Batcher(run, BatchingPlan(8), 1, QueueLimits())(row(1), ["y"])
    assert threads == [threading.get_ident()]
    assert (outcome.queued, outcome.batch) == (0.0, 1)


def test_those_who_wait_run_together_and_each_gets_its_rows() -> None:
    engine = Engine()
    people = crowd(engine, BatchingPlan(8))
    first = held(engine, people)
    others = [people.ask({"x": np.full((1 + value % 2, 2), value, np.float32)}) for value in range(1, 6)]
    engine.gate.set()
    assert first.result(5).batch == 1
    for value, future in enumerate(others, 1):
        outcome = future.result(5)
        assert outcome.outputs[0].tolist() == [[2.0 * value] * 2] * (1 + value % 2)
        assert outcome.batch == 8
        assert outcome.queued > 0
    assert engine.shapes == [(1, 2), (8, 2)]


def test_batches_keep_to_their_size_and_requests_to_their_order() -> None:
    engine = Engine()
    people = crowd(engine, BatchingPlan(3))
    held(engine, people)
    others = [people.ask(row(value)) for value in range(7)]
    engine.gate.set()
    assert [future.result(5).batch for future in others] == [3, 3, 3, 3, 3, 3, 1]
    assert [shape[0] for shape in engine.shapes] == [1, 3, 3, 1]


def test_a_request_larger_than_a_batch_runs_alone() -> None:
    engine = Engine()
    people = crowd(engine, BatchingPlan(4))
    held(engine, people)
    large = people.ask({"x": np.ones((9, 2), np.float32)})
    small = people.ask(row(1))
    engine.gate.set()
    assert large.result(5).batch == 9
    assert small.result(5).batch == 1


@pytest.mark.parametrize(
    "other",
    [
        {"x": np.ones((1, 3), np.float32)},
        {"x": np.ones((1, 2), np.float32), "z": np.ones((2, 2), np.float32)},
        {"x": np.float32(1)},
    ],
)
def test_what_does_not_fit_runs_alone(other: dict[str, Any]) -> None:
    engine = Engine()
    people = crowd(engine, BatchingPlan(8))
    held(engine, people)
    futures = [
        people.ask(row(1)),
        people.ask({name: np.asarray(array) for name, array in other.items()}),
        people.ask(row(2)),
    ]
    engine.gate.set()
    assert [future.result(5).outputs[0].shape for future in futures] == [(1, 2), np.shape(other["x"]), (1, 2)]
    assert futures[0].result().batch == futures[2].result().batch == 2


def test_padding_makes_lengths_equal() -> None:
    engine = Engine()
    people = crowd(engine, BatchingPlan(8, {"x": 7}))
    held(engine, people)
    futures = [people.ask(row(1, 4)), people.ask(row(2, 6)), people.ask(row(3, 100))]
    engine.gate.set()
    assert futures[0].result(5).outputs[0].tolist() == [[2, 2, 2, 2, 14, 14]]
    assert futures[1].result(5).outputs[0].tolist() == [[4] * 6]
    assert futures[2].result(5).batch == 1, "padding a short request to a hundred would waste more than it gains"


def test_one_bad_request_does_not_spoil_the_others() -> None:
    engine = Engine()
    people = crowd(engine, BatchingPlan(8))
    held(engine, people)
    good, bad = people.ask(row(1)), people.ask(row(-1))
    engine.gate.set()
    assert good.result(5).outputs[0].tolist() == [[2, 2]]
    with pytest.raises(ValueError, match="minus one"):
        bad.result(5)
    assert people.batcher(row(3), ["y"]).outputs[0].tolist() == [[6, 6]]


def test_rows_that_a_model_leaves_out_are_nobody_elses() -> None:
    engine = Engine()

    def run(inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        # As a detector does: only what is large enough comes out.
        return [array[array[:, 0] > 2] for array in engine(inputs, outputs)]

    people = Crowd(Batcher(run, BatchingPlan(8), 1, QueueLimits()))
    first = held(engine, people)
    small, large = people.ask(row(1)), people.ask(row(5))
    engine.gate.set()
    assert first.result(5)
    assert small.result(5).outputs[0].tolist() == []
    assert large.result(5).outputs[0].tolist() == [[10, 10]]


def test_a_slot_is_not_lost_when_no_thread_can_be_had(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine()
    people = crowd(engine, BatchingPlan(), seconds=0.5)
    first = held(engine, people)
    waits = people.ask(row(1))

    def none(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none)
    engine.gate.set()
    assert first.result(5)
    with pytest.raises(RequestError, match="busy"):
        waits.result(5)
    assert "no thread can be started" in caplog.text
    assert people.batcher(row(2), ["y"]).outputs[0].tolist() == [[4, 4]]
    monkeypatch.undo()
    assert people.batcher._idle == 1


def test_so_many_run_at_a_time() -> None:
    engine = Engine()
    people = crowd(engine, BatchingPlan(), slots=3)
    engine.gate.clear()
    futures = [people.pool.submit(people.batcher, row(value), ["y"]) for value in range(9)]
    wait_until(lambda: people.batcher.waiting == 6)
    assert engine.running == 3
    engine.gate.set()
    for future in futures:
        future.result(5)
    assert engine.most == 3


WHOLE = BatchingPlan(slot="whole")


class Asker:
    """A request that notes when it is decoded, what became of it, and on which thread."""

    def __init__(self, value: float, deadline: float | None = None, *, late: float | None = None) -> None:
        self.value = value
        self.deadline = deadline
        self.late = late
        self.decoded: list[float] = []
        self.told: Future[Outcome] = Future()
        self.thread = 0

    def ask(self) -> Question:
        self.decoded.append(self.value)
        if self.value == 13:
            raise ZeroDivisionError
        return Question(row(self.value), ["y"], self.late or self.deadline)

    def answer(self, outcome: Outcome) -> None:
        self.thread = threading.get_ident()
        self.told.set_result(outcome)

    def fail(self, error: Exception) -> None:
        self.told.set_exception(error)


def submit(batcher: Batcher, *askers: Asker) -> None:
    for asker in askers:
        batcher.submit(asker)


@pytest.mark.parametrize("plan", [WHOLE, BatchingPlan(), BatchingPlan(4)])
def test_those_who_wait_hold_no_thread(plan: BatchingPlan) -> None:
    engine = Engine()
    people = crowd(engine, plan)
    first = held(engine, people)
    before = set(threading.enumerate())
    askers = [Asker(value) for value in range(20, 50)]
    submit(people.batcher, *askers)
    assert people.batcher.waiting == 30
    # Those of other tests may end meanwhile.
    assert set(threading.enumerate()) <= before
    engine.gate.set()
    for asker in askers:
        outcome = asker.told.result(5)
        assert outcome.outputs[0][0, 0] == 2 * asker.value
        assert outcome.queued > 0
    assert first.result(5).queued == 0
    assert threading.get_ident() not in {asker.thread for asker in askers}
    # Two helpers take turns where the next run begins while answers are encoded.
    assert len({asker.thread for asker in askers}) <= (1 if plan is WHOLE else 2)
    wait_until(lambda: people.batcher._idle == 1)
    assert engine.most == 1


def test_what_needs_a_slot_as_a_whole_is_not_decoded_before() -> None:
    engine = Engine()
    people = crowd(engine, WHOLE, slots=2)
    engine.gate.clear()
    askers = [Asker(value) for value in range(9)]
    for asker in askers:
        people.pool.submit(people.batcher.submit, asker)
    wait_until(lambda: people.batcher.waiting == 7 and engine.running == 2)
    assert sum(len(asker.decoded) for asker in askers) == 2
    engine.gate.set()
    assert [asker.told.result(5).outputs[0][0, 0] for asker in askers] == [2.0 * value for value in range(9)]
    assert engine.most == 2
    wait_until(lambda: people.batcher._idle == 2)


@pytest.mark.parametrize("plan", [WHOLE, BatchingPlan(), BatchingPlan(4), BatchingPlan(slot="nothing")])
def test_what_fails_is_told_and_gives_its_slot_back(plan: BatchingPlan) -> None:
    engine = Engine()
    people = crowd(engine, plan)
    for _ in range(2):
        undecodable, fails = Asker(13), Asker(-1)
        submit(people.batcher, undecodable, fails)
        with pytest.raises(ZeroDivisionError):
            undecodable.told.result(5)
        with pytest.raises(ValueError, match="minus one"):
            fails.told.result(5)
        assert people.batcher._idle == 1
    # The same for those who waited.
    first = held(engine, people)
    askers = [Asker(13), Asker(-1), Asker(2)]
    for asker in askers:
        people.pool.submit(people.batcher.submit, asker)
    engine.gate.set()
    assert first.result(5)
    with pytest.raises(ZeroDivisionError):
        askers[0].told.result(5)
    with pytest.raises(ValueError, match="minus one"):
        askers[1].told.result(5)
    assert askers[2].told.result(5).outputs[0][0, 0] == 4
    wait_until(lambda: people.batcher._idle == 1)


def test_a_whole_request_is_refused_when_the_queue_is_full_or_the_deadline_passes() -> None:
    engine = Engine()
    people = crowd(engine, WHOLE, length=1)
    first = held(engine, people)
    late = Asker(1, time.monotonic() + 0.05)
    submit(people.batcher, late)
    with pytest.raises(RequestError, match="deadline") as caught:
        late.told.result(5)
    assert (caught.value.status, late.decoded) == (504, [])
    second, third = Asker(1), Asker(1)
    submit(people.batcher, second, third)
    with pytest.raises(RequestError, match="busy") as full:
        third.told.result(0)
    assert (full.value.status, third.decoded) == (503, [])
    engine.gate.set()
    assert first.result(5).queued == 0
    assert second.told.result(5).queued > 0
    wait_until(lambda: people.batcher._idle == 1)
    # A deadline that only the body tells.
    told_late = Asker(1, late=time.monotonic() - 1)
    submit(people.batcher, told_late)
    with pytest.raises(RequestError, match="deadline"):
        told_late.told.result(5)
    assert people.batcher._idle == 1


def test_helpers_end_when_nobody_needs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "_REST_SECONDS", 0.1)
    engine = Engine()
    people = crowd(engine, WHOLE, slots=3)

    # Those of other tests still rest.
    before = set(threading.enumerate())

    def helpers() -> int:
        return sum(thread.name == "batch-helper" for thread in set(threading.enumerate()) - before)

    for _ in range(3):
        engine.gate.clear()
        askers = [Asker(value) for value in range(9)]
        for asker in askers:
            people.pool.submit(people.batcher.submit, asker)
        wait_until(lambda: people.batcher.waiting == 6)
        engine.gate.set()
        for asker in askers:
            asker.told.result(5)
        assert 1 <= helpers() <= 6
        wait_until(lambda: helpers() == 0)
        assert people.batcher._idle == 3
        assert people.batcher._resting == []


def test_the_timekeeper_survives(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    engine = Engine()
    people = crowd(engine, BatchingPlan(), seconds=0.05)
    other = crowd(Engine(), BatchingPlan())
    monkeypatch.setattr(other.batcher, "expire", lambda _now: 1 / 0)
    held(engine, people)
    for _ in range(3):
        with pytest.raises(RequestError, match="busy"):
            people.batcher(row(1), ["y"])
    assert "cannot be looked after" in caplog.text
    engine.gate.set()


def test_what_needs_no_slot_runs_at_once() -> None:
    engine = Engine()
    people = crowd(engine, BatchingPlan(slot="nothing"), length=0)
    engine.gate.clear()
    futures = [people.pool.submit(people.batcher, row(value), ["y"]) for value in range(9)]
    wait_until(lambda: engine.running == 9)
    engine.gate.set()
    assert [future.result(5).outputs[0][0, 0] for future in futures] == [2.0 * value for value in range(9)]


def test_full_queue() -> None:
    engine = Engine()
    people = crowd(engine, BatchingPlan(), length=1)
    first = held(engine, people)
    second = people.ask(row(1))
    assert people.batcher.full
    with pytest.raises(RequestError) as caught:
        people.batcher(row(2), ["y"])
    assert (caught.value.status, caught.value.retry_after) == (503, 1)
    engine.gate.set()
    assert first.result(5)
    assert second.result(5)
    assert not people.batcher.full


def test_waiting_is_bounded() -> None:
    engine = Engine()
    people = crowd(engine, BatchingPlan(), seconds=0.05)
    first = held(engine, people)
    with pytest.raises(RequestError) as caught:
        people.batcher(row(1), ["y"])
    assert caught.value.status == 503
    engine.gate.set()
    first.result(5)
    assert engine.shapes == [(1, 2)], "what nobody waits for is not computed"


def test_deadline() -> None:
    engine = Engine()
    people = crowd(engine, BatchingPlan())
    first = held(engine, people)
    late = people.ask(row(1), time.monotonic() + 0.05)
    with pytest.raises(RequestError, match="deadline") as caught:
        late.result(5)
    assert caught.value.status == 504
    # It passes in the very moment in which the slot becomes free: the one that hands it over notices.
    request_that_waits = people.ask(row(1), time.monotonic() + 0.2)
    people.batcher._waiting[0].deadline = 0.0
    engine.gate.set()
    with pytest.raises(RequestError, match="deadline"):
        request_that_waits.result(5)
    first.result(5)
    assert engine.shapes == [(1, 2)]


def test_delay_gathers_company() -> None:
    engine = Engine()
    people = crowd(engine, BatchingPlan(3, delay=5))
    first = people.pool.submit(people.batcher, row(1), ["y"])
    wait_until(lambda: people.batcher._company is not None)
    started = time.monotonic()
    others = [people.ask(row(value)) for value in (2, 3)]
    assert [future.result(5).batch for future in (first, *others)] == [3, 3, 3]
    assert time.monotonic() - started < 4, "a full batch does not wait"
    # A deadline shortens the wait.
    assert people.batcher(row(1), ["y"], time.monotonic() + 0.1).batch == 1


def test_a_storm() -> None:
    engine = Engine()
    people = crowd(engine, BatchingPlan(5), slots=2, length=1000)

    def ask(value: int) -> bool:
        length = 1 + value % 3
        outcome = people.batcher(row(value, length), ["y"])
        return bool(outcome.outputs[0].tolist() == [[2.0 * value] * length])

    assert all(people.pool.map(ask, range(2000)))
    assert engine.most <= 2
    wait_until(lambda: people.batcher._idle == 2)


# --------------------------------------------------------------------------------------------------------------------
# Planning
# --------------------------------------------------------------------------------------------------------------------
class Model:
    """A model whose run takes ``fixed`` seconds, and ``each`` for each row."""

    def __init__(self, compute: Callable[[Array], Array], fixed: float = 0.002, each: float = 0.0) -> None:
        self.inputs = {"x": TensorSpec("x", FP32, (-1, 2))}
        self.outputs = {"y": TensorSpec("y", FP32, (-1, 2))}
        self.provider = "CPUExecutionProvider"
        self.compute = compute
        self.fixed = fixed
        self.each = each

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        time.sleep(self.fixed + self.each * len(inputs["x"]))
        return [self.compute(inputs["x"]) for _ in outputs]

    def sample_inputs(self) -> dict[str, Array]:
        return row(0)


SAMPLES = [{"x": np.array([[1, 2]], np.float32)}]
AUTO = Batching()


def test_batches_when_that_is_faster() -> None:
    plan, reason = plan_batching(Model(lambda x: x * 2), SAMPLES, AUTO, {})
    assert plan.max_size >= 16
    assert plan.slot == "run"
    assert "measured" in reason


@pytest.mark.parametrize(
    ("model", "samples", "wish", "expected"),
    [
        (Model(lambda x: x * 2, 0.0, 0.002), SAMPLES, AUTO, "batches are no faster"),
        (Model(lambda x: x - x.mean()), SAMPLES, AUTO, "changes with the others in its batch"),
        (Model(lambda x: x[:1]), SAMPLES, AUTO, "has not one row for each row"),
        (Model(lambda x: x * 2), [], AUTO, "no golden request"),
        (Model(lambda x: x * 2), SAMPLES, Batching("never"), "switched off"),
        (Model(lambda x: x * 2), SAMPLES, Batching(max_size=1), "switched off"),
        (Model(lambda x: x - x.mean()), SAMPLES, Batching("always"), "changes with the others in its batch"),
    ],
)
def test_does_not_batch_when_it_must_not_or_need_not(
    model: Model, samples: list[dict[str, Array]], wish: Batching, expected: str
) -> None:
    plan, reason = plan_batching(model, samples, wish, {})
    assert plan.max_size == 1
    assert expected in reason


def test_batches_when_told_to() -> None:
    plan, reason = plan_batching(Model(lambda x: x * 2, 0.0, 0.0005), SAMPLES, Batching("always", 6, 0.01), {})
    assert (plan.max_size, plan.delay, reason) == (6, 0.01, "switched on")


def test_a_fixed_first_axis_is_no_batch() -> None:
    model = Model(lambda x: x * 2)
    model.inputs = {"x": TensorSpec("x", FP32, (1, 2))}
    plan, reason = plan_batching(model, SAMPLES, AUTO, {})
    assert plan.max_size == 1
    assert "the first axis of 'x' is not open" in reason


def test_outputs_that_would_show_the_padding_of_others() -> None:
    model = Model(lambda x: x * 2)
    model.outputs = {"y": TensorSpec("y", FP32, (-1, -1))}
    plan, reason = plan_batching(model, SAMPLES, AUTO, {"x": 0})
    assert plan.max_size == 1
    assert "would show the padding of others" in reason


def test_padding_that_changes_answers_is_found_out() -> None:
    model = Model(lambda x: x.mean(axis=1, keepdims=True).repeat(2, axis=1))
    samples = [{"x": np.array([[1, 2]], np.float32)}, {"x": np.array([[1, 2, 3]], np.float32)}]
    plan, reason = plan_batching(model, samples, AUTO, {"x": 0})
    assert plan.max_size == 1
    assert "changes with the others" in reason


def test_what_needs_a_slot() -> None:
    model = Model(lambda x: x * 2, 0.0, 0.002)
    assert plan_batching(model, SAMPLES, AUTO, {})[0].slot == "whole"
    model.provider = "CUDAExecutionProvider"
    assert plan_batching(model, SAMPLES, AUTO, {})[0].slot == "run"
    quick = Model(lambda x: x * 2, 0.0, 0.0)
    assert plan_batching(quick, SAMPLES, Batching("never"), {})[0].slot == "nothing"
    model.run = lambda *_: 1 / 0  # type: ignore[assignment, method-assign]
    assert plan_batching(model, [], AUTO, {})[0].slot == "run"
