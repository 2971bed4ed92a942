# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""``bench``: a small closed loop against a running server, with nothing but the standard library.

Each client has one connection and sends its next request when the answer to the last one has come. Python needs about
as long for a request as the server does: this finds out what a server answers over a network and whether it errs, not
how fast it is on the same machine. For that see `benchmarks/server` of the collection.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote

from ai102_server.cli.target import Target, add_target_options, connect
from ai102_server.errors import ServerError

__all__ = ["Tally", "add_parser", "percentile"]

_PERCENTILES = (50, 90, 99)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``bench``."""
    parser = commands.add_parser(
        "bench",
        help="send a running server a load and report latency, throughput and errors",
        description="Send a load in a closed loop. Ends with 1 when a request failed.",
    )
    add = parser.add_argument
    add_target_options(parser)
    add("--model", required=True, help="name of the model")
    add("--version", dest="version", metavar="VERSION", help="version of the model (default: latest)")
    add("--request", action="append", required=True, metavar="FILE", type=Path,
        help="V2 request as JSON; several are sent in turn")  # fmt: skip
    add("--concurrency", type=int, default=8, help="clients; default: %(default)s")
    add("--duration", type=float, default=10.0, metavar="SECONDS", help="default: %(default)s")
    add("--warm-up", type=float, default=1.0, metavar="SECONDS", help="before it, not counted; default: %(default)s")
    add("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=_run)


@dataclass
class Tally:
    """What the clients saw together; latencies in seconds, of requests that were answered with 200."""

    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def add(self, other: Tally) -> None:
        """Add what another client saw."""
        self.latencies += other.latencies
        self.statuses += other.statuses
        self.failures += other.failures

    @property
    def failed(self) -> int:
        """Requests without an answer, or with another status than 200."""
        return self.failures.total() + sum(count for status, count in self.statuses.items() if status != HTTPStatus.OK)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of the sorted ``values`` that ``share`` per cent of them do not exceed (nearest rank)."""
    return values[max(0, math.ceil(share / 100 * len(values)) - 1)]


def _run(arguments: argparse.Namespace) -> int:
    if arguments.concurrency < 1 or not arguments.duration > 0 or not arguments.warm_up >= 0:
        raise ServerError("--concurrency must be 1 or more, --duration more than 0, --warm-up 0 or more")
    target = Target.of(arguments)
    path = f"{target.prefix}/v2/models/{quote(arguments.model, safe='')}"
    if arguments.version is not None:
        path += f"/versions/{quote(arguments.version, safe='')}"
    bodies = [_read(file) for file in arguments.request]
    headers = target.headers()
    load = _Load(target, f"{path}/infer", bodies, headers)
    load.try_once()
    if arguments.warm_up:
        load.run(arguments.concurrency, arguments.warm_up)
    tally = load.run(arguments.concurrency, arguments.duration)
    _print(tally, as_json=arguments.json)
    return 1 if tally.failed else 0


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ServerError(f"{path} cannot be read: {error.strerror}") from error


class _Load:
    """Requests of one kind, and the clients that send them."""

    def __init__(self, target: Target, path: str, bodies: list[bytes], headers: dict[str, str]) -> None:
        self._target, self._path, self._bodies, self._headers = target, path, bodies, headers

    def try_once(self) -> None:
        """Send every request once. Raises ``ServerError`` with what the server says against it."""
        connection = self._connect()
        try:
            for body in self._bodies:
                connection.request("POST", self._path, body, self._headers)
                response = connection.getresponse()
                answer = response.read()
                if response.status != HTTPStatus.OK:
                    raise ServerError(f"{self._target.url} answers {response.status}: {_message(answer)}")
        except (OSError, http.client.HTTPException) as error:
            raise ServerError(f"{self._target.url} cannot be asked: {error or type(error).__name__}") from error
        finally:
            connection.close()

    def run(self, clients: int, seconds: float) -> Tally:
        """Have ``clients`` send requests for ``seconds``; what has begun is finished."""
        tallies = [Tally() for _ in range(clients)]
        started = time.perf_counter()
        threads = [
            threading.Thread(target=self._client, args=(index, started + seconds, tally), daemon=True)
            for index, tally in enumerate(tallies)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        total = Tally(seconds=time.perf_counter() - started)
        for tally in tallies:
            total.add(tally)
        total.latencies.sort()
        return total

    def _client(self, index: int, deadline: float, tally: Tally) -> None:
        connection: http.client.HTTPConnection | None = None
        turn = index
        while (began := time.perf_counter()) < deadline:
            try:
                if connection is None:
                    connection = self._connect()
                connection.request("POST", self._path, self._bodies[turn % len(self._bodies)], self._headers)
                response = connection.getresponse()
                response.read()
            except (OSError, http.client.HTTPException) as error:
                tally.failures[type(error).__name__] += 1
                if connection is not None:
                    connection.close()
                connection = None
                # A server that is away is not asked a thousand times a second.
                time.sleep(0.05)
                continue
            turn += 1
            tally.statuses[response.status] += 1
            if response.status == HTTPStatus.OK:
                tally.latencies.append(time.perf_counter() - began)
            elif (pause := response.getheader("Retry-After", "0")).isdigit():
                time.sleep(min(float(pause), max(0.0, deadline - time.perf_counter())))
        if connection is not None:
            connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        # One place knows how to verify the certificate of another name than the one connected to.
        return connect(self._target)


def _message(answer: bytes) -> str:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return str(json.loads(answer)["error"])
    return answer[:300].decode("utf-8", "replace")


def _print(tally: Tally, *, as_json: bool) -> None:
    latencies = tally.latencies
    found = {f"p{share}": percentile(latencies, share) for share in _PERCENTILES} if latencies else {}
    rate = len(latencies) / tally.seconds
    if as_json:
        print(
            json.dumps(
                {
                    "seconds": tally.seconds,
                    "requests": tally.statuses.total() + tally.failures.total(),
                    "failed": tally.failed,
                    "per_second": rate,
                    "latency_seconds": {**found, "max": latencies[-1]} if latencies else None,
                    "statuses": {str(status): count for status, count in sorted(tally.statuses.items())},
                    "failures": dict(tally.failures),
                },
                indent=2,
            )
        )
        return
    print(f"{len(latencies)} answers in {tally.seconds:.2f} s: {rate:,.1f} per second")
    if latencies:
        shown = ", ".join(f"{name} {value * 1e3:.2f} ms" for name, value in found.items())
        print(f"latency: {shown}, longest {latencies[-1] * 1e3:.2f} ms")
    for status, count in sorted(tally.statuses.items()):
        if status != HTTPStatus.OK:
            print(f"answered {status}: {count}")
    for name, count in tally.failures.most_common():
        print(f"failed with {name}: {count}")
