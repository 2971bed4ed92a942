# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The servers that are measured, and how each is started."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import environments
import numpy as np
import ours
import wire
from environments import CACHE, HERE, ROOT, Failure
from wire import Request, Samples, Wire

PEERS = HERE / "peers"
READY_SECONDS = 90
STOP_SECONDS = 20


@dataclass(frozen=True)
class Server:
    """A server: ``environment`` is the name of its requirements, ``batch`` whether this variant batches."""

    name: str
    label: str
    environment: str
    wire: Wire
    command: Callable[[Path, int], list[str]]
    batch: bool = False
    workers: int = 2
    settings: Mapping[str, str] = field(default_factory=dict)
    is_ours: bool = False

    @property
    def features(self) -> bool:
        """Whether our server has authentication, policy, metrics and logs on."""
        return self.name != "ours-off"


def _python(script: str) -> Callable[[Path, int], list[str]]:
    return lambda bin_, _port: [str(bin_ / "python"), str(PEERS / script)]


def _gunicorn(bin_: Path, port: int) -> list[str]:
    return [str(bin_ / "gunicorn"), "--workers=2", f"--bind=127.0.0.1:{port}", "--log-level=error", "flask_app:app"]


def _granian(application: str) -> Callable[[Path, int], list[str]]:
    return lambda bin_, port: [str(bin_ / "granian"), "--interface=wsgi", "--workers=2", "--host=127.0.0.1",
                               f"--port={port}", "--log-level=error", application]  # fmt: skip


def _bento(bin_: Path, port: int) -> list[str]:
    return [str(bin_ / "bentoml"), "serve", "bento:Service", "--host=127.0.0.1", f"--port={port}",
            f"--working-dir={PEERS}"]  # fmt: skip


def _mlserver(bin_: Path, _port: int) -> list[str]:
    return [str(bin_ / "mlserver"), "start", str(CACHE / "mlserver-model")]


SERVERS = (
    Server("rayserve", "Ray Serve", "rayserve", wire.NAMED_OR_RAW, _python("rayserve.py")),
    Server("rayserve-batch", "Ray Serve, batching", "rayserve", wire.NAMED_OR_RAW, _python("rayserve.py"), True),
    Server("bentoml", "BentoML", "bentoml", wire.STACKED, _bento),
    Server("bentoml-batch", "BentoML, batching", "bentoml", wire.STACKED, _bento, True),
    Server("litserve", "LitServe", "litserve", wire.NAMED, _python("lit.py")),
    Server("litserve-batch", "LitServe, batching", "litserve", wire.NAMED, _python("lit.py"), True),
    Server("triton", "Triton through PyTriton, 2 instances", "pytriton", wire.V2, _python("triton_instances.py")),
    Server("triton-batch", "Triton through PyTriton, 2 instances, batching", "pytriton", wire.V2,
           _python("triton_instances.py"), True),
    Server("mlserver", "MLServer, 2 workers", "mlserver", wire.V2_JSON_ONLY, _mlserver),
    Server("mlserver-batch", "MLServer, 2 workers, batching", "mlserver", wire.V2_JSON_ONLY, _mlserver, True),
    Server("kserve-1", "KServe SDK, 1 worker", "kserve", wire.V2, _python("kserve_predictor.py"), workers=1),
    Server("kserve-2", "KServe SDK, 2 workers", "kserve", wire.V2, _python("kserve_predictor.py")),
    Server("flask-gunicorn", "Flask, gunicorn sync, 2 workers", "flask", wire.V2, _gunicorn),
    Server("flask-granian", "Flask, Granian, 2 workers, plain", "flask", wire.V2, _granian("flask_app:app")),
    Server("http-alone", "HTTP without inference: Granian, 2 workers", "flask", wire.V2, _granian("http_alone:app")),
    Server("ours", "ai102-server", "", wire.V2, ours.command, is_ours=True),
    Server("ours-off", "ai102-server, features off", "", wire.V2, ours.command, is_ours=True),
    Server("ours-process", "ai102-server, one engine process", "", wire.V2, ours.command, is_ours=True),
)  # fmt: skip
PEER_NAMES = [server.name for server in SERVERS if not server.is_ours]
LARGEST_BATCH = 8


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def descendants(pid: int) -> set[int]:
    """Process ids of the children of a process, and of theirs."""
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        current = waiting.pop()
        try:
            tasks = list(Path(f"/proc/{current}/task").iterdir())
        except OSError:
            continue
        for task in tasks:
            try:
                children = {int(text) for text in (task / "children").read_text().split()}
            except OSError:
                continue
            waiting += children - found
            found |= children
    return found


def memory(pids: set[int]) -> int:
    """Proportional memory of processes in bytes; what they share is counted once."""
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:"))
    return total


