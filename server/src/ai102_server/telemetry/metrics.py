# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Prometheus metrics. Label values come from the configuration, never from a client, so their number is bounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import onnxruntime
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from ai102_server import __version__
from ai102_server.engine import Registry

__all__ = ["Metrics"]

_BUCKETS: Final = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
UNKNOWN: Final = ""
"""Label value for a model or version that is not served: what a client typed must not become a label."""


class Metrics:
    """The metrics of one process. Times are in seconds."""

    def __init__(
        self, registry: Registry, release: str | None, inflight: Callable[[], int], ready: Callable[[], bool]
    ) -> None:
        # A second series for each counter, which few read.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # its library forgot the return type
        self.collector: Final = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.collector)
        labels = ("model", "version")
        self._requests = Counter(
            "ai102_requests", "Inference requests answered.", (*labels, "status"), registry=self.collector
        )
        self._request_seconds = Histogram(
            "ai102_request_duration_seconds",
            "From the first byte read to the answer built.",
            labels,
            buckets=_BUCKETS,
            registry=self.collector,
        )
        self._inference_seconds = Histogram(
            "ai102_inference_duration_seconds",
            "Time in ONNX Runtime.",
            labels,
            buckets=_BUCKETS,
            registry=self.collector,
        )
        Gauge("ai102_inflight_requests", "Inference requests that run or wait.", registry=self.collector).set_function(
            inflight
        )
        Gauge(
            "ai102_ready", "1 when the server takes traffic: every model ready, not draining.", registry=self.collector
        ).set_function(ready)
        Gauge(
            "ai102_server_info",
            "Always 1; what runs here.",
            ("server_version", "release", "onnxruntime_version"),
            registry=self.collector,
        ).labels(__version__, release or "", onnxruntime.__version__).set(1)
        model_ready = Gauge("ai102_model_ready", "1 when the model is served.", labels, registry=self.collector)
        model_info = Gauge(
            "ai102_model_info",
            "Always 1; the execution provider that really runs the model, the release, and the model's SHA-256.",
            (*labels, "provider", "release", "sha256"),
            registry=self.collector,
        )
        self._known: Final = set()
        for model in registry:
            self._known.add((model.name, model.version))
            model_ready.labels(model.name, model.version).set(model.ready)
            sha256 = model.package.model_sha256 if model.package is not None else ""
            model_info.labels(model.name, model.version, model.provider or "", release or "", sha256).set(1)
        # Finding a child by its labels costs more than counting: they are kept.
        self._counters: Final[dict[tuple[str, str, int], Counter]] = {}
        self._histograms: Final[dict[tuple[str, str], tuple[Histogram, Histogram]]] = {}

    def observe(self, model: str, version: str, status: int, seconds: float, inference: float | None) -> None:
        """Count one inference request. ``inference`` is the time in ONNX Runtime; None when it was not reached."""
        if (model, version) not in self._known:
            model = version = UNKNOWN
        counter = self._counters.get((model, version, status))
        if counter is None:
            counter = self._counters[model, version, status] = self._requests.labels(model, version, status)
        counter.inc()
        histograms = self._histograms.get((model, version))
        if histograms is None:
            histograms = self._histograms[model, version] = (
                self._request_seconds.labels(model, version),
                self._inference_seconds.labels(model, version),
            )
        histograms[0].observe(seconds)
        if inference is not None:
            histograms[1].observe(inference)

    def expose(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.collector)
