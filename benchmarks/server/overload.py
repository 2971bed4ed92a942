#!/usr/bin/env python3
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sends our server four times the load that saturates it, and looks at what becomes of it.

    python benchmarks/server/overload.py [--model minilm] [--seconds 60]

First the peak: a closed loop of 32 clients. Then an open loop at a little more than four times that rate, on 512
connections, with all features on. Held against: goodput of at least 95 % of the peak, memory that does not grow,
refusals that are 429 or 503 and nothing else, and the peak again within two seconds after the load has ended. The load
generator needs a part of the same CPUs for each refused request: the server's share is measured and told. Writes
overload.json; ends with 1 when something was missed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

import environments
from environments import HERE, Failure, say
from run import load, machine
from servers import SERVERS, Running, cpu_seconds, memory, running
from wire import Samples

FACTOR = 4.2
CONNECTIONS = 512
ALLOWED = {"200", "429", "503"}
RECOVERY_SECONDS = 2.0
GROWTH = 1.05


class Watch:
    """Memory and CPU time of a server, noted every half a second until told to stop."""

    def __init__(self, one: Running) -> None:
        self._one = one
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.memory: list[int] = []
        self.cpu = 0.0

    def __enter__(self) -> Watch:
        self._before = cpu_seconds(self._one.pids)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.cpu = cpu_seconds(self._one.pids) - self._before

    def _run(self) -> None:
        while not self._done.wait(0.5):
            self.memory.append(memory(self._one.pids))


def recovery(one: Running, encoding: str, usual: float) -> float:
    """Seconds until five answers in a row are as quick as an idle server's usually are, or nearly."""
    requests = one.requests(encoding)
    assert requests is not None
    began = time.monotonic()
    quick = 0
    while quick < 5:
        sent = time.monotonic()
        if sent - began > 30:
            return sent - began
        try:
            one.ask(requests[0], timeout=5)
            quick = quick + 1 if time.monotonic() - sent < 3 * usual else 0
        except (Failure, OSError):
            quick = 0
    return time.monotonic() - began


def idle_latency(one: Running, encoding: str) -> float:
    """Seconds that an answer of the idle server takes, connection included."""
    requests = one.requests(encoding)
    assert requests is not None
    times = []
    for request in requests:
        sent = time.monotonic()
        one.ask(request)
        times.append(time.monotonic() - sent)
    return statistics.median(times)


def measure(model: str, encoding: str, seconds: float) -> dict[str, Any]:
    """Measure peak, overload and recovery."""
    (ours,) = (server for server in SERVERS if server.name == "ours")
    samples = Samples.load(environments.DATA / model)
    with running(ours, samples) as one:
        one.verify(encoding)
        load(one, encoding, 32, 3)
        usual = idle_latency(one, encoding)
        peak = max(load(one, encoding, 32, 5)["requests"] / 5 for _ in range(2))
        say(f"peak {peak:,.1f}/s; now {FACTOR * peak:,.1f}/s for {seconds:.0f} s")
        with Watch(one) as watch:
            began = time.monotonic()
            result = load(one, encoding, CONNECTIONS, seconds, FACTOR * peak)
            elapsed = time.monotonic() - began
        recovered = recovery(one, encoding, usual)
        after = load(one, encoding, 32, 5)["requests"] / 5
    statuses = result["statuses"]
    settled = watch.memory[len(watch.memory) // 4 :] or [0]
    half = len(settled) // 2
    cores = machine()["cores"]
    return {
        "machine": machine(),
        "model": model,
        "encoding": encoding,
        "peak_per_second": peak,
        "offered_per_second": FACTOR * peak,
        "sent_per_second": result["requests"] / result["seconds"],
        "goodput_per_second": statuses.get("200", 0) / result["seconds"],
        "goodput_share": statuses.get("200", 0) / result["seconds"] / peak,
        "statuses": statuses,
        "errors": {name: count for name, count in result["errors"].items() if name != "status"},
        "server_cpu_share": watch.cpu / elapsed / cores,
        "memory_first_half": statistics.median(settled[: half or 1]),
        "memory_second_half": statistics.median(settled[half:]),
        "memory_max": max(settled),
        "recovery_seconds": recovered,
        "peak_after_per_second": after,
    }


def judge(found: dict[str, Any]) -> list[tuple[str, bool]]:
    """What was asked for, and whether it was met."""
    wrong = {status: count for status, count in found["statuses"].items() if status not in ALLOWED}
    growth = found["memory_second_half"] / max(1, found["memory_first_half"])
    failed = sum(found["errors"].values())
    return [
        (f"goodput {found['goodput_share']:.1%} of the peak (≥ 95 %)", found["goodput_share"] >= 0.95),
        (f"memory of the second half {growth:.3f} of the first (≤ {GROWTH})", growth <= GROWTH),
        (f"refused only with 429 or 503: {wrong or 'yes'}; {failed} connections failed", not wrong and not failed),
        (f"recovered after {found['recovery_seconds']:.2f} s (< {RECOVERY_SECONDS:g} s)",
         found["recovery_seconds"] < RECOVERY_SECONDS),
        (f"load of {found['sent_per_second'] / found['peak_per_second']:.1f} times the peak was really sent (≥ 4)",
         found["sent_per_second"] >= 4 * found["peak_per_second"]),
    ]  # fmt: skip


def main() -> int:
    """Measure and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="minilm", choices=("minilm", "ocr", "image"))
    parser.add_argument("--encoding", default=None, choices=("json", "binary"))
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--output", type=Path, default=HERE / "results")
    arguments = parser.parse_args()
    encoding = arguments.encoding or ("json" if arguments.model == "minilm" else "binary")
    try:
        environments.models()
        found = measure(arguments.model, encoding, arguments.seconds)
    except Failure as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "overload.json").write_text(json.dumps(found, indent=1) + "\n")
    verdicts = judge(found)
    for text, met in verdicts:
        print(f"{'met   ' if met else 'MISSED'}  {text}")
    print(f"statuses {found['statuses']}; the server used {found['server_cpu_share']:.0%} of the CPUs, which the load "
          "generator needs a part of")  # fmt: skip
    return 0 if all(met for _, met in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
