# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Scores to probabilities, decisions and labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from ai102_server.codec import DATATYPES, TensorSpec
from ai102_server.codec.datatypes import Array, Datatype
from ai102_server.config.reader import Section, kind_of, to_integer
from ai102_server.errors import ModelError
from ai102_server.pipeline.declaration import VALUE, ReadFile, Step, read_labels, to_number

__all__ = ["Output", "read_output"]

_BYTES: Final = DATATYPES["BYTES"]
_BOOL: Final = DATATYPES["BOOL"]
_INT64: Final = DATATYPES["INT64"]
_FP32: Final = DATATYPES["FP32"]
_MAX_RANK: Final = 8
_MAX_TOP: Final = 1 << 20

Transform = Callable[[Array], Array]
Finish = Callable[[Array], dict[str, Array]]


def _real(array: Array) -> Array:
    """FP16 and BF16 are too coarse to compute with."""
    fine = array.dtype.kind == "f" and array.dtype.itemsize >= _FP32.dtype.itemsize
    return array if fine else array.astype(np.float32)


@dataclass(frozen=True)
class Softmax:
    """Probabilities along ``axis``."""

    axis: int

    def __call__(self, array: Array) -> Array:
        """Compute, without overflow."""
        result = _real(array)
        powers = np.exp(result - result.max(axis=self.axis, keepdims=True, initial=-np.inf))
        quotient: Array = powers / powers.sum(axis=self.axis, keepdims=True)
        return quotient


def sigmoid(array: Array) -> Array:
    """A probability for each number, without overflow."""
    result = _real(array)
    small = np.exp(-np.abs(result))
    chosen: Array = np.where(result >= 0, 1, small) / (1 + small)
    return chosen


@dataclass(frozen=True)
class UnitLength:
    """Vectors along ``axis`` to length 1; those of length 0 stay."""

    axis: int

    def __call__(self, array: Array) -> Array:
        """Compute."""
        result = _real(array)
        length = np.linalg.norm(result, axis=self.axis, keepdims=True)
        quotient: Array = result / np.where(length == 0, 1, length)
        return quotient


@dataclass(frozen=True)
class ArgMax:
    """Position of the greatest number along ``axis``."""

    axis: int

    def __call__(self, array: Array) -> Array:
        """Find."""
        found: Array = np.argmax(array, axis=self.axis).astype(np.int64)
        return found


@dataclass(frozen=True)
class Threshold:
    """Whether numbers are at least ``value``."""

    value: float

    def __call__(self, array: Array) -> Array:
        """Compare."""
        result: Array = array >= self.value
        return result


@dataclass(frozen=True)
class Labels:
    """Labels of whole numbers."""

    labels: Array

    def __call__(self, array: Array) -> Array:
        """Look up. Raises ``ModelError`` for a number without a label: model and file do not belong together."""
        if array.size and (array.min() < 0 or array.max() >= self.labels.size):
            raise ModelError(f"the model answered with a number outside its {self.labels.size} labels")
        found: Array = self.labels[array]
        return found


@dataclass(frozen=True)
class Top:
    """The ``count`` greatest scores of the last axis, in falling order; of equal ones the first."""

    count: int
    labels: Array | None
    threshold: float | None
    other: str
    names: Mapping[str, str]

    def __call__(self, array: Array) -> dict[str, Array]:
        """Find. Raises ``ModelError`` when there are more scores than labels."""
        if self.labels is not None and array.shape[-1] > self.labels.size:
            raise ModelError(f"the model has {array.shape[-1]} classes, but there are only {self.labels.size} labels")
        order = np.argsort(-_real(array), axis=-1, kind="stable")[..., : self.count]
        scores = np.take_along_axis(_real(array), order, axis=-1)
        index = order.astype(np.int64)
        made: dict[str, Array] = {}
        if self.labels is not None:
            made["label"] = self.labels[index]
        if self.threshold is not None:
            # "Not at least" instead of "less": so NaN is never taken for an answer.
            doubtful = ~(scores >= self.threshold)
            index[doubtful] = -1
            if "label" in made:
                made["label"][doubtful] = self.other
        made |= {"score": scores, "index": index}
        return {name: made[part] for part, name in self.names.items()}


@dataclass(frozen=True)
class Output:
    """What becomes of the model's output ``source``; ``specs`` are what clients get."""

    source: str
    specs: tuple[TensorSpec, ...]
    transforms: tuple[Transform, ...]
    top: Top | None

    def __call__(self, array: Array) -> dict[str, Array]:
        """The client's outputs. Raises ``ModelError`` when the model answers other than it was declared."""
        for transform in self.transforms:
            array = transform(array)
        return self.top(array) if self.top is not None else {self.specs[0].name: array}


