# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Prometheus metrics of all workers, made when they are asked for.

Label values come from the configuration and the model store, never from a client, so their number is bounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import onnxruntime
from prometheus_client import CollectorRegistry, PlatformCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from ai102_server import __version__
from ai102_server.telemetry.gpu import Gpus
from ai102_server.telemetry.process import ProcessFigures, process_figures
from ai102_server.telemetry.record import REASONS, STATUSES
from ai102_server.telemetry.shared import BATCH_SIZES, BUCKETS, PHASES, Fields, Process
from ai102_server.telemetry.store import ModelState, Series, Store

__all__ = ["Exposition"]

_MODEL: Final = ("model", "version")
_BATCH_BUCKETS: Final = tuple(1 << power for power in range(BATCH_SIZES.bit_length()))
_HISTOGRAMS: Final = (
    ("ai102_request_duration_seconds", "From the first byte read to the answer built.", Fields.REQUEST),
    ("ai102_inference_duration_seconds", "Time of a request in ONNX Runtime.", Fields.INFERENCE),
    ("ai102_queue_duration_seconds", "Time a request waited for a place or a batch.", Fields.QUEUE),
    ("ai102_run_duration_seconds", "Time of a run in ONNX Runtime, which may serve several requests.", Fields.RUN),
)


class Exposition(Collector):
    """Collects from the shared rows; gives text."""

    def __init__(self, store: Store, release: str | None, gpus: Gpus | None) -> None:
        self._store: Final = store
        self._release: Final = release or ""
        self._gpus: Final = gpus
        self._registry: Final = CollectorRegistry()
        PlatformCollector(registry=self._registry)
        self._registry.register(self)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def describe(self) -> list[Metric]:
        """Nothing: what there is is only known when it is asked for."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All metrics."""
        series = self._store.series()
        states = self._store.states()
        alive = self._store.alive()
        yield from _requests(series)
        yield from _models(series, states, alive, self._release)
        yield from self._server(alive)
        yield from _processes(self._store, alive)
        if self._gpus is not None:
            yield from _gpus(self._gpus)
        yield from self._counters()

    def _server(self, alive: Sequence[int]) -> Iterator[Metric]:
        rows = self._store.processes
        living = rows[list(alive)]
        yield _gauge(
            "ai102_inflight_requests", "Inference requests that run or wait.", living[:, Process.INFLIGHT].sum()
        )
        yield _gauge("ai102_waiting_requests", "Inference requests that wait.", living[:, Process.WAITING].sum())
        ready = len(alive) > 0 and bool(living[:, Process.READY].all())
        yield _gauge("ai102_ready", "1 when the server takes traffic: every model ready, not draining.", ready)
        yield _gauge("ai102_draining", "1 when a worker is about to stop.", bool(living[:, Process.DRAINING].any()))
        info = GaugeMetricFamily(
            "ai102_server_info",
            "Always 1; what runs here.",
            labels=("server_version", "release", "onnxruntime_version"),
        )
        info.add_metric((__version__, self._release, onnxruntime.__version__), 1)
        yield info
        yield _counter(
            "ai102_log_lines_dropped", "Access log lines that were not written.", rows[:, Process.LOG_DROPPED].sum()
        )
        spans = CounterMetricFamily(
            "ai102_spans", "Trace spans: made, sent, and failed to be sent.", labels=("result",)
        )
        for result, column in (
            ("made", Process.SPANS_MADE),
            ("sent", Process.SPANS_SENT),
            ("failed", Process.SPANS_FAILED),
        ):
            spans.add_metric((result,), float(rows[:, column].sum()))
        yield spans

    def _counters(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for name, description, labels, value in self._store.counters():
            family = families.setdefault(name, Metric(name, description, "counter"))
            family.add_sample(f"{name}_total", labels, value)
        yield from families.values()


def _gauge(name: str, description: str, value: float) -> Metric:
    return GaugeMetricFamily(name, description, value=float(value))


def _counter(name: str, description: str, value: float) -> Metric:
    return CounterMetricFamily(name, description, value=float(value))


def _requests(series: Sequence[Series]) -> Iterator[Metric]:
    requests = CounterMetricFamily("ai102_requests", "Inference requests answered.", labels=(*_MODEL, "status"))
    rejected = CounterMetricFamily(
        "ai102_rejected_requests", "Inference requests rejected, by reason.", labels=(*_MODEL, "reason")
    )
    for item in series:
        for index, status in enumerate((*STATUSES, "other")):
            if value := item.values[Fields.STATUS + index]:
                requests.add_metric((item.name, item.version, str(status)), float(value))
        for index, reason in enumerate(REASONS):
            if value := item.values[Fields.REASON + index]:
                rejected.add_metric((item.name, item.version, reason), float(value))
    yield requests
    yield rejected
    for name, description, column in _HISTOGRAMS:
        # Built by hand: the family of the library wants text for every bound, and sums that it adds up itself.
        histogram = Metric(name, description, "histogram")
        for item in series:
            values = item.values[column : column + Fields.HISTOGRAM]
            _add_histogram(histogram, item, BUCKETS, values[:-1].tolist(), float(values[-1]))
        yield histogram
    yield _batches(series)
    phases = SummaryMetricFamily(
        "ai102_phase_duration_seconds", "Time of requests by phase.", labels=(*_MODEL, "phase")
    )
    for item in series:
        for index, phase in enumerate(PHASES):
            count, total = item.values[Fields.PHASE + 2 * index : Fields.PHASE + 2 * index + 2]
            if count:
                phases.add_metric((item.name, item.version, phase), count_value=int(count), sum_value=float(total))
    yield phases
    for name, description, column in (
        ("ai102_request_bytes", "Bytes of requests' bodies.", Fields.BYTES_IN),
        ("ai102_response_bytes", "Bytes of answers' bodies.", Fields.BYTES_OUT),
    ):
        sizes = CounterMetricFamily(name, description, labels=_MODEL)
        for item in series:
            sizes.add_metric((item.name, item.version), float(item.values[column]))
        yield sizes


def _batches(series: Sequence[Series]) -> Metric:
    histogram = Metric("ai102_batch_size", "Rows of a run.", "histogram")
    for item in series:
        runs = item.values[Fields.RUNS : Fields.RUNS + BATCH_SIZES + 1]
        counts = [
            float(runs[low + 1 : high + 1].sum())
            for low, high in zip((0, *_BATCH_BUCKETS), _BATCH_BUCKETS, strict=False)
        ]
        _add_histogram(histogram, item, _BATCH_BUCKETS, [*counts, float(runs[0])], float(item.values[Fields.ROWS]))
    return histogram


def _add_histogram(
    histogram: Metric, item: Series, bounds: Sequence[float], counts: Sequence[float], total: float
) -> None:
    labels = {"model": item.name, "version": item.version}
    sum_so_far = 0.0
    for bound, count in zip((*map(float, bounds), "+Inf"), counts, strict=True):
        sum_so_far += count
        histogram.add_sample(f"{histogram.name}_bucket", {**labels, "le": str(bound)}, sum_so_far)
    histogram.add_sample(f"{histogram.name}_count", labels, sum_so_far)
    histogram.add_sample(f"{histogram.name}_sum", labels, total)


def _models(
    series: Sequence[Series], states: Sequence[ModelState], alive: Sequence[int], release: str
) -> Iterator[Metric]:
    ready = GaugeMetricFamily("ai102_model_ready", "1 when the model is served by all workers.", labels=_MODEL)
    info = GaugeMetricFamily(
        "ai102_model_info",
        "Always 1; the execution provider that really runs the model, the release, and the model's SHA-256.",
        labels=(*_MODEL, "provider", "release", "sha256"),
    )
    for item in series:
        if not item.registered:
            continue
        mine = [state for state in states if (state.name, state.version) == (item.name, item.version)]
        able = {state.worker for state in mine if state.ready}
        ready.add_metric((item.name, item.version), float(able.issuperset(alive)))
        for provider, sha256 in sorted({(state.provider, state.sha256) for state in mine if state.worker in alive}):
            info.add_metric((item.name, item.version, provider, release, sha256), 1)
    yield ready
    yield info
    loads = CounterMetricFamily(
        "ai102_model_loads", "Times a worker loaded the model, or failed to.", labels=(*_MODEL, "result")
    )
    unloads = CounterMetricFamily("ai102_model_unloads", "Times a worker unloaded the model.", labels=_MODEL)
    for item in series:
        if item.name:
            for result, column in (("ready", Fields.LOADED), ("failed", Fields.FAILED)):
                loads.add_metric((item.name, item.version, result), float(item.values[column]))
            unloads.add_metric((item.name, item.version), float(item.values[Fields.UNLOADED]))
    yield loads
    yield unloads


def _processes(store: Store, alive: Sequence[int]) -> Iterator[Metric]:
    """Of each process what the library gives of one, with the label ``worker``."""
    up = GaugeMetricFamily("ai102_worker_up", "1 when the worker's process lives.", labels=("worker",))
    restarts = CounterMetricFamily("ai102_worker_restarts", "Times a dead worker was replaced.", labels=("worker",))
    for worker, row in enumerate(store.processes):
        up.add_metric((str(worker),), float(worker in alive))
        restarts.add_metric((str(worker),), float(row[Process.RESTARTS]))
    yield up
    yield restarts
    pids = {"supervisor": store.shared.supervisor}
    pids.update((str(worker), int(store.processes[worker, Process.PID])) for worker in alive)
    found = {name: figures for name, pid in pids.items() if (figures := process_figures(pid)) is not None}
    yield from _process_families(found)
    for index, (name, description) in enumerate(
        (
            ("python_gc_collections", "Number of times this generation was collected"),
            ("python_gc_objects_collected", "Objects collected during gc"),
            ("python_gc_objects_uncollectable", "Uncollectable objects found during GC"),
        )
    ):
        family = CounterMetricFamily(name, description, labels=("worker", "generation"))
        for worker in alive:
            for generation in range(3):
                value = store.processes[worker, Process.COLLECTOR + 3 * generation + index]
                family.add_metric((str(worker), str(generation)), float(value))
        yield family


def _process_families(found: dict[str, ProcessFigures]) -> Iterator[Metric]:
    cpu = CounterMetricFamily(
        "process_cpu_seconds", "Total user and system CPU time spent in seconds.", labels=("worker",)
    )
    for name, figures in found.items():
        cpu.add_metric((name,), figures.cpu_seconds)
    yield cpu
    for metric, description, field in (
        ("process_virtual_memory_bytes", "Virtual memory size in bytes.", "virtual_bytes"),
        ("process_resident_memory_bytes", "Resident memory size in bytes.", "resident_bytes"),
        ("process_start_time_seconds", "Start time of the process since unix epoch in seconds.", "started"),
        ("process_threads", "Number of threads.", "threads"),
        ("process_open_fds", "Number of open file descriptors.", "open_files"),
        ("process_max_fds", "Maximum number of open file descriptors.", "max_files"),
    ):
        family = GaugeMetricFamily(metric, description, labels=("worker",))
        for name, figures in found.items():
            value = getattr(figures, field)
            if value is not None:
                family.add_metric((name,), float(value))
        yield family


def _gpus(gpus: Gpus) -> Iterator[Metric]:
    used = GaugeMetricFamily(
        "ai102_gpu_memory_used_bytes", "Memory in use on the GPU, by all processes.", labels=("gpu",)
    )
    total = GaugeMetricFamily("ai102_gpu_memory_total_bytes", "Memory of the GPU.", labels=("gpu",))
    busy = GaugeMetricFamily("ai102_gpu_utilisation_ratio", "Share of time in which the GPU computed.", labels=("gpu",))
    info = GaugeMetricFamily("ai102_gpu_info", "Always 1; which GPU it is.", labels=("gpu", "name", "uuid"))
    for figures in gpus.figures():
        gpu = str(figures.device)
        used.add_metric((gpu,), figures.used_bytes)
        total.add_metric((gpu,), figures.total_bytes)
        if figures.busy is not None:
            busy.add_metric((gpu,), figures.busy)
        info.add_metric((gpu, figures.name, figures.uuid), 1)
    yield from (used, total, busy, info)
