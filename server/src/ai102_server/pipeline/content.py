# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""The beginning and the end of a file as numbers, as models that tell kinds of files apart take them.

The features are those of Magika (https://github.com/google/magika, ``_extract_features_from_seekable``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ai102_server.codec import TensorSpec
from ai102_server.codec.datatypes import Array
from ai102_server.config.reader import Section, to_flag, to_integer
from ai102_server.pipeline.declaration import Step

__all__ = ["BytesInput", "read_bytes_steps"]

_MAX = 1 << 20
_BYTE = 256


@dataclass(frozen=True)
class BytesInput:
    """Files to the model's input ``spec`` of shape [n, head + tail]."""

    spec: TensorSpec
    head: int
    tail: int
    block: int
    strip: bool
    padding: int

    def __call__(self, contents: Sequence[bytes]) -> dict[str, Array]:
        """The model's input."""
        result: Array = np.full((len(contents), self.head + self.tail), self.padding, self.spec.datatype.dtype)
        for row, content in zip(result, contents, strict=True):
            first, last = content[: self.block], content[-self.block :]
            if self.strip:
                first, last = first.lstrip(), last.rstrip()
            first, last = first[: self.head], last[len(last) - min(len(last), self.tail) :]
            row[: len(first)] = np.frombuffer(first, np.uint8)
            row[self.head + self.tail - len(last) :] = np.frombuffer(last, np.uint8)
        return {self.spec.name: result}


def read_bytes_steps(steps: Sequence[Step], spec: TensorSpec, section: Section) -> BytesInput:
    """The step ``bytes`` for the model's input ``spec``; mistakes are reported to ``section``."""
    options = steps[0].options
    for step in steps[1:]:
        step.options.report("", "cannot follow bytes")
    size = to_integer(0, _MAX)
    made = BytesInput(
        spec,
        head=options.get("head", 0, size),
        tail=options.get("tail", 0, size),
        block=options.get("block", 4096, to_integer(1, _MAX)),
        strip=options.get("strip", True, to_flag),
        padding=options.get("padding", _BYTE, to_integer(-(1 << 31), (1 << 31) - 1)),
    )
    options.finish()
    length = made.head + made.tail
    if length == 0:
        options.report("", "needs head or tail")
    datatype = spec.datatype
    if datatype.kind in "iu":
        limits = np.iinfo(datatype.dtype)
        if not limits.min <= made.padding <= limits.max or limits.max < _BYTE - 1:
            section.report("steps", f"make numbers that do not fit {datatype.name} of the model's input '{spec.name}'")
    elif datatype.kind != "f":
        section.report("steps", f"make numbers, but the model's input '{spec.name}' is {datatype.name}")
    if len(spec.shape) != 2 or spec.shape[1] not in (-1, length):  # noqa: PLR2004 - files and numbers
        section.report("steps", f"make [n, {length}], but the model's input '{spec.name}' is {list(spec.shape)}")
    return made
