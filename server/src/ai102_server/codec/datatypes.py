# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""The datatypes of the protocol, and what they are called in ONNX and in numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = ["DATATYPES", "Array", "Datatype", "from_onnx"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Datatype:
    """A datatype: ``name`` in V2, ``onnx`` the type of a tensor of it as ONNX Runtime spells it.

    ``wire`` is the little-endian numpy type of one element in the binary form; None for BYTES, whose elements have
    lengths of their own.
    """

    name: str
    onnx: str
    dtype: np.dtype[Any]
    wire: np.dtype[Any] | None

    @property
    def kind(self) -> str:
        """Numpy's letter: ``b`` boolean, ``i`` signed, ``u`` unsigned, ``f`` floating point, ``O`` text or bytes."""
        return self.dtype.kind


def _fixed(name: str, onnx: str, code: str) -> Datatype:
    dtype = np.dtype(code)
    return Datatype(name, f"tensor({onnx})", dtype, dtype.newbyteorder("<"))


DATATYPES: Final[dict[str, Datatype]] = {
    datatype.name: datatype
    for datatype in (
        _fixed("BOOL", "bool", "?"),
        _fixed("UINT8", "uint8", "u1"),
        _fixed("UINT16", "uint16", "u2"),
        _fixed("UINT32", "uint32", "u4"),
        _fixed("UINT64", "uint64", "u8"),
        _fixed("INT8", "int8", "i1"),
        _fixed("INT16", "int16", "i2"),
        _fixed("INT32", "int32", "i4"),
        _fixed("INT64", "int64", "i8"),
        _fixed("FP16", "float16", "f2"),
        _fixed("FP32", "float", "f4"),
        _fixed("FP64", "double", "f8"),
        Datatype("BYTES", "tensor(string)", np.dtype(object), None),
    )
}

_BY_ONNX: Final = {datatype.onnx: datatype for datatype in DATATYPES.values()}


def from_onnx(onnx_type: str) -> Datatype | None:
    """Datatype of an ONNX value such as ``tensor(float)``; None when the protocol cannot carry it."""
    return _BY_ONNX.get(onnx_type)
