# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Tensors of a datatype that ONNX Runtime's Python interface takes and gives only as ``OrtValue``: BF16.

``InferenceSession.run`` refuses arrays of ml_dtypes' bfloat16, and gives none back. This is the only module here that
knows ONNX Runtime, and it imports it when it is called.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import numpy as np

from ai102_server.codec.datatypes import BF16, Array
from ai102_server.codec.v2 import TensorSpec

__all__ = ["OrtValue", "Session", "needs_ort_values", "run_with_ort_values"]

_BFLOAT16: Final = 16
"""``TensorProto.BFLOAT16`` of onnx.proto."""


class OrtValue(Protocol):
    """What is used of ``onnxruntime.OrtValue``, which is not typed."""

    def data_type(self) -> str:
        """Type such as ``tensor(float)``."""

    def shape(self) -> list[int]:
        """Lengths of the axes."""

    def tensor_size_in_bytes(self) -> int:
        """Size of the elements in bytes."""

    def data_ptr(self) -> int:
        """Address of the first element."""

    def numpy(self) -> Array:
        """The elements; raises for types that numpy lacks."""


class Session(Protocol):
    """What is used of ``onnxruntime.InferenceSession``."""

    def run_with_ort_values(self, output_names: list[str], inputs: dict[str, OrtValue]) -> list[OrtValue]:
        """Compute the outputs."""


def needs_ort_values(*specs: Mapping[str, TensorSpec]) -> bool:
    """Whether a session with these inputs and outputs must be run by ``run_with_ort_values``."""
    return any(spec.datatype is BF16 for mapping in specs for spec in mapping.values())


def run_with_ort_values(session: Session, outputs: Sequence[str], inputs: Mapping[str, Array]) -> list[Array]:
    """As ``session.run(outputs, inputs)``, with BF16 among the tensors.

    Outputs are copies in host memory. Raises what ``session.run`` raises, and ``ValueError`` for inputs of text, which
    cannot be made an ``OrtValue``.
    """
    values = session.run_with_ort_values(list(outputs), {name: _to_ort(array) for name, array in inputs.items()})
    return [_from_ort(value) for value in values]


def _to_ort(array: Array) -> OrtValue:
    import onnxruntime as ort

    array = np.ascontiguousarray(array).reshape(array.shape)
    if array.dtype.kind == "O":
        raise ValueError("a model with BF16 tensors cannot have inputs of text: ONNX Runtime has no way to take both")
    value: OrtValue
    if array.dtype is BF16.dtype:
        value = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), _BFLOAT16)
    else:
        value = ort.OrtValue.ortvalue_from_numpy(array)
    return value


def _from_ort(value: OrtValue) -> Array:
    if value.data_type() != BF16.onnx:
        return value.numpy()
    size = value.tensor_size_in_bytes()
    # Without a copy the array would have to keep the value alive, which numpy cannot be told.
    raw = ctypes.string_at(value.data_ptr(), size) if size else b""
    array: Array = np.frombuffer(raw, BF16.dtype).reshape(value.shape())
    return array
