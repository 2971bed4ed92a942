# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Telemetry of one worker: takes records from the threads that answer, and a thread of its own does all the rest."""

from __future__ import annotations

import gc
import logging
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ai102_server.config import Config
from ai102_server.errors import RequestError, ServerError
from ai102_server.telemetry.exposition import Exposition
from ai102_server.telemetry.gpu import Gpus
from ai102_server.telemetry.lines import AccessLines, LineWriter, pick
from ai102_server.telemetry.record import Record
from ai102_server.telemetry.shared import Process, TelemetryShared
from ai102_server.telemetry.statistics import statistics
from ai102_server.telemetry.store import Counter, ModelState, Store
from ai102_server.telemetry.traceparent import parse_traceparent

if TYPE_CHECKING:
    from ai102_server.telemetry.tracing import Tracer

__all__ = ["Telemetry"]

logger = logging.getLogger(__name__)

_Item = TypeVar("_Item")

DRAIN_SECONDS: Final = 0.1
FLUSH_SECONDS: Final = 2.0
_COUNTED: Final = 192
"""Records that are counted without a pause: other threads of the process wait that long."""
_TOLD: Final = 32
"""Records of which lines and spans are made without a pause."""
_PAUSE: Final = 50e-6
_COLLECTOR_SECONDS: Final = 1.0
_NVIDIA: Final = frozenset({"CUDAExecutionProvider", "TensorrtExecutionProvider"})
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,60}")


