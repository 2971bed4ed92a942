#!/usr/bin/env python3
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measures inference servers for ONNX models on this machine: ours, those that people use, and ONNX Runtime itself.

    python benchmarks/server/run.py            # everything: about three quarters of an hour
    python benchmarks/server/run.py --quick    # one round of short windows: whether everything works, not how fast

Makes the environments of the peers and the models below `.cache/bench/` when they are not there. Everything is measured
in one run, in rounds; in each round every server is started, verified, warmed up, measured and stopped, one alive at a
time, in an order that is rotated from round to round. Writes results.json, results.md and plots to
`benchmarks/server/results/` (or --output), and ends with 1 when a server could not be measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import environments
import report
from environments import HERE, Failure, say
from servers import PEER_NAMES, SERVERS, Running, Server, busy_seconds, cpu_seconds, memory, running
from wire import Samples

ENCODINGS = {"tiny": ("json",), "minilm": ("json", "binary"), "ocr": ("json", "binary"), "image": ("binary",)}
CONCURRENCY = (32, 1)
MORE = {("minilm", "json"): (64, *CONCURRENCY)}
"""Two processes that run batches of 16, the size that pays best, while the next ones wait, need 64 connections."""
FEATURES = {
    "both": ("ours", "ours-off"),
    "on": ("ours",),
    "off": ("ours-off",),
    "engine": ("ours", "ours-process"),
    "none": (),
}


@dataclass
class Measurement:
    """One window. Latencies in µs, memory in bytes."""

    server: str
    model: str
    encoding: str
    concurrency: int
    round: int
    rps: float
    p50: float
    p90: float
    p99: float
    max: float
    errors: int
    memory: int = 0
    others: float = 0.0  # share of all CPUs that neither the server nor the load generator used


@dataclass
class Options:
    """What is measured, and for how long."""

    models: list[str]
    servers: list[Server]
    seconds: float
    rounds: int
    warm_up: float
    output: Path
    failures: list[str] = field(default_factory=list)


def load(one: Running, encoding: str, concurrency: int, seconds: float, rate: float | None = None) -> dict[str, Any]:
    """Send load for some seconds. Returns what load.lua prints. Raises Failure when wrk fails."""
    requests = one.requests(encoding)
    assert requests is not None
    with tempfile.TemporaryDirectory() as directory:
        for index, request in enumerate(requests):
            (Path(directory) / str(index)).write_bytes(request.raw(f"127.0.0.1:{one.port}"))
        command = [environments.wrk(), "-t1", f"-c{concurrency}", f"-d{max(1, round(seconds))}s", "--timeout=30s"]
        command += ["-s", str(HERE / "load.lua"), f"http://127.0.0.1:{one.port}", "--", directory, str(len(requests))]
        if rate is not None:
            command.append(f"{rate:.3f}")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise Failure(f"wrk failed: {done.stderr.strip() or done.stdout.strip()}")
    found: dict[str, Any] = json.loads(lines[0].removeprefix("RESULT "))
    return found


def alone(one: Running, work: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any], float]:
    """Do some work, and find out what share of the CPUs others had meanwhile."""
    before = busy_seconds(), cpu_seconds(one.pids), os.times().children_user + os.times().children_system
    began = time.monotonic()
    result = work()
    elapsed = (time.monotonic() - began) * len(os.sched_getaffinity(0))
    after = busy_seconds(), cpu_seconds(one.pids), os.times().children_user + os.times().children_system
    busy, server, generator = (new - old for new, old in zip(after, before, strict=True))
    return result, max(0.0, (busy - server - generator) / elapsed)


def measure(options: Options, server: Server, model: str, number: int) -> list[Measurement]:
    """Start a server with a model, measure it, stop it."""
    if all(server.wire.make(encoding) is None for encoding in ENCODINGS[model]):
        return []
    samples = Samples.load(environments.DATA / model)
    found: list[Measurement] = []
    with running(server, samples) as one:
        for encoding in ENCODINGS[model]:
            if one.requests(encoding) is None:
                continue
            try:
                one.verify(encoding)
            except (Failure, OSError) as error:
                options.failures.append(str(error))
                say(f"  {error}")
                continue
            for concurrency in MORE.get((model, encoding), CONCURRENCY):
                load(one, encoding, concurrency, options.warm_up)
                time.sleep(0.5)  # wrk has left without the answers to its last requests, which are still worked on
                seconds = options.seconds if concurrency > 1 else max(1.0, options.seconds / 2)
                result, others = alone(one, lambda s=seconds, e=encoding, c=concurrency: load(one, e, c, s))
                errors = sum(result["errors"].values())
                found.append(
                    Measurement(
                        server.name, model, encoding, concurrency, number,
                        (result["requests"] - result["errors"]["status"]) / result["seconds"],
                        result["p50"], result["p90"], result["p99"], result["max"], errors, memory(one.pids), others,
                    )
                )  # fmt: skip
    return found


