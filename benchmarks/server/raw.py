#!/usr/bin/env python3
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measures ONNX Runtime itself, without any server: what a server can reach at most.

    raw.py MODEL SAMPLES SECONDS

Prints as JSON the inferences/s of the whole machine for batches of 1, 8 and 32, with one thread for each core on one
session, and with one thread whose operators use all cores; and the latency in µs of one sample after the other.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time

import numpy as np
import onnxruntime as ort

BATCHES = (1, 8, 32)


def session(path: str, threads: int) -> ort.InferenceSession:
    """Load the model with the session options of the benchmark; with several threads they may spin."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    if threads == 1:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def throughput(model: ort.InferenceSession, feed: dict[str, np.ndarray], threads: int, seconds: float) -> float:
    """Inferences/s of samples, not of batches."""
    size = len(next(iter(feed.values())))
    counts = [0] * threads
    model.run(None, feed)
    start = threading.Barrier(threads + 1)
    end = 0.0

    def work(index: int) -> None:
        start.wait()
        while time.perf_counter() < end:
            model.run(None, feed)
            counts[index] += size

    workers = [threading.Thread(target=work, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    began = time.perf_counter()
    end = began + seconds
    start.wait()
    for worker in workers:
        worker.join()
    return sum(counts) / (time.perf_counter() - began)


def main() -> None:
    """Measure, and print the result."""
    path, samples, seconds = sys.argv[1], dict(np.load(sys.argv[2])), float(sys.argv[3])
    cores = len(os.sched_getaffinity(0))
    single, wide = session(path, 1), session(path, cores)
    found: dict[str, float] = {}
    for batch in BATCHES:
        feed = {name: np.resize(array, (batch, *array.shape[1:])) for name, array in samples.items()}
        found[f"batch {batch}, {cores} threads"] = throughput(single, feed, cores, seconds)
        found[f"batch {batch}, {cores} threads in operators"] = throughput(wide, feed, 1, seconds)
    feed = {name: array[:1] for name, array in samples.items()}
    times = []
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        single.run(None, feed)
        times.append(time.perf_counter() - began)
    p50, p90, p99 = (float(value) * 1e6 for value in np.percentile(times[len(times) // 10 :], (50, 90, 99)))
    print(json.dumps({"throughput": found, "p50": p50, "p90": p90, "p99": p99}))


if __name__ == "__main__":
    main()
