# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import fcntl
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import ai102_server.access.limits as module
from access_kit import Model, Site, request
from ai102_server.access import Access
from ai102_server.access.limits import REFUSED, ROWS, WAYS, SharedTable
from ai102_server.config.access import Limit
from ai102_server.errors import RequestError


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def table(subjects: int = 64) -> SharedTable:
    made = SharedTable(subjects)
    made.claim()
    return made


def in_child(work: Callable[[], None]) -> int:
    """Fork a process that does ``work`` and then waits to be killed. Returns its id when the work is done."""
    ready = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            # What hangs must not hang for ever.
            signal.alarm(20)
            work()
            os.write(ready[1], b"y")
            signal.pause()
        finally:
            os._exit(1)
    os.close(ready[1])
    done = os.read(ready[0], 1)
    os.close(ready[0])
    assert done == b"y"
    return child


def kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


# Buckets ------------------------------------------------------------------------------------------------------------
def test_a_bucket_gives_its_burst_and_then_its_rate(clock: Clock) -> None:
    shared = table()
    key, limit = shared.key("uma", anonymous=False), Limit(10.0, 3)
    assert [shared.take(key, limit)[0] != REFUSED for _ in range(4)] == [True, True, True, False]
    slot, wait = shared.take(key, limit)
    assert (slot, wait) == pytest.approx((REFUSED, 0.1))
    clock.now += 0.05
    assert shared.take(key, limit) == pytest.approx((REFUSED, 0.05))
    clock.now += 0.051
    assert shared.take(key, limit)[0] != REFUSED
    assert shared.take(key, limit)[0] == REFUSED
    clock.now += 1000
    assert [shared.take(key, limit)[0] != REFUSED for _ in range(4)] == [True, True, True, False]


@given(st.lists(st.floats(0, 2, allow_nan=False), min_size=1, max_size=60), st.integers(1, 8), st.floats(0.5, 20))
@hypothesis_settings(max_examples=100, deadline=None)
def test_never_more_than_burst_and_rate_allow(pauses: list[float], burst: int, rate: float) -> None:
    # Not by monkeypatch, which hypothesis does not mix with.
    clock = Clock()
    with mock.patch.object(module, "time", clock):
        shared = table()
        key, limit, taken = shared.key("x", anonymous=False), Limit(rate, burst), 0
        for pause in pauses:
            clock.now += pause
            taken += shared.take(key, limit)[0] != REFUSED
            assert taken <= burst + (clock.now - 1000.0) * rate + 1e-6
        # And never less: the first ones always pass.
        assert taken >= min(burst, len(pauses))