def measure_raw(options: Options, model: str, number: int) -> tuple[list[Measurement], dict[str, float]]:
    """Measure ONNX Runtime itself, in an environment with nothing else."""
    directory = environments.DATA / model
    python = environments.environment("flask", HERE / "peers" / "flask.txt") / "python"
    # Eight kinds of windows; each gets a share of the time that a server's gets.
    command = [python, HERE / "raw.py", directory / "model.onnx", directory / "samples.npz", str(options.seconds / 2)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failure(f"ONNX Runtime itself cannot be measured: {done.stderr.strip()[-500:]}")
    found = json.loads(done.stdout)
    best = max(found["throughput"].values())
    common = (found["p50"], found["p90"], found["p99"], found["p99"], 0)
    windows = [Measurement("raw", model, "none", concurrency, number, best, *common) for concurrency in (64, 32)]
    windows.append(Measurement("raw", model, "none", 1, number, 1e6 / found["p50"], *common))
    return windows, found["throughput"]


def run(options: Options) -> dict[str, Any]:
    """Measure everything."""
    measurements: list[Measurement] = []
    raw: dict[str, list[dict[str, float]]] = {}
    names = ["raw", *(server.name for server in options.servers)]
    by_name = {server.name: server for server in options.servers}
    began = time.time()
    for number in range(options.rounds):
        for position, model in enumerate(options.models):
            turn = (number * (1 + len(names) // 3) + position) % len(names)
            for name in names[turn:] + names[:turn]:
                say(f"round {number + 1}/{options.rounds}, {model}, {name} ({time.time() - began:.0f} s)")
                try:
                    if name == "raw":
                        windows, throughput = measure_raw(options, model, number)
                        raw.setdefault(model, []).append(throughput)
                    else:
                        windows = measure(options, by_name[name], model, number)
                except Failure as error:
                    options.failures.append(str(error))
                    say(f"  {error}")
                    continue
                measurements += windows
                for item in windows:
                    errors = f", {item.errors} errors" if item.errors else ""
                    say(f"  {item.encoding} c={item.concurrency}: {item.rps:,.1f}/s, p50 {item.p50:,.0f} µs{errors}")
    return {
        "machine": machine(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
        "duration_seconds": round(time.time() - began),
        "rounds": options.rounds,
        "window_seconds": options.seconds,
        "labels": {"raw": "ONNX Runtime, no server", **{server.name: server.label for server in options.servers}},
        "versions": versions(options.servers),
        "raw": raw,
        "failures": options.failures,
        "measurements": [asdict(item) for item in measurements],
    }


def machine() -> dict[str, Any]:
    """What was measured on."""
    cpu = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    return {"cpu": cpu, "cores": len(os.sched_getaffinity(0)), "load_before": os.getloadavg()[0],
            "python": platform.python_version(), "kernel": platform.release()}  # fmt: skip


def versions(servers: list[Server]) -> dict[str, str]:
    """Versions of the peers, from their requirements."""
    found = {"onnxruntime": metadata.version("onnxruntime")}
    wanted = ("ray", "bentoml", "litserve", "nvidia-pytriton", "mlserver", "kserve", "flask", "granian", "gunicorn")
    for environment in sorted({server.environment for server in servers if server.environment}):
        for line in (HERE / "peers" / f"{environment}.txt").read_text().splitlines():
            name, _, version = line.partition("==")
            if name in wanted:
                found[name] = version
    return found


def choose(arguments: argparse.Namespace) -> Options:
    """Options from the command line. Raises Failure."""
    servers: list[Server] = []
    peers = PEER_NAMES if arguments.peers is None else [name for name in arguments.peers.split(",") if name]
    for name in peers:
        matching = [s for s in SERVERS if not s.is_ours and (s.name == name or s.environment == name)]
        if not matching:
            raise Failure(f"there is no peer '{name}'; there are: {', '.join(PEER_NAMES)}")
        servers += [item for item in matching if item not in servers]
    ours = FEATURES[arguments.features]
    servers += [server for server in SERVERS if server.name in ours]
    models = list(ENCODINGS) if arguments.models is None else arguments.models.split(",")
    for name in models:
        if name not in ENCODINGS:
            raise Failure(f"there is no model '{name}'; there are: {', '.join(ENCODINGS)}")
    quick = arguments.quick
    return Options(
        models, servers,
        seconds=arguments.seconds or (1.0 if quick else 4.0), rounds=arguments.rounds or (1 if quick else 3),
        warm_up=1.0, output=arguments.output,
    )  # fmt: skip


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round of windows of one second")
    parser.add_argument("--peers", help=f"of {','.join(PEER_NAMES)}, or their environments (default: all; '': none)")
    parser.add_argument("--models", help=f"of {','.join(ENCODINGS)} (default: all)")
    parser.add_argument("--seconds", type=float, help="of each window (default: 4)")
    parser.add_argument("--rounds", type=int, help="default: 3")
    features = "our server with authentication, policy, metrics and logs, without, both, with an engine process, or not"
    parser.add_argument("--features", choices=FEATURES, default="both", help=features)
    parser.add_argument("--output", type=Path, default=HERE / "results", help="default: %(default)s")
    parser.add_argument("--report-only", action="store_true", help="write table and plots from results.json again")
    arguments = parser.parse_args()
    try:
        if not arguments.report_only:
            options = choose(arguments)
            environments.models()
            results = run(options)
            options.output.mkdir(parents=True, exist_ok=True)
            (options.output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
        text, missed = report.write(arguments.output)
    except Failure as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    print(text)
    if missed:
        print(f"{missed} targets missed", file=sys.stderr)
    return 1 if json.loads((arguments.output / "results.json").read_text())["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
