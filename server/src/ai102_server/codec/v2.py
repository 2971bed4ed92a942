# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Inference requests and responses of the Open Inference Protocol V2.

Without ``Inference-Header-Content-Length`` a body is one JSON document. With it, the body begins with a JSON document
of that many bytes, followed by the raw little-endian tensors in the order in which the document names them (the *binary
tensor data extension*): no element passes through Python then.

Everything here is pure: bytes in, numpy arrays out, and back. Mistakes of the client raise ``RequestError`` (400).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson

from ai102_server.codec.datatypes import DATATYPES, Array, Datatype
from ai102_server.errors import RequestError

__all__ = [
    "BINARY_HEADER",
    "EncodedResponse",
    "InferRequest",
    "OutputRequest",
    "TensorSpec",
    "decode_request",
    "encode_response",
    "tensor_to_json",
]

BINARY_HEADER: Final = "Inference-Header-Content-Length"
_LENGTH: Final = struct.Struct("<I")
_JSON_OPTIONS: Final = orjson.OPT_SERIALIZE_NUMPY


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a model. ``shape`` holds -1 for an axis of any length."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """The tensor's entry in the model's metadata."""
        return {"name": self.name, "datatype": self.datatype.name, "shape": list(self.shape)}


@dataclass(frozen=True)
class OutputRequest:
    """An output the client asked for, and whether as raw bytes."""

    name: str
    binary: bool


@dataclass(frozen=True)
class InferRequest:
    """A decoded request: ``inputs`` maps names to arrays of the model's datatypes and of checked shapes."""

    id: str | None
    inputs: dict[str, Array]
    outputs: tuple[OutputRequest, ...]


@dataclass(frozen=True)
class EncodedResponse:
    """A response body; ``header_length`` is the length of its JSON part, None when it is JSON as a whole."""

    body: bytes
    header_length: int | None

    @property
    def content_type(self) -> str:
        """MIME type of the body."""
        return "application/json" if self.header_length is None else "application/octet-stream"


