# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Few threads that compete, and one that is free whenever others wait."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from ai102_server.threads import Takers


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.001)


class Pool:
    """Threads that take one request each, and say when they are back for another."""

    def __init__(self, takers: Takers) -> None:
        self.takers = takers
        self.back = 0
        self._lock = threading.Lock()

    def take(self, work: Callable[[], object]) -> None:
        def run() -> None:
            self.takers.arrive()
            work()
            self.takers.park()
            with self._lock:
                self.back += 1
            # Back in the pool, as Granian's threads are; they never end.
            threading.Event().wait(30)

        threading.Thread(target=run, daemon=True).start()


def test_all_but_a_few_park() -> None:
    pool = Pool(Takers(2))
    arrived = threading.Barrier(6)
    for _ in range(6):
        pool.take(lambda: arrived.wait(10))
    wait_until(lambda: pool.back == 2)
    assert (pool.takers.free, pool.takers.parked) == (2, 4)


def test_one_is_free_as_long_as_there_are_any() -> None:
    pool = Pool(Takers(2))
    arrived = threading.Barrier(5)
    go_on = threading.Event()

    def block() -> None:
        arrived.wait(10)
        # Both of those that are not parked by then wait for something, one in two ways at once.
        wait_until(lambda: pool.takers.parked == 3)
        with pool.takers, pool.takers:
            go_on.wait(10)

    for _ in range(2):
        pool.take(block)
    for _ in range(3):
        pool.take(lambda: arrived.wait(10))
    wait_until(lambda: pool.back == 1)
    assert (pool.takers.free, pool.takers.parked) == (1, 2)
    go_on.set()
    # One more than enough parks again.
    wait_until(lambda: pool.back + pool.takers.parked == 5)
    assert (pool.takers.free, pool.takers.parked) == (2, 3)


def test_those_that_are_busy_for_a_moment_need_nobody_in_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    # Long enough that no busy machine makes a moment of it.
    monkeypatch.setattr("ai102_server.threads.TICK_SECONDS", 0.1)
    pool = Pool(Takers(2))
    arrived = threading.Barrier(5)
    woken: list[int] = []

    def work() -> None:
        arrived.wait(10)
        wait_until(lambda: pool.takers.parked == 3)
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            with pool.takers:
                pass
        woken.append(3 - pool.takers.parked)

    for _ in range(2):
        pool.take(work)
    for _ in range(3):
        pool.take(lambda: arrived.wait(10))
    wait_until(lambda: pool.back == 2)
    assert (woken, pool.takers.free, pool.takers.parked) == ([0, 0], 2, 3)


def test_other_threads_do_not_count() -> None:
    takers = Takers(1)
    with takers:
        pass
    assert (takers.free, takers.parked) == (0, 0)
    takers.park()


def test_a_storm() -> None:
    """Whatever happens, somebody is free as long as not all wait, and nobody is forgotten."""
    takers = Takers(2)

    def work(seed: int) -> None:
        chance = random.Random(seed)
        takers.arrive()
        for _ in range(chance.randrange(3)):
            with takers:
                time.sleep(chance.random() / 500)
        takers.park()

    with ThreadPoolExecutor(16) as pool:
        futures = [pool.submit(work, seed) for seed in range(1500)]
        try:
            wait_until(lambda: sum(future.done() for future in futures) + takers.parked == 1500)
            assert takers.free == 2
        finally:
            # The pool ends only when its threads do, and those that are parked wait for somebody.
            while takers.parked:
                takers._parked.pop().release()