# --------------------------------------------------------------------------------------------------------------------
# Declaration
# --------------------------------------------------------------------------------------------------------------------
def read_output(name: str, spec: TensorSpec, steps: Sequence[Step], read_file: ReadFile) -> Output:
    """Steps for the model's output ``spec``, which clients get as ``name``; mistakes are reported to the steps."""
    transforms: list[Transform] = []
    current = replace(spec, name=name)
    for number, step in enumerate(steps):
        options = step.options
        if step.kind == "top":
            top, specs = _read_top(options, current, read_file)
            options.finish()
            if number + 1 < len(steps):
                steps[number + 1].options.report("", "cannot follow top, which is the last step")
            return Output(spec.name, specs, tuple(transforms), top)
        made = _read_step(step, current, read_file)
        if made is None:
            continue
        transforms.append(made[0])
        current = made[1]
    return Output(spec.name, (current,), tuple(transforms), None)


def _read_step(step: Step, spec: TensorSpec, read_file: ReadFile) -> tuple[Transform, TensorSpec] | None:
    options = step.options
    made: tuple[Transform, TensorSpec] | None = None
    computed = replace(spec, datatype=spec.datatype if spec.datatype.name == "FP64" else _FP32)
    if step.kind == "labels":
        if spec.datatype.kind not in "iu":
            options.report("", f"needs whole numbers, but gets {spec.datatype.name}")
        labels = read_labels(options, VALUE, read_file)
        if not options.has(VALUE):
            options.report("", "needs the name of a file")
        made = Labels(_texts(labels or ())), replace(spec, datatype=_BYTES)
    elif step.kind in {"softmax", "sigmoid", "normalise", "argmax", "threshold"}:
        _needs_numbers(options, spec.datatype, real=step.kind != "argmax")
        if step.kind == "sigmoid":
            made = sigmoid, computed
        elif step.kind == "threshold":
            value = options.require(VALUE, 0.0, to_number, "a number")
            made = Threshold(value), replace(spec, datatype=_BOOL)
        else:
            made = _read_axis_step(step.kind, options, spec, computed)
    else:
        options.report("", "is no step for outputs: softmax, sigmoid, normalise, argmax, threshold, labels, top")
        return None
    options.finish()
    return made


def _read_axis_step(
    kind: str, options: Section, spec: TensorSpec, computed: TensorSpec
) -> tuple[Transform, TensorSpec]:
    axis = options.get("axis", -1, to_integer(-_MAX_RANK, _MAX_RANK))
    rank = len(spec.shape)
    if not -rank <= axis < rank:
        options.report("axis", f"{axis} is not an axis of the shape {list(spec.shape)}")
        axis = -1
    if axis % max(rank, 1) == 0 and rank > 0:
        # Requests of several clients share this axis when they are batched.
        options.report("axis", "must not be the first one, which counts the elements of a request")
    if kind == "argmax":
        at = axis % max(rank, 1)
        shape = (*spec.shape[:at], *spec.shape[at + 1 :])
        return ArgMax(axis), replace(spec, datatype=_INT64, shape=shape)
    return (Softmax(axis) if kind == "softmax" else UnitLength(axis)), computed


def _read_top(options: Section, spec: TensorSpec, read_file: ReadFile) -> tuple[Top, tuple[TensorSpec, ...]]:
    _needs_numbers(options, spec.datatype, real=True)
    count = options.get("k", 1, to_integer(1, _MAX_TOP))
    labels = read_labels(options, "labels", read_file)
    threshold = options.get("threshold", None, to_number)
    other = options.get("other", "", _to_any_text)
    default: Mapping[str, str] = {"label" if options.has("labels") else "index": spec.name}
    names = options.get("outputs", default, _to_names)
    classes = spec.shape[-1] if spec.shape else 0
    if len(spec.shape) < 2:  # noqa: PLR2004 - elements and classes
        options.report("", f"needs a score for each class, but gets the shape {list(spec.shape)}")
    elif labels is not None and classes not in (-1, len(labels)):
        options.report("labels", f"has {len(labels)} labels for {classes} classes")
    elif classes != -1 and count > classes:
        options.report("k", f"is {count}, but there are {classes} classes")
    if "label" in names and not options.has("labels"):
        options.report("outputs", "names a label, but no labels are given")
    kinds: dict[str, Datatype] = {"label": _BYTES, "score": _FP32, "index": _INT64}
    if spec.datatype.name == "FP64":
        kinds["score"] = spec.datatype
    shape = (*spec.shape[:-1], count if classes != -1 else -1)
    specs = tuple(TensorSpec(name, kinds[part], shape) for part, name in names.items())
    return Top(count, None if labels is None else _texts(labels), threshold, other, names), specs


def _texts(labels: Sequence[str]) -> Array:
    array: Array = np.empty(len(labels), dtype=object)
    array[:] = labels
    return array


def _needs_numbers(options: Section, datatype: Datatype, *, real: bool) -> None:
    if datatype.kind not in ("f" if real else "fiu"):
        options.report("", f"needs {'floating point ' if real else ''}numbers, but gets {datatype.name}")


def _to_any_text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be text, not {kind_of(value)}")
    return value


def _to_names(value: object) -> Mapping[str, str]:
    if not isinstance(value, dict) or not value:
        raise ValueError("must map label, score or index to names that clients get")
    for part, name in value.items():
        if part not in {"label", "score", "index"}:
            raise ValueError(f"'{part}' is not one of label, score, index")
        if not isinstance(name, str) or not name:
            raise ValueError(f"the name of {part} must be text, not {kind_of(name)}")
    return value
