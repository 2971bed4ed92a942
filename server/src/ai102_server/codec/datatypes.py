# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""The datatypes of the protocol, and what they are called in ONNX and in numpy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import ml_dtypes
import numpy as np
import numpy.typing as npt

__all__ = ["BF16", "DATATYPES", "Array", "Datatype", "from_onnx"]

Array = npt.NDArray[Any]

_STRUCT: Final = dict(
    zip(("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"), "BHIQbhiqefd", strict=True)
)
"""Numpy's types and their letters in ``struct``, in its standard sizes."""


@dataclass(frozen=True)
class Datatype:
    """A datatype: ``name`` in V2, ``onnx`` the type of a tensor of it as ONNX Runtime spells it.

    ``wire`` is the little-endian numpy type of one element in the binary form; None for BYTES, whose elements have
    lengths of their own. ``kind`` is ``b`` boolean, ``i`` signed, ``u`` unsigned, ``f`` floating point, ``O`` text or
    bytes. ``code`` is the letter of the ``struct`` module that packs a list of numbers of it, refusing those that do
    not fit; None when there is no such letter. ``in_json`` says whether JSON can carry its elements.
    """

    name: str
    onnx: str
    dtype: np.dtype[Any]
    wire: np.dtype[Any] | None
    in_json: bool = True
    kind: str = field(init=False)
    code: str | None = field(init=False)

    def __post_init__(self) -> None:
        # ml_dtypes' types are of numpy's kind "V".
        kind = "f" if self.dtype.kind == "V" else self.dtype.kind
        object.__setattr__(self, "kind", kind)
        object.__setattr__(self, "code", _STRUCT.get(self.dtype.str[1:]))


def _fixed(name: str, onnx: str, code: str) -> Datatype:
    dtype = np.dtype(code)
    wire = dtype.newbyteorder("<")
    # The very same object where the machine is little-endian, so that the hot path can compare by identity.
    return Datatype(name, f"tensor({onnx})", dtype, dtype if wire == dtype else wire)


BF16: Final = Datatype(
    # In binary form only: the protocol's JSON has no representation for it, and tritonclient refuses to send one.
    "BF16",
    "tensor(bfloat16)",
    np.dtype(ml_dtypes.bfloat16),
    np.dtype(ml_dtypes.bfloat16),
    in_json=False,
)

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
        BF16,
        _fixed("FP32", "float", "f4"),
        _fixed("FP64", "double", "f8"),
        Datatype("BYTES", "tensor(string)", np.dtype(object), None),
    )
}

_BY_ONNX: Final = {datatype.onnx: datatype for datatype in DATATYPES.values()}


def from_onnx(onnx_type: str) -> Datatype | None:
    """Datatype of an ONNX value such as ``tensor(float)``; None when the protocol cannot carry it."""
    return _BY_ONNX.get(onnx_type)
