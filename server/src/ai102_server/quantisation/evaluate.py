# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""What a quantised model is worth beside the original: accuracy, size and speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort

from ai102_server.codec.datatypes import Array
from ai102_server.errors import ModelError, ServerError
from ai102_server.quantisation.samples import SampleSet

__all__ = ["METRICS", "Comparison", "Evaluation", "Judge", "Progress", "evaluate", "open_session"]

METRICS: Final = ("auto", "accuracy", "agreement", "cosine")
_LOGITS_RANK: Final = 2

Progress = Callable[[Sequence[Any], str], Iterator[Any]]


@dataclass(frozen=True)
class Judge:
    """How to judge a quantised model.

    ``metric``: "accuracy" needs labels; "auto" is accuracy where there are labels, else the mean cosine. It is taken of
    the first output of floating point numbers and may drop by ``max_drop``. Speed is measured for ``seconds``.
    """

    metric: str = "auto"
    max_drop: float = 0.01
    provider: str = "CPUExecutionProvider"
    seconds: float = 4.0


@dataclass(frozen=True)
class Comparison:
    """One output of both models, over all rows of the held-out samples.

    ``cosine`` is between the rows of both, flattened; ``agreement`` the share of rows whose largest element is in the
    same place, for outputs of shape [rows, classes]; errors are absolute differences.
    """

    output: str
    rows: int
    cosine_mean: float
    cosine_min: float
    error_max: float
    error_mean: float
    agreement: float | None


@dataclass(frozen=True)
class Evaluation:
    """``accuracy_*``: share of rows whose largest element is at the label. Sizes in bytes, latencies in seconds.

    ``drop`` is what got lost by ``metric``: accuracy of the original less that of the quantised model, or 1 less the
    agreement, or 1 less the mean cosine.
    """

    samples: int
    comparisons: tuple[Comparison, ...]
    accuracy_original: float | None
    accuracy_quantised: float | None
    metric: str
    drop: float
    size_original: int
    size_quantised: int
    latency_original: float
    latency_quantised: float
    provider: str