# --------------------------------------------------------------------------------------------------------------------
# Requests
# --------------------------------------------------------------------------------------------------------------------
def decode_request(
    body: bytes,
    header_length: str | None,
    inputs: Mapping[str, TensorSpec],
    outputs: Mapping[str, TensorSpec],
) -> InferRequest:
    """Decode a request for a model with these inputs and outputs.

    ``header_length`` is the value of the header ``Inference-Header-Content-Length``, None when the client sent none.
    Arrays of the binary form are views of ``body`` where alignment allows it, and read-only. Raises ``RequestError``.
    """
    head, rest = _split(body, header_length)
    try:
        document = orjson.loads(head)
    except orjson.JSONDecodeError as error:
        raise _bad(f"the body is not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise _bad("the body must be a JSON object")
    request_id = document.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise _bad("'id' must be a string")
    parameters = _parameters(document, "request")
    return InferRequest(
        id=request_id,
        inputs=_decode_inputs(document.get("inputs"), rest, inputs),
        outputs=_decode_outputs(document.get("outputs"), parameters, outputs),
    )


def _bad(message: str) -> RequestError:
    return RequestError(400, message)


def _split(body: bytes, header_length: str | None) -> tuple[bytes | memoryview, memoryview]:
    """The JSON part of a body and the raw tensors behind it."""
    if header_length is None:
        return body, memoryview(b"")
    # int() would also take "+5", " 5 " and "5_0".
    if not (header_length.isascii() and header_length.isdigit()):
        raise _bad(f"{BINARY_HEADER} must be a number of bytes")
    length = int(header_length) if len(header_length) <= len(str(len(body))) else len(body) + 1
    if length > len(body):
        raise _bad(f"{BINARY_HEADER} is {header_length[:20]}, but the body has only {len(body)} bytes")
    view = memoryview(body)
    return view[:length], view[length:]


def _parameters(item: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    parameters = item.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise _bad(f"'parameters' of the {where} must be a JSON object")
    return parameters


def _flag(parameters: Mapping[str, Any], key: str, default: bool, where: str) -> bool:
    value = parameters.get(key, default)
    if not isinstance(value, bool):
        raise _bad(f"parameter '{key}' of the {where} must be true or false")
    return value


def _refuse_unsupported(parameters: Mapping[str, Any], where: str) -> None:
    for key in ("shared_memory_region", "classification"):
        if key in parameters:
            raise _bad(f"parameter '{key}' of the {where} is not supported")


def _decode_inputs(items: object, rest: memoryview, specs: Mapping[str, TensorSpec]) -> dict[str, Array]:
    if not isinstance(items, list) or not items:
        raise _bad("'inputs' must be a list of tensors")
    arrays: dict[str, Array] = {}
    offset = 0
    for item in items:
        spec = _spec_of(item, specs, "input")
        if spec.name in arrays:
            raise _bad(f"input '{spec.name}' is given twice")
        shape = _shape_of(item, spec)
        datatype = item.get("datatype")
        if datatype != spec.datatype.name:
            known = "" if isinstance(datatype, str) and datatype in DATATYPES else ", which is no known datatype"
            raise _bad(f"input '{spec.name}' has datatype {_show(datatype)}{known}; expected '{spec.datatype.name}'")
        parameters = _parameters(item, f"input '{spec.name}'")
        _refuse_unsupported(parameters, f"input '{spec.name}'")
        size = parameters.get("binary_data_size")
        if size is None:
            arrays[spec.name] = _from_json(item.get("data"), spec, shape)
            continue
        if "data" in item:
            raise _bad(f"input '{spec.name}' has both 'data' and 'binary_data_size'")
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise _bad(f"'binary_data_size' of input '{spec.name}' must be a number of bytes")
        if size > len(rest) - offset:
            raise _bad(
                f"'binary_data_size' of input '{spec.name}' is {size}, "
                f"but only {len(rest) - offset} bytes are left in the body"
            )
        arrays[spec.name] = _from_binary(rest[offset : offset + size], spec, shape)
        offset += size
    if offset != len(rest):
        raise _bad(f"{len(rest) - offset} bytes at the end of the body belong to no input")
    missing = [name for name in specs if name not in arrays]
    if missing:
        raise _bad(f"missing input{'s' if len(missing) > 1 else ''}: {', '.join(missing)}")
    return arrays


def _spec_of(item: object, specs: Mapping[str, TensorSpec], role: str) -> TensorSpec:
    if not isinstance(item, dict):
        raise _bad(f"each {role} must be a JSON object")
    name = item.get("name")
    spec = specs.get(name) if isinstance(name, str) else None
    if spec is None:
        raise _bad(f"unknown {role} {_show(name)}; this model has: {', '.join(specs)}")
    return spec


def _shape_of(item: Mapping[str, Any], spec: TensorSpec) -> tuple[int, ...]:
    """The shape of an input, checked against the model's; raises ``RequestError``."""
    shape = item.get("shape")
    if not isinstance(shape, list) or not all(type(axis) is int and axis >= 0 for axis in shape):
        raise _bad(f"'shape' of input '{spec.name}' must be a list of whole numbers")
    if len(shape) != len(spec.shape) or any(
        want not in (-1, axis) for axis, want in zip(shape, spec.shape, strict=True)
    ):
        raise _bad(f"input '{spec.name}' has shape {_show(shape)}; expected {list(spec.shape)} (-1: any length)")
    return tuple(shape)


def _decode_outputs(
    items: object, parameters: Mapping[str, Any], specs: Mapping[str, TensorSpec]
) -> tuple[OutputRequest, ...]:
    default = _flag(parameters, "binary_data_output", False, "request")
    if items is None or items == []:
        return tuple(OutputRequest(name, default) for name in specs)
    if not isinstance(items, list):
        raise _bad("'outputs' must be a list")
    outputs: list[OutputRequest] = []
    for item in items:
        spec = _spec_of(item, specs, "output")
        if any(other.name == spec.name for other in outputs):
            raise _bad(f"output '{spec.name}' is asked for twice")
        where = f"output '{spec.name}'"
        asked = _parameters(item, where)
        _refuse_unsupported(asked, where)
        outputs.append(OutputRequest(spec.name, _flag(asked, "binary_data", default, where)))
    return tuple(outputs)


def _show(value: object, limit: int = 60) -> str:
    """A client's value for an error message: bounded, so that an answer never carries a payload back."""
    try:
        text = orjson.dumps(value).decode() if not isinstance(value, str) else f"'{value}'"
    except TypeError:
        text = "of this kind"
    return text if len(text) <= limit else f"{text[:limit]}…"


# --------------------------------------------------------------------------------------------------------------------
# JSON data
# --------------------------------------------------------------------------------------------------------------------
def _from_json(data: object, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
    """Tensor from JSON ``data``, which may be flat or nested as the shape says."""
    if not isinstance(data, list):
        raise _bad(f"input '{spec.name}' has no 'data' list")
    if spec.datatype.kind == "O":
        array = _json_text(data, spec)
    else:
        try:
            # numpy finds the type first: asking for the wanted one would turn 1.5 into 1 and "2" into 2 silently.
            found: Array = np.array(data) if data else np.empty(0, spec.datatype.dtype)
        except (ValueError, OverflowError):
            raise _bad(f"'data' of input '{spec.name}' is ragged or too deeply nested") from None
        array = _convert(found, data, spec)
    if array.shape not in {shape, (math.prod(shape),)}:
        raise _bad(
            f"'data' of input '{spec.name}' has {_elements(array)}, "
            f"which does not fit shape {list(shape)} ({math.prod(shape)} elements)"
        )
    return array.reshape(shape)


def _elements(array: Array) -> str:
    return f"{array.size} elements" if array.ndim == 1 else f"shape {list(array.shape)}"


def _convert(found: Array, data: list[Any], spec: TensorSpec) -> Array:
    """Numbers or booleans to the input's datatype, refusing what would change their value beyond rounding."""
    want = spec.datatype
    if want.kind == "b":
        accepted = found.dtype.kind == "b"
    elif want.kind == "f":
        accepted = found.dtype.kind in "iuf"
    else:
        accepted = found.dtype.kind in "iu"
        if found.dtype.kind == "f":
            # Whole numbers on both sides of 2^63 make numpy choose float64, which would round them.
            return _whole_numbers(np.array(data, dtype=object), spec)
    if not accepted:
        raise _bad(f"'data' of input '{spec.name}' does not hold {_KINDS[want.kind]} only, as {want.name} needs")
    if want.kind in "iu":
        _check_range(found, spec)
    try:
        with np.errstate(over="raise"):
            return found.astype(want.dtype, copy=False)
    except FloatingPointError:
        raise _bad(f"'data' of input '{spec.name}' holds numbers too large for {want.name}") from None


_KINDS: Final = {"b": "true and false", "f": "numbers", "i": "whole numbers", "u": "whole numbers"}


def _check_range(found: Array, spec: TensorSpec) -> None:
    if found.size == 0:
        return
    limits = np.iinfo(spec.datatype.dtype)
    if int(found.min()) < int(limits.min) or int(found.max()) > int(limits.max):
        raise _bad(f"'data' of input '{spec.name}' holds numbers out of the range of {spec.datatype.name}")


def _whole_numbers(found: Array, spec: TensorSpec) -> Array:
    if not all(type(item) is int for item in found.flat):
        raise _bad(f"'data' of input '{spec.name}' does not hold whole numbers only, as {spec.datatype.name} needs")
    try:
        return found.astype(spec.datatype.dtype)
    except OverflowError:
        raise _bad(f"'data' of input '{spec.name}' holds numbers out of the range of {spec.datatype.name}") from None


def _json_text(data: list[Any], spec: TensorSpec) -> Array:
    try:
        array = np.array(data, dtype=object)
    except ValueError:
        raise _bad(f"'data' of input '{spec.name}' is ragged or too deeply nested") from None
    if not all(type(item) is str for item in array.flat):
        raise _bad(f"'data' of input '{spec.name}' does not hold strings only, as BYTES needs")
    return array


# --------------------------------------------------------------------------------------------------------------------
# Binary data
# --------------------------------------------------------------------------------------------------------------------
def _from_binary(raw: memoryview, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
    """Tensor from raw little-endian elements in row-major order."""
    count = math.prod(shape)
    wire = spec.datatype.wire
    if wire is None:
        return _binary_text(raw, spec, count).reshape(shape)
    if len(raw) != count * wire.itemsize:
        raise _bad(
            f"input '{spec.name}' of shape {list(shape)} and datatype {spec.datatype.name} takes "
            f"{count * wire.itemsize} bytes, but 'binary_data_size' is {len(raw)}"
        )
    if spec.datatype.kind == "b" and count and np.frombuffer(raw, np.uint8).max() > 1:
        # Other bytes than 0 and 1 are undefined behaviour once they are read as C++'s bool.
        raise _bad(f"input '{spec.name}' of datatype BOOL holds bytes other than 0 and 1")
    array: Array = np.frombuffer(raw, wire).reshape(shape)
    # The JSON part may have any length; kernels may read tensors with instructions that need alignment.
    return np.require(array, spec.datatype.dtype, ["C", "A"])


def _binary_text(raw: memoryview, spec: TensorSpec, count: int) -> Array:
    """BYTES: each element is its length in 4 bytes and then its content, which must be UTF-8.

    ONNX strings are UTF-8 text; ONNX Runtime would turn anything else into its Python representation silently.
    """
    texts: list[str] = []
    offset = 0
    while offset < len(raw):
        if len(raw) - offset < _LENGTH.size:
            raise _bad(f"input '{spec.name}': the length of element {len(texts)} is cut off")
        (length,) = _LENGTH.unpack_from(raw, offset)
        offset += _LENGTH.size
        if length > len(raw) - offset:
            raise _bad(f"input '{spec.name}': element {len(texts)} is cut off")
        if len(texts) == count:
            raise _bad(f"input '{spec.name}' has more elements than its shape says ({count})")
        try:
            texts.append(str(raw[offset : offset + length], "utf-8"))
        except UnicodeDecodeError:
            raise _bad(f"input '{spec.name}': element {len(texts)} is not UTF-8 text") from None
        offset += length
    if len(texts) != count:
        raise _bad(f"input '{spec.name}' has {len(texts)} elements, its shape says {count}")
    array: Array = np.empty(count, dtype=object)
    array[:] = texts
    return array


# --------------------------------------------------------------------------------------------------------------------
# Responses
# --------------------------------------------------------------------------------------------------------------------
def tensor_to_json(name: str, array: Array, datatype: Datatype) -> dict[str, Any]:
    """An output tensor with its data as a flat list in row-major order; to be serialised by orjson with numpy."""
    flat = np.ascontiguousarray(array).reshape(-1)
    data: Any = flat.tolist() if datatype.kind == "O" else flat
    return {"name": name, "shape": list(array.shape), "datatype": datatype.name, "data": data}


def encode_response(
    model: str,
    version: str,
    request: InferRequest,
    arrays: Sequence[Array],
    specs: Mapping[str, TensorSpec],
) -> EncodedResponse:
    """Encode the outputs of a request, in the order in which it asked for them.

    ``arrays`` are parallel to ``request.outputs``. NaN and infinities, which JSON cannot carry, become ``null`` there;
    the binary form keeps them.
    """
    outputs: list[dict[str, Any]] = []
    buffers: list[bytes | memoryview] = []
    for asked, array in zip(request.outputs, arrays, strict=True):
        datatype = specs[asked.name].datatype
        if not asked.binary:
            outputs.append(tensor_to_json(asked.name, array, datatype))
            continue
        raw = _to_binary(array, datatype)
        buffers.append(raw)
        outputs.append(
            {
                "name": asked.name,
                "shape": list(array.shape),
                "datatype": datatype.name,
                "parameters": {"binary_data_size": len(raw)},
            }
        )
    document: dict[str, Any] = {"model_name": model, "model_version": version}
    if request.id is not None:
        document["id"] = request.id
    document["outputs"] = outputs
    head = orjson.dumps(document, option=_JSON_OPTIONS)
    if not any(asked.binary for asked in request.outputs):
        return EncodedResponse(head, None)
    return EncodedResponse(b"".join((head, *buffers)), len(head))


def _to_binary(array: Array, datatype: Datatype) -> bytes | memoryview:
    if datatype.wire is not None:
        flat: Array = np.ascontiguousarray(array, datatype.wire).reshape(-1)
        return flat.view(np.uint8).data
    parts: list[bytes] = []
    for item in array.flat:
        content = item.encode()
        parts += (_LENGTH.pack(len(content)), content)
    return b"".join(parts)