def cpu_seconds(pids: set[int]) -> float:
    """CPU time that processes have used so far."""
    ticks = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def busy_seconds() -> float:
    """CPU time that the whole machine has used so far."""
    fields = [int(text) for text in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    idle = fields[3] + fields[4]
    return (sum(fields) - idle) / os.sysconf("SC_CLK_TCK")


@dataclass
class Running:
    """A server that answers."""

    server: Server
    samples: Samples
    port: int
    process: subprocess.Popen[bytes]
    headers: dict[str, str]
    log: Path

    @property
    def pids(self) -> set[int]:
        """All its processes."""
        return {self.process.pid, *descendants(self.process.pid)}

    def requests(self, encoding: str) -> list[Request] | None:
        """Requests for all samples; None when the server does not understand the encoding."""
        make = self.server.wire.make(encoding)
        if make is None or (make is wire.raw_tensor and len(self.samples.feeds[0]) > 1):
            return None
        made = [make(self.samples.model, feed) for feed in self.samples.feeds]
        return [Request(item.path, item.body, {**item.headers, **self.headers}) for item in made]

    def ask(self, request: Request, timeout: float = 30) -> np.ndarray:
        """Send one request. Raises OSError, HTTPException, or Failure for a status other than 200."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request("POST", request.path, request.body, request.headers)
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        if response.status != http.client.OK:
            raise Failure(f"{self.server.name} answers {response.status}: {body[:300]!r}")
        return self.server.wire.read(response.headers, body)

    def verify(self, encoding: str) -> None:
        """Ask every sample and compare the answer with ONNX Runtime's. Raises Failure."""
        for index, request in enumerate(self.requests(encoding) or []):
            answer, expected = self.ask(request), self.samples.answers[index].ravel()
            if answer.shape != expected.shape or not np.allclose(answer, expected, rtol=1e-3, atol=1e-3):
                raise Failure(f"{self.server.name} answers sample {index} of {self.samples.model} wrongly ({encoding})")


def _environ(server: Server, samples: Samples, port: int) -> dict[str, str]:
    return {
        **os.environ,
        "BENCH_MODEL": str(samples.directory / "model.onnx"),
        "BENCH_NAME": samples.model,
        "BENCH_PORT": str(port),
        "BENCH_WORKERS": str(server.workers),
        "BENCH_BATCH": str(LARGEST_BATCH if server.batch else 0),
        "PYTHONPATH": str(ROOT / "server" / "src") if server.is_ours else str(PEERS),
        "BENTOML_DO_NOT_TRACK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DEDUP_LOGS": "0",
        "OMP_NUM_THREADS": "1",
        **server.settings,
    }


def _prepare_mlserver(server: Server, samples: Samples, port: int) -> None:
    directory = CACHE / "mlserver-model"
    directory.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {"host": "127.0.0.1", "http_port": port, "grpc_port": free_port(), "debug": False,
                                "metrics_port": free_port(), "parallel_workers": server.workers}  # fmt: skip
    model: dict[str, Any] = {"name": samples.model, "implementation": "mlserver_runtime.OnnxModel"}
    if server.batch:
        model |= {"max_batch_size": LARGEST_BATCH, "max_batch_time": 0.005}
    (directory / "settings.json").write_text(json.dumps(settings))
    (directory / "model-settings.json").write_text(json.dumps(model))


@contextmanager
def running(server: Server, samples: Samples, prepare: Callable[[int], None] | None = None) -> Iterator[Running]:
    """Start a server, wait until it answers, and stop it at the end. Raises Failure when it does not answer.

    ``prepare`` writes our server's configuration for a port, when it is not to be the usual one.
    """
    port = free_port()
    if server.environment:
        bin_ = environments.environment(server.environment, PEERS / f"{server.environment}.txt")
    else:
        bin_ = Path(sys.executable).parent
    if server.environment == "mlserver":
        _prepare_mlserver(server, samples, port)
    if prepare is not None:
        prepare(port)
    elif server.is_ours:
        ours.prepare(samples, port, on=server.features, engine="process" if server.name == "ours-process" else "auto")
    log = CACHE / "logs" / f"{server.name}-{samples.model}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as sink:
        process = subprocess.Popen(
            server.command(bin_, port), cwd=CACHE, env=_environ(server, samples, port), stdout=sink, stderr=sink,
            start_new_session=True,
        )  # fmt: skip
    one = Running(server, samples, port, process, {}, log)
    try:
        _wait(one)
        yield one
    finally:
        stop(one)


def _wait(one: Running) -> None:
    deadline = time.monotonic() + READY_SECONDS
    reason = "it did not listen"
    while time.monotonic() < deadline:
        if one.process.poll() is not None:
            reason = f"it ended with status {one.process.returncode}"
            break
        try:
            if one.server.is_ours and not one.headers:
                one.headers = ours.headers(one.port, on=one.server.features)
            requests = one.requests("json")
            assert requests is not None
            one.ask(requests[0], timeout=10)
            return
        except (OSError, http.client.HTTPException, Failure) as error:
            reason = str(error) or type(error).__name__
            time.sleep(0.2)
    raise Failure(f"{one.server.name} does not answer ({reason}); see {one.log.relative_to(ROOT)}")


def stop(one: Running) -> None:
    """End a server and every process that it started."""
    pids = one.pids
    if one.process.poll() is None:
        one.process.send_signal(signal.SIGTERM)
        try:
            one.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            one.process.kill()
            one.process.wait(10)
    # Some leave children behind.
    deadline = time.monotonic() + 5
    while left := {pid for pid in pids if pid != one.process.pid and _alive(pid)}:
        late = time.monotonic() > deadline
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
            except ProcessLookupError:
                continue
        time.sleep(0.2)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