class Telemetry:
    """Metrics, access log and traces of one worker, and the figures of all.

    ``add`` costs a tenth of a microsecond and may be called by any thread. What was added is counted, logged and traced
    within a tenth of a second; at the sudden death of the process that much is lost.
    """

    def __init__(self, config: Config, shared: TelemetryShared, worker: int, *, descriptor: int | None = None) -> None:
        """Start the thread. Access log lines go to ``descriptor``, standard error by default."""
        self._config: Final = config
        self._records: Final[deque[Record]] = deque()
        self._runs: Final[deque[tuple[str, str, int, float]]] = deque()
        self.add: Final[Callable[[Record], None]] = self._records.append
        self._store: Final = Store(shared, worker)
        gpus = Gpus(config.execution.gpus()) if _NVIDIA.intersection(config.execution.providers) else None
        self._exposition: Final = Exposition(self._store, config.release, gpus)
        self._lines: Final = AccessLines(config, config.privacy.masker(), shared.pseudonyms)
        self._writer: Final = LineWriter(_standard_error() if descriptor is None else descriptor, config.log.queue)
        self._providers: dict[tuple[str, str], str] = {}
        self._tracer: Final = self._make_tracer(worker)
        self._gauges: dict[int, Callable[[], float]] = {}
        self._dropped = 0
        self._seen = (0, 0, 0, 0)
        self._collected = 0.0
        self._drain_lock: Final = threading.Lock()
        self._stop: Final = threading.Event()
        self._thread: Final = threading.Thread(target=self._run, name="telemetry", daemon=True)
        self._thread.start()

    def _make_tracer(self, worker: int) -> Tracer | None:
        tracing = self._config.tracing
        if tracing.exporter == "none":
            return None
        # Its libraries take time and memory that a server without traces need not give.
        from ai102_server.telemetry.tracing import Tracer

        def provider_of(name: str, version: str) -> str:
            return self._providers.get((name, version), "")

        return Tracer(tracing, worker, provider_of, self._lines.subject)

    @staticmethod
    def share(config: Config, workers: int) -> TelemetryShared:
        """What all workers share, to be made before the fork. Raises ``ServerError``."""
        return TelemetryShared.create(config, workers)

    # What the service says ---------------------------------------------------------------------------------------
    def executed(self, model: str, version: str, batch: int, seconds: float) -> None:
        """A session ran once, with so many rows. Any thread."""
        self._runs.append((model, version, batch, seconds))

    def register_model(
        self, name: str, version: str, provider: str | None, sha256: str | None, ready: bool, reason: str | None
    ) -> None:
        """Say that this worker has loaded the model, or why not. Raises ``ServerError`` when there is no room."""
        self._providers[name, version] = provider or ""
        self._store.register(name, version, provider or "", sha256 or "", ready, reason or "")

    def remove_model(self, name: str, version: str) -> None:
        """Say that this worker has unloaded the model. Requests that end later are still counted for it."""
        self._store.remove(name, version)
        self._providers.pop((name, version), None)

    def watch(
        self,
        *,
        inflight: Callable[[], float],
        ready: Callable[[], bool],
        draining: Callable[[], bool],
        waiting: Callable[[], float] | None = None,
    ) -> None:
        """Where to look for the state of this worker: requests that run or wait, those that wait, ready, draining."""
        gauges: dict[int, Callable[[], float]] = {
            Process.INFLIGHT: inflight,
            Process.READY: ready,
            Process.DRAINING: draining,
        }
        if waiting is not None:
            gauges[Process.WAITING] = waiting
        self._gauges = gauges

    def counter(self, name: str, description: str, labels: dict[str, str] | None = None) -> Counter:
        """A counter ``ai102_<name>_total`` for another part of the server, such as ``tokens_issued``.

        Label values must come from the code or the configuration. The same name and labels give the same counter, in
        every worker. Raises ``ServerError`` for a wrong name or too many counters.
        """
        if not _NAME.fullmatch(name) or name.endswith("_total"):
            raise ServerError(f"'{name}' is no name of a counter: lower case letters, digits and _, without _total")
        return self._store.counter(f"ai102_{name}", description, labels or {})

    # What others ask ---------------------------------------------------------------------------------------------
    def expose(self) -> bytes:
        """All metrics in Prometheus' text format: of this worker to the last record, of the others of 0.1 s ago."""
        self._drain(0.0)
        return self._exposition.text()

    def statistics(self, name: str | None = None, version: str | None = None) -> dict[str, Any]:
        """The document of ``/v2/models[/<name>[/versions/<version>]]/stats``. Raises ``RequestError`` (404)."""
        self._drain(0.0)
        found = [
            item
            for item in self._store.series(registered_only=True)
            if name in {None, item.name} and version in {None, item.version}
        ]
        if name is not None and not found:
            which = f"model '{name[:100]}'" + ("" if version is None else f" version '{version[:100]}'")
            raise RequestError(404, f"no statistics: unknown {which}")
        return statistics(sorted(found))

    def models(self) -> list[ModelState]:
        """Every model in every worker that has it, or failed to load it."""
        return self._store.states()

    def workers_alive(self) -> list[int]:
        """Indices of the workers whose process lives."""
        return self._store.alive()

    def flush(self) -> None:
        """Count, write and send what there is, for a few seconds at most. For the end of the process."""
        self._drain(0.0)
        self._writer.flush(FLUSH_SECONDS)
        if self._tracer is not None:
            self._tracer.flush(min(FLUSH_SECONDS, self._config.tracing.timeout_seconds))
        self._drain(0.0)

    def close(self) -> None:
        """Flush, and end the threads."""
        self._stop.set()
        self._thread.join(FLUSH_SECONDS)
        self.flush()
        self._writer.close()
        if self._tracer is not None:
            self._tracer.close()

    # The thread --------------------------------------------------------------------------------------------------
    def _run(self) -> None:
        failed = False
        while not self._stop.wait(DRAIN_SECONDS):
            try:
                self._drain(_PAUSE)
            except Exception:
                # Figures are not worth a server, and the next ones may be fine. Said once: it may go on for ever.
                if not failed:
                    logger.exception("telemetry failed")
                failed = True

    def _drain(self, pause: float) -> None:
        """Turn what there is into figures, lines and spans, with a pause now and then for the threads that answer."""
        with self._drain_lock:
            runs = [self._runs.popleft() for _ in range(len(self._runs))]
            records = [self._records.popleft() for _ in range(len(self._records))]
            for ran in _parts(runs, _COUNTED, pause):
                self._store.count_runs(ran)
            for answered in _parts(records, _COUNTED, pause):
                self._store.count(answered)
            if records:
                self._tell(records, pause)
            self._own_figures()

    def _tell(self, records: Sequence[Record], pause: float) -> None:
        wanted = [record for record in records if self._lines.wants(record)]
        chosen = pick(wanted, self._writer.room())
        self._dropped += len(wanted) - len(chosen)
        tracer = self._tracer
        if tracer is not None and len(chosen) < len(wanted):
            # Too much to tell already.
            tracer = None
        if tracer is not None:
            told = {id(record) for record in chosen}
            chosen = list(records)
        known = self._store.known
        for part in _parts(chosen, _TOLD, pause):
            lines: list[bytes] = []
            for record in part:
                is_known = (record.model, record.version) in known
                parent = parse_traceparent(record.traceparent)
                trace_id = None if parent is None else parent.trace_id
                if tracer is not None and tracer.sample(parent, record.started):
                    trace_id = tracer.trace(record, is_known, parent)
                if tracer is None or id(record) in told:
                    lines.append(self._lines.line(record, is_known, trace_id))
            if lines:
                self._writer.add(lines)

    def _own_figures(self) -> None:
        row = self._store.process
        for column, gauge in self._gauges.items():
            row[column] = gauge()
        spans = (
            (0, 0, 0)
            if self._tracer is None
            else (self._tracer.made, self._tracer.exporter.sent, self._tracer.exporter.failed)
        )
        seen = (self._dropped + self._writer.lost, *spans)
        # Added, not set: the row goes on where a dead worker left it.
        for column, new, old in zip(
            (Process.LOG_DROPPED, Process.SPANS_MADE, Process.SPANS_SENT, Process.SPANS_FAILED),
            seen,
            self._seen,
            strict=True,
        ):
            if new != old:
                row[column] += new - old
        self._seen = seen
        now = time.monotonic()
        if now - self._collected > _COLLECTOR_SECONDS:
            self._collected = now
            for generation, figures in enumerate(gc.get_stats()[:3]):
                column = Process.COLLECTOR + 3 * generation
                row[column : column + 3] = (figures["collections"], figures["collected"], figures["uncollectable"])


def _parts(items: Sequence[_Item], size: int, pause: float) -> Iterator[Sequence[_Item]]:
    """The items, so many at a time, with a pause of so many seconds before each part."""
    for start in range(0, len(items), size):
        if pause:
            time.sleep(pause)
        yield items[start : start + size]


def _standard_error() -> int:
    try:
        return sys.stderr.fileno()
    except (OSError, ValueError, AttributeError):
        # Replaced by something that is no file.
        return 2