def open_session(path: Path, provider: str, threads: int = 1) -> ort.InferenceSession:
    """Load a model on an execution provider, which must be there. Raises ``ServerError`` or ``ModelError``."""
    if provider not in ort.get_available_providers():
        raise ServerError(
            f"this ONNX Runtime does not have {provider}; it has {', '.join(ort.get_available_providers())}"
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(str(path), options, providers=[provider])
    except Exception as error:
        raise ModelError(f"ONNX Runtime cannot load {path}: {str(error).strip().splitlines()[0][:300]}") from error


def evaluate(original: Path, quantised: Path, samples: SampleSet, judge: Judge, progress: Progress) -> Evaluation:
    """Ask both models all samples, and measure both in turn. Raises ``ServerError`` when the metric cannot be taken."""
    provider = judge.provider
    one, other = open_session(original, provider), open_session(quantised, provider)
    names = [
        node.name for node in one.get_outputs() if node.type in {"tensor(float)", "tensor(float16)", "tensor(double)"}
    ]
    if not names:
        raise ServerError(f"{original} has no output of floating point numbers to compare")
    answers: list[tuple[list[Array], list[Array]]] = [
        (one.run(names, feed), other.run(names, feed)) for feed in progress(samples.feeds, "comparing")
    ]
    comparisons = tuple(
        _compare(name, [_rows(mine[i]) for mine, _ in answers], [_rows(theirs[i]) for _, theirs in answers])
        for i, name in enumerate(names)
    )
    accuracies = _accuracies(samples, [(mine[0], theirs[0]) for mine, theirs in answers])
    chosen, drop = _drop(judge.metric, comparisons[0], accuracies)
    mine_seconds, their_seconds = _latencies(one, other, samples, judge.seconds)
    return Evaluation(
        samples=len(samples),
        comparisons=comparisons,
        accuracy_original=None if accuracies is None else accuracies[0],
        accuracy_quantised=None if accuracies is None else accuracies[1],
        metric=chosen,
        drop=drop,
        size_original=original.stat().st_size,
        size_quantised=quantised.stat().st_size,
        latency_original=mine_seconds,
        latency_quantised=their_seconds,
        provider=provider,
    )


def _rows(array: Array) -> Array:
    """An answer as [rows, elements] of FP64."""
    wide = np.asarray(array, np.float64)
    return wide.reshape(len(wide), -1) if wide.ndim > 1 else wide.reshape(-1, 1)


def _compare(name: str, original: list[Array], quantised: list[Array]) -> Comparison:
    cosines: list[float] = []
    same = rows = 0
    largest = total = 0.0
    elements = 0
    classes = all(array.shape[1] > 1 for array in original)
    for mine, theirs in zip(original, quantised, strict=True):
        if mine.shape != theirs.shape:
            raise ServerError(f"output '{name}' has shape {theirs.shape} after quantisation, and {mine.shape} before")
        # Infinities and NaN, which have no largest element, would pass for agreement.
        for which, array in (("original", mine), ("quantised", theirs)):
            if not np.isfinite(array).all():
                raise ServerError(f"the {which} model answers NaN or infinity in output '{name}', which proves nothing")
        product = (mine * theirs).sum(1)
        lengths = np.linalg.norm(mine, axis=1) * np.linalg.norm(theirs, axis=1)
        # Two rows of zeros are the same; a row of zeros beside another has nothing in common with it.
        equal = np.all(mine == theirs, axis=1)
        cosines += np.where(lengths > 0, product / np.where(lengths > 0, lengths, 1.0), equal).tolist()
        error = np.abs(mine - theirs)
        largest = max(largest, float(error.max(initial=0.0)))
        total += float(error.sum())
        elements += error.size
        rows += len(mine)
        same += int((mine.argmax(1) == theirs.argmax(1)).sum())
    return Comparison(
        output=name,
        rows=rows,
        cosine_mean=float(np.mean(cosines)),
        cosine_min=float(np.min(cosines)),
        error_max=largest,
        error_mean=total / max(1, elements),
        agreement=same / rows if classes else None,
    )


def _accuracies(samples: SampleSet, answers: list[tuple[Array, Array]]) -> tuple[float, float] | None:
    if samples.labels is None:
        return None
    right = [0, 0]
    rows = 0
    for labels, pair in zip(samples.labels, answers, strict=True):
        for side, array in enumerate(pair):
            if array.ndim != _LOGITS_RANK or len(array) != len(labels):
                raise ServerError(
                    f"an answer of shape {list(array.shape)} cannot be compared with {len(labels)} labels: "
                    "it must have one row of classes for each"
                )
            right[side] += int((array.argmax(1) == labels).sum())
        rows += len(labels)
    return right[0] / rows, right[1] / rows


def _drop(metric: str, first: Comparison, accuracies: tuple[float, float] | None) -> tuple[str, float]:
    if metric == "auto":
        metric = "cosine" if accuracies is None else "accuracy"
    if metric == "accuracy":
        if accuracies is None:
            raise ServerError(
                "there is no accuracy without labels: add them to the samples, or choose another --metric"
            )
        return metric, accuracies[0] - accuracies[1]
    if metric == "agreement":
        if first.agreement is None:
            raise ServerError(f"output '{first.output}' has one element in a row, so there is no class to agree on")
        return metric, 1 - first.agreement
    return metric, 1 - first.cosine_mean


def _latencies(
    one: ort.InferenceSession, other: ort.InferenceSession, samples: SampleSet, seconds: float
) -> tuple[float, float]:
    """Median time of a run of each, measured in turn so that both see the same machine."""
    times: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + seconds
    turn = 0
    while not times[0] or time.perf_counter() < end:
        feed = samples.feeds[turn % len(samples)]
        for session, found in zip((one, other), times, strict=True):
            began = time.perf_counter()
            session.run(None, feed)
            found.append(time.perf_counter() - began)
        turn += 1
    return float(np.median(times[0])), float(np.median(times[1]))
