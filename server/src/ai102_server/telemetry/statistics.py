# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""The document of Triton's statistics extension (``docs/protocol/extension_statistics.md`` of its server).

``compute_input`` is decoding and pre-processing, ``compute_output`` post-processing and encoding; both are known of
requests, not of runs, so that they are zero in ``batch_stats``. Batches above the largest size that is counted by
itself stand together under their mean size.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from ai102_server.telemetry.shared import BATCH_SIZES, PHASES, Fields
from ai102_server.telemetry.store import Floats, Series

__all__ = ["statistics"]

_OK: Final = 0
"""Column of status 200."""


def statistics(series: Iterable[Series]) -> dict[str, Any]:
    """The document for these model versions."""
    return {"model_stats": [_model(item) for item in series]}


def _model(item: Series) -> dict[str, Any]:
    values = item.values
    requests = values[Fields.STATUS : Fields.STATUS + Fields.REASON].sum()
    ok = values[Fields.STATUS + _OK]
    phases = {
        phase: _duration(*values[Fields.PHASE + 2 * index : Fields.PHASE + 2 * index + 2])
        for index, phase in enumerate(PHASES)
    }
    return {
        "name": item.name,
        "version": item.version,
        "last_inference": int(values[Fields.LAST] * 1000),
        "inference_count": int(values[Fields.ROWS]),
        "execution_count": int(values[Fields.RUNS : Fields.RUNS + BATCH_SIZES + 1].sum()),
        "inference_stats": {
            "success": _duration(ok, values[Fields.SECONDS_OK]),
            "fail": _duration(requests - ok, values[Fields.SECONDS_FAILED]),
            "queue": phases["queue"],
            "compute_input": phases["decode"],
            "compute_infer": phases["run"],
            "compute_output": phases["encode"],
            "cache_hit": _duration(0, 0),
            "cache_miss": _duration(0, 0),
        },
        "batch_stats": _batches(values),
    }


def _batches(values: Floats) -> list[dict[str, Any]]:
    runs = values[Fields.RUNS : Fields.RUNS + BATCH_SIZES + 1]
    seconds = values[Fields.RUN_SECONDS : Fields.RUN_SECONDS + BATCH_SIZES + 1]
    sizes = [(size, size) for size in range(1, BATCH_SIZES + 1)]
    if runs[0]:
        rows = values[Fields.ROWS] - float((runs[1:] * range(1, BATCH_SIZES + 1)).sum())
        sizes.append((0, round(rows / runs[0])))
    return [
        {
            "batch_size": size,
            "compute_input": _duration(0, 0),
            "compute_infer": _duration(runs[index], seconds[index]),
            "compute_output": _duration(0, 0),
        }
        for index, size in sizes
        if runs[index]
    ]


def _duration(count: float, seconds: float) -> dict[str, int]:
    return {"count": int(count), "ns": int(seconds * 1e9)}