def count_locks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Locks that processes share, as they are taken."""
    taken: list[int] = []
    lockf = fcntl.lockf

    def counted(descriptor: int, command: int, length: int = 0, start: int = 0) -> None:
        if command == fcntl.LOCK_EX:
            taken.append(start)
        lockf(descriptor, command, length, start)

    monkeypatch.setattr(fcntl, "lockf", counted)
    return taken


def test_a_high_rate_does_not_ask_other_processes_each_time(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = table()
    taken = count_locks(monkeypatch)
    key, limit = shared.key("uma", anonymous=False), Limit(1000.0, 1600, 3)
    slot = 0
    for _ in range(100):
        slot, _ = shared.take(key, limit, slot)
        shared.release(slot)
    # Tokens for 50 ms each time.
    assert len(taken) == 2
    # What is in flight is counted without asking them, too, and refused all the same.
    slots = [shared.take(key, limit, slot)[0] for _ in range(5)]
    assert slots == [slot] * 3 + [REFUSED] * 2
    assert shared.inflight(key) == 3
    # A low rate is counted exactly, in one place.
    del taken[:]
    key, limit = shared.key("eve", anonymous=False), Limit(10.0, 1600)
    for _ in range(5):
        slot, _ = shared.take(key, limit, slot)
    assert len(taken) == 5
    # Tokens that nobody wanted are lost after a second, and then given anew by the bucket.
    key, limit = shared.key("ann", anonymous=False), Limit(100.0, 160)
    slot, _ = shared.take(key, limit)
    assert shared._leases[key].tokens == 4
    clock.now += 1
    del taken[:]
    assert shared.take(key, limit, slot)[0] == slot
    assert len(taken) == 1
    clock.now += 2
    shared.reclaim()
    assert not shared._leases
    # Never more than a sixteenth of the burst, however high the rate.
    key = shared.key("bob", anonymous=False)
    shared.take(key, Limit(10000.0, 48))
    assert shared._leases[key].tokens == 2


@given(
    st.lists(st.tuples(st.floats(0, 0.2, allow_nan=False), st.integers(0, 60), st.booleans()), min_size=1, max_size=30),
    st.integers(1, 300),
    st.floats(1, 2000),
)
@hypothesis_settings(max_examples=100, deadline=None)
def test_what_two_processes_take_in_advance_is_never_more(
    steps: list[tuple[float, int, bool]], burst: int, rate: float
) -> None:
    clock = Clock()
    with mock.patch.object(module, "time", clock):
        mine = table()
        key, limit, taken = mine.key("x", anonymous=False), Limit(rate, burst), 0
        leases: list[Any] = [{}, {}]
        for pause, count, other in steps:
            clock.now += pause
            # The table is shared; what was taken in advance is each process's own.
            mine._leases = leases[other]
            taken += sum(mine.take(key, limit)[0] != REFUSED for _ in range(count))
            assert taken <= burst + (clock.now - 1000.0) * rate + 1e-6
        # Alone, a process gets all there is.
        clock.now += 2 * burst / rate
        assert sum(mine.take(key, limit)[0] != REFUSED for _ in range(burst)) == burst


def test_a_slot_that_another_subject_has_by_now_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = table()
    key, limit = shared.key("uma", anonymous=False), Limit(1000.0, 1600, 2)
    slot, _ = shared.take(key, limit)
    enter = shared._enter

    def taken_away(where: int, most: int) -> bool:
        shared._keys[slot] = 1
        monkeypatch.undo()
        return enter(where, most)

    shared.release(slot)
    monkeypatch.setattr(shared, "_enter", taken_away)
    found, _ = shared.take(key, limit, slot)
    assert found not in {slot, REFUSED}
    assert (shared._inflight[slot], shared._inflight[found]) == (0, 1)


def test_subjects_do_not_disturb_each_other() -> None:
    shared = table(4096)
    limit = Limit(1.0, 1)
    keys = [shared.key(f"subject {number}", anonymous=number % 2 == 0) for number in range(300)]
    assert len(set(keys)) == 300
    assert all(0 < key < 1 << 64 for key in keys)
    assert all(shared.take(key, limit)[0] != REFUSED for key in keys)
    assert all(shared.take(key, limit)[0] == REFUSED for key in keys)


@pytest.mark.usefixtures("clock")
def test_hints_that_are_wrong_do_no_harm() -> None:
    shared = table()
    first, second = (shared.key(name, anonymous=False) for name in ("a", "b"))
    limit = Limit(1.0, 1)
    slot, _ = shared.take(first, limit)
    other, _ = shared.take(second, limit, slot)
    assert other not in {slot, REFUSED}
    assert shared.take(first, limit, other)[0] == REFUSED
    assert shared.take(first, limit, slot)[0] == REFUSED


def same_set(shared: SharedTable, anonymous: bool, count: int, like: int | None = None) -> list[int]:
    """Keys of one set."""
    found: list[int] = []
    number = 0
    while len(found) < count:
        number += 1
        key = shared.key(f"n{number}", anonymous=anonymous)
        wanted = like if like is not None else (found[0] if found else key)
        if key % shared._sets == wanted % shared._sets:
            found.append(key)
    return found


@pytest.mark.usefixtures("clock")
def test_who_has_least_to_forget_makes_room() -> None:
    shared = table()
    keys = same_set(shared, False, WAYS + 2)
    for number, key in enumerate(keys[:WAYS]):
        # The fourth is full again first.
        assert shared.take(key, Limit(1.0, 1 if number == 3 else 100 + number))[0] != REFUSED
        for _ in range(0 if number == 3 else 50):
            shared.take(key, Limit(1.0, 100 + number))
    assert shared.take(keys[WAYS], Limit(1.0, 1))[0] != REFUSED
    found = {key for key in keys if key in shared._keys.tolist()}
    assert found == set(keys[: WAYS + 1]) - {keys[3]}
    # The others have kept what they had used.
    assert shared._tokens[shared._keys.tolist().index(keys[0])] == pytest.approx(100 - 51)


@pytest.mark.usefixtures("clock")
def test_requests_in_flight_keep_their_slot() -> None:
    shared = table()
    keys = same_set(shared, False, WAYS + 1)
    limit = Limit(concurrent=5)
    slots = [shared.take(key, limit)[0] for key in keys[:WAYS]]
    assert sorted(slots) == list(range(min(slots), min(slots) + WAYS))
    # None of them can be taken away: the next subject must wait.
    assert shared.take(keys[WAYS], limit) == (REFUSED, 1.0)
    shared.release(slots[7])
    assert shared.take(keys[WAYS], limit)[0] == slots[7]
    assert [shared.inflight(key) for key in keys] == [1] * 7 + [0] + [1] * 9


@pytest.mark.usefixtures("clock")
def test_anonymous_sources_never_make_room_at_the_cost_of_subjects() -> None:
    shared = table(64)
    limit = Limit(1.0, 1)
    subjects = [shared.key(f"s{number}", anonymous=False) for number in range(8)]
    assert all(shared.take(key, limit)[0] != REFUSED for key in subjects)
    for number in range(2000):
        shared.take(shared.key(f"192.0.2.{number}", anonymous=True), limit)
    assert all(shared.take(key, limit)[0] == REFUSED for key in subjects)
    assert shared.key("x", anonymous=True) != shared.key("x", anonymous=False)


def test_when_a_bucket_will_be_full_is_known(clock: Clock) -> None:
    shared = table()
    key = shared.key("x", anonymous=False)
    slot, _ = shared.take(key, Limit(2.0, 10))
    assert shared._full_at[slot] == pytest.approx(clock.now + 0.5)
    shared.take(key, Limit(2.0, 10))
    assert shared._full_at[slot] == pytest.approx(clock.now + 1.0)
    clock.now += 3
    shared.take(key, Limit(concurrent=1))
    assert shared._full_at[slot] == clock.now


def test_the_table_is_large_enough() -> None:
    tables = [SharedTable(count) for count in (1, 32, 33, 64, 65, 4096)]
    assert [shared._sets for shared in tables] == [2, 2, 4, 4, 6, 256]
    assert [len(shared._inflight) for shared in tables] == [shared._sets * WAYS * ROWS for shared in tables]


# In flight ----------------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("clock")
def test_requests_in_flight_are_bounded_and_given_back() -> None:
    shared = table()
    key, limit = shared.key("uma", anonymous=False), Limit(concurrent=2)
    first, second = shared.take(key, limit)[0], shared.take(key, limit)[0]
    assert first == second != REFUSED
    assert shared.take(key, limit) == (REFUSED, 1.0)
    assert shared.inflight(key) == 2
    shared.release(first)
    assert shared.inflight(key) == 1
    assert shared.take(key, limit)[0] == first
    for _ in range(5):
        shared.release(first)
    assert shared.inflight(key) == 0
    assert shared.inflight(shared.key("nobody", anonymous=False)) == 0


@pytest.mark.usefixtures("clock")
def test_what_is_refused_for_one_reason_costs_nothing_for_the_other() -> None:
    shared = table()
    key, limit = shared.key("uma", anonymous=False), Limit(1.0, 2, 1)
    slot, _ = shared.take(key, limit)
    for _ in range(5):
        assert shared.take(key, limit) == (REFUSED, 1.0)
    shared.release(slot)
    assert shared.take(key, limit)[0] == slot
    shared.release(slot)
    # The bucket is empty now; nothing is in flight.
    assert shared.take(key, limit) == pytest.approx((REFUSED, 1.0))
    assert shared.inflight(key) == 0


@pytest.mark.usefixtures("clock")
def test_counts_hold_right_across_processes() -> None:
    shared = table()
    key, limit = shared.key("uma", anonymous=False), Limit(concurrent=3)
    assert shared.take(key, limit)[0] != REFUSED

    def work() -> None:
        shared.claim()
        assert shared.take(key, limit)[0] != REFUSED
        assert shared.take(key, limit)[0] != REFUSED
        assert shared.take(key, limit)[0] == REFUSED

    child = in_child(work)
    try:
        assert shared.inflight(key) == 3
        assert shared.take(key, limit)[0] == REFUSED
        # It lives: nothing of it is cleared.
        shared.reclaim()
        assert shared.inflight(key) == 3
    finally:
        kill(child)
    assert shared.inflight(key) == 3
    shared.reclaim()
    assert shared.inflight(key) == 1
    assert shared.take(key, limit)[0] != REFUSED


@pytest.mark.usefixtures("clock")
def test_a_new_process_clears_the_row_of_the_dead_one() -> None:
    shared = SharedTable(64)
    key, limit = shared.key("uma", anonymous=False), Limit(concurrent=1)

    def work() -> None:
        assert shared.claim() == 0
        assert shared.take(key, limit)[0] != REFUSED

    kill(in_child(work))
    assert shared.inflight(key) == 1
    assert shared.claim() == 0
    assert shared.claim() == 0
    assert shared.inflight(key) == 0


@pytest.mark.usefixtures("clock")
def test_a_process_that_dies_with_the_lock_blocks_nobody() -> None:
    shared = table()
    key = shared.key("uma", anonymous=False)

    def work() -> None:
        shared.claim()
        fcntl.lockf(shared._fd, fcntl.LOCK_EX, 1, key % shared._sets)

    child = in_child(work)
    got: list[int] = []
    thread = threading.Thread(target=lambda: got.append(shared.take(key, Limit(1.0, 1))[0]), daemon=True)
    thread.start()
    thread.join(0.1)
    assert got == []
    kill(child)
    thread.join(10)
    assert got
    assert got != [REFUSED]


def test_each_process_has_a_row_until_there_are_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = table()
    assert shared.claim() == 0
    rows: list[int] = []

    def work() -> None:
        rows.append(shared.claim())
        assert rows == [1]

    kill(in_child(work))
    monkeypatch.setattr(shared, "_try", lambda _: False)
    monkeypatch.setattr(shared, "_pid", 0)
    with pytest.raises(RuntimeError, match=f"more than {ROWS} processes"):
        shared.claim()


def test_several_processes_together_take_no_more_than_there_is() -> None:
    shared = table()
    key, limit = shared.key("uma", anonymous=False), Limit(0.001, 1000, 0)
    result = os.pipe()
    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            shared.claim()
            mine = sum(shared.take(key, limit)[0] != REFUSED for _ in range(600))
            os.write(result[1], f"{mine}\n".encode())
            os._exit(0)
        children.append(child)
    os.close(result[1])
    for child in children:
        os.waitpid(child, 0)
    with os.fdopen(result[0]) as stream:
        assert sum(int(line) for line in stream) == 1000


def test_threads_together_give_everything_back() -> None:
    shared = table()
    key, limit = shared.key("uma", anonymous=False), Limit(concurrent=4)
    most = []

    def work() -> None:
        for _ in range(200):
            slot, _ = shared.take(key, limit)
            if slot != REFUSED:
                most.append(shared.inflight(key))
                shared.release(slot)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) <= 4
    assert shared.inflight(key) == 0


def test_generations_grow_for_all() -> None:
    shared = SharedTable(64)
    before = shared.generation[0]
    shared.bump()
    kill(in_child(shared.bump))
    shared.bump()
    assert shared.generation[0] == before + 3


def test_passes_are_given_back_to_all() -> None:
    shared = SharedTable(64)
    assert shared.enter_pass(0)

    def other(expected: bool) -> None:
        assert shared.enter_pass(0) == expected
        assert shared.enter_pass(1)

    kill(in_child(lambda: other(False)))
    shared.leave_pass(0)
    kill(in_child(lambda: other(True)))
    assert shared.enter_pass(0)


def test_locks_are_given_back_to_all(clock: Clock) -> None:
    shared = table()
    key = shared.key("uma", anonymous=False)
    assert shared.take(key, Limit(1.0, 1))[0] != REFUSED
    shared.reclaim()

    def work() -> None:
        assert shared.claim() == 1
        clock.now += 1
        assert shared.take(key, Limit(1.0, 1))[0] != REFUSED

    kill(in_child(work))


# Through the gate ---------------------------------------------------------------------------------------------------
@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.close()


def outcome(gate: Access, environ: dict[str, Any], operation: str = "infer") -> int:
    try:
        gate.enter(environ, operation, Model())
    except RequestError as error:
        return error.status
    return 200


def test_limits_of_a_subject_hold_in_all_gates(site: Site, clock: Clock) -> None:
    limits = {"roles": {"user": {"requests_per_second": 0.5, "burst": 3}}, "subjects": {"vic": {"concurrent": 1}}}
    shared = Access.share(site.config(limits=limits))
    gates = [site.load(shared, limits=limits) for _ in range(2)]
    uma = request(site.token(gates[0], "uma"))
    assert [outcome(gates[number % 2], uma) for number in range(4)] == [200, 200, 200, 429]
    with pytest.raises(RequestError) as caught:
        gates[0].enter(uma, "infer", Model())
    assert caught.value.headers == {"Retry-After": "2"}
    # A second token makes nobody a second subject.
    assert outcome(gates[0], request(site.token(gates[0], "uma"))) == 429
    assert [outcome(gates[0], request(site.token(gates[0], "otto"))) for _ in range(5)] == [200] * 5
    # What policy forbids is not counted.
    clock.now += 2
    assert outcome(gates[0], uma, "accounts") == 403
    assert outcome(gates[0], uma) == 200
    # Open operations are never limited: a probe must get its answer.
    assert outcome(gates[0], uma, "health") == 200


def test_tickets_of_a_subject_are_counted_until_they_are_closed(site: Site) -> None:
    limits = {"subjects": {"uma": {"concurrent": 2}}}
    gate = site.load(limits=limits)
    uma = request(site.token(gate, "uma"))
    first = gate.enter(uma, "infer", Model())
    second = gate.enter(uma, "metadata", None)
    assert (first.subject, first.role, first.tenant) == ("uma", "user", "acme")
    with pytest.raises(RequestError) as caught:
        gate.enter(uma, "infer", Model())
    assert (caught.value.status, caught.value.headers["Retry-After"]) == (429, "1")
    first.close()
    first.close()
    third = gate.enter(uma, "infer", Model())
    assert outcome(gate, uma) == 429
    second.close()
    third.close()
    assert outcome(gate, uma) == 200


def test_anonymous_callers_are_counted_by_their_network(site: Site) -> None:
    site.write_policy({"rules": [{"name": "free", "roles": "anonymous", "operations": "infer"}]})
    gate = site.load(limits={"roles": {"anonymous": {"requests_per_second": 0.001, "burst": 2}}})
    assert [outcome(gate, request(address="192.0.2.1")) for _ in range(3)] == [200, 200, 429]
    assert outcome(gate, request(address="192.0.2.2")) == 200
    assert [outcome(gate, request(address=f"2001:db8::{number}")) for number in range(3)] == [200, 200, 429]
    assert outcome(gate, request(address="2001:db8:0:1::1")) == 200
    assert [outcome(gate, request(site.token(gate))) for _ in range(5)] == [200] * 5


def test_a_subject_called_like_an_address_is_not_that_source(site: Site) -> None:
    site.write_policy({"rules": [{"name": "free", "roles": "anonymous", "operations": "infer"}]})
    gate = site.load(limits={"default": {"concurrent": 3}})
    gate.enter(request(address="192.0.2.1"), "infer", None)
    keys = [gate.table.key("192.0.2.1", anonymous=anonymous) for anonymous in (True, False)]
    assert [gate.table.inflight(key) for key in keys] == [1, 0]
    gate.enter(request(site.token(gate, "uma")), "infer", None)
    keys = [gate.table.key("uma", anonymous=anonymous) for anonymous in (True, False)]
    assert [gate.table.inflight(key) for key in keys] == [0, 1]


def test_an_administrators_limit_can_be_lifted_by_name(site: Site) -> None:
    limits: dict[str, Any] = {"default": {"requests_per_second": 0.001}, "subjects": {"ann": {}}}
    gate = site.load(limits=limits)
    assert [outcome(gate, request(site.token(gate, "uma"))) for _ in range(2)] == [200, 429]
    assert [outcome(gate, request(site.token(gate, "ann"))) for _ in range(3)] == [200] * 3
