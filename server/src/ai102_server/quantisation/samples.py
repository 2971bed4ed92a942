# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Sets of samples to calibrate and to judge with.

Three sources are read: a file with a V2 request in JSON, a list of them, or a document ``{"requests": [...]}`` such as
``golden.json``; a directory of such files (in the order of their names); and an ``.npz`` whose arrays bear the names of
the inputs, with one sample in each row of the first axis.

Labels, where a task has them, are whole numbers, one for each row that the model answers: a request's ``label`` (or a
list of them) beside ``request`` in JSON, an array ``labels`` in an ``.npz``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime as ort
import orjson

from ai102_server.codec import TensorSpec, decode_request
from ai102_server.codec.datatypes import Array, from_onnx
from ai102_server.errors import RequestError, ServerError
from ai102_server.repository.golden import read_requests

__all__ = ["SampleSet", "input_specs", "load_samples", "split"]

LABELS: Final = "labels"


@dataclass(frozen=True)
class SampleSet:
    """Feeds for a session: arrays by input name. ``labels``: for each feed one number for each of its rows."""

    feeds: tuple[dict[str, Array], ...]
    labels: tuple[Array, ...] | None = None

    def __len__(self) -> int:
        return len(self.feeds)

    def pick(self, positions: Iterable[int]) -> SampleSet:
        """The samples at these positions."""
        chosen = list(positions)
        labels = None if self.labels is None else tuple(self.labels[i] for i in chosen)
        return SampleSet(tuple(self.feeds[i] for i in chosen), labels)


def input_specs(session: ort.InferenceSession) -> dict[str, TensorSpec]:
    """Inputs of a model in terms of the protocol. Raises ``ServerError`` for types that it cannot carry."""
    specs: dict[str, TensorSpec] = {}
    for node in session.get_inputs():
        datatype = from_onnx(node.type)
        if datatype is None:
            raise ServerError(f"input '{node.name}' is of type {node.type}, which V2 cannot carry")
        shape = tuple(axis if isinstance(axis, int) else -1 for axis in node.shape)
        specs[node.name] = TensorSpec(node.name, datatype, shape)
    return specs


def load_samples(path: Path, specs: Mapping[str, TensorSpec]) -> SampleSet:
    """Read samples for a model with these inputs. Raises ``ServerError`` with what is wrong and where."""
    if path.suffix == ".npz":
        return _from_npz(path, specs)
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    feeds: list[dict[str, Array]] = []
    labels: list[Array] = []
    for file in files:
        for index, item in enumerate(read_requests(file)):
            where = f"{file}: request {index}"
            request = item.get("request", item)
            try:
                feeds.append(decode_request(orjson.dumps(request), None, specs, {}).inputs)
            except RequestError as error:
                raise ServerError(f"{where}: {error.message}") from None
            if "label" in item:
                labels.append(_label(item["label"], where))
    if not feeds:
        raise ServerError(f"{path} holds no samples: give a V2 request as JSON, a directory of them, or an .npz")
    if labels and len(labels) != len(feeds):
        raise ServerError(
            f"{path}: {len(labels)} of {len(feeds)} requests have a 'label': give all of them one, or none"
        )
    return SampleSet(tuple(feeds), tuple(labels) if labels else None)


def _label(value: object, where: str) -> Array:
    array = np.atleast_1d(np.array(value))
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise ServerError(f"{where}: 'label' must be a whole number, or a list of one for each row")
    return array


def _from_npz(path: Path, specs: Mapping[str, TensorSpec]) -> SampleSet:
    try:
        # Objects would be unpickled, which runs what the file says.
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is no .npz of plain arrays"
        raise ServerError(f"{path} cannot be read: {reason}") from error
    labels = arrays.pop(LABELS, None) if LABELS not in specs else None
    if set(arrays) != set(specs):
        raise ServerError(
            f"{path} has arrays {', '.join(sorted(arrays)) or 'none'}; the model's inputs: {', '.join(specs)}"
        )
    counts = {len(array) if array.ndim else 0 for array in arrays.values()} | (
        {len(labels)} if labels is not None else set()
    )
    if len(counts) != 1 or counts == {0}:
        raise ServerError(f"{path}: all arrays must have the same number of rows, at least one")
    for name, array in arrays.items():
        spec = specs[name]
        if array.dtype != spec.datatype.dtype:
            raise ServerError(f"{path}: '{name}' is of type {array.dtype}, the model wants {spec.datatype.dtype}")
        if array.ndim != len(spec.shape) or any(
            want not in {-1, have} for want, have in zip(spec.shape[1:], array.shape[1:], strict=True)
        ):
            raise ServerError(
                f"{path}: '{name}' has rows of shape {list(array.shape[1:])}, the model wants {list(spec.shape[1:])}"
            )
    (count,) = counts
    feeds = tuple({name: array[i : i + 1] for name, array in arrays.items()} for i in range(count))
    return SampleSet(
        feeds, None if labels is None else tuple(_label(labels[i : i + 1], str(path)) for i in range(count))
    )


def split(samples: SampleSet, share: float) -> tuple[SampleSet, SampleSet]:
    """Keep ``share`` (0 to 1) of the samples back, spread evenly: those to calibrate with, and those to judge with.

    The same set is always split in the same way. Raises ``ServerError`` when one of the two would be empty.
    """
    kept = round(len(samples) * share)
    if not 0 < kept < len(samples):
        raise ServerError(
            f"{len(samples)} samples cannot be split into some to calibrate with and some to judge with: "
            "give more, or a set of their own with --evaluate"
        )
    held = {int((i + 0.5) * len(samples) / kept) for i in range(kept)}
    return samples.pick(i for i in range(len(samples)) if i not in held), samples.pick(sorted(held))


def to_json(value: object) -> str:
    """Text of a report: readable, and the same for the same content."""
    return json.dumps(value, indent=2) + "\n"
