# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Inference requests and responses of the Open Inference Protocol V2.

Without ``Inference-Header-Content-Length`` a body is one JSON document. With it, the body begins with a JSON document
of that many bytes, followed by the raw little-endian tensors in the order in which the document names them (the *binary
tensor data extension*): no element passes through Python then.

Everything here is pure: bytes in, numpy arrays out, and back. Mistakes of the client raise ``RequestError`` (400).

Sources: ``specification/protocol/inference_rest.md`` of kserve/open-inference-protocol, and ``docs/protocol`` of
triton-inference-server/server for the extensions ``binary_tensor_data`` and ``schedule_policy`` (``timeout``).
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, Final, NamedTuple

import numpy as np
import orjson

from ai102_server.codec.datatypes import DATATYPES, Array, Datatype
from ai102_server.codec.deadline import earliest, parse_timeout_header
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
_NOTHING: Final = memoryview(b"")
_EMPTY_LIMIT: Final = 1 << 24
"""An empty tensor may have any other axes, so a body of 100 bytes could name one of [0, 2^60], and a model that sums
over the first axis would be asked for 2^60 elements: product of the other axes that is still taken."""
_MICROSECONDS: Final = 1e-6
_BASE64: Final = {"content_type": "base64"}


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a model. ``shape`` holds -1 for an axis of any length.

    ``binary``: the elements of a BYTES tensor are any bytes (an image file, say) instead of UTF-8 text. They are
    ``bytes`` in the array then, and base64 (RFC 4648, padded) in JSON.
    """

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    binary: bool = False

    def to_json(self) -> dict[str, Any]:
        """The tensor's entry in the model's metadata."""
        document: dict[str, Any] = {"name": self.name, "datatype": self.datatype.name, "shape": list(self.shape)}
        if self.binary:
            document["parameters"] = dict(_BASE64)
        return document


class OutputRequest(NamedTuple):
    """An output the client asked for, and whether as raw bytes."""

    name: str
    binary: bool


class InferRequest(NamedTuple):
    """A decoded request: ``inputs`` maps names to arrays of the model's datatypes and of checked shapes.

    ``deadline_seconds``: after so many seconds from its arrival the client no longer waits; None when it did not say.
    """

    id: str | None
    inputs: dict[str, Array]
    outputs: tuple[OutputRequest, ...]
    deadline_seconds: float | None = None


class EncodedResponse(NamedTuple):
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
    *,
    timeout: str | None = None,
    max_batch: int | None = None,
    allow_nan: bool = True,
) -> InferRequest:
    """Decode a request for a model with these inputs and outputs.

    ``header_length`` is the value of the header ``Inference-Header-Content-Length``, ``timeout`` that of
    ``X-Request-Timeout``; None when the client sent none. ``max_batch`` bounds the first axis of inputs whose first
    axis is open. ``allow_nan``: floating point inputs may hold NaN and infinities, in JSON as ``null`` (NaN) or as the
    literals ``NaN``, ``Infinity`` and ``-Infinity`` that Python's clients write; otherwise they are refused.

    Arrays are read-only; those of the binary form are views of ``body`` where alignment allows it. Raises
    ``RequestError`` (400).
    """
    head: bytes | memoryview = body
    rest = _NOTHING
    if header_length is not None:
        head, rest = _split(body, header_length)
    try:
        document = orjson.loads(head)
    except orjson.JSONDecodeError as error:
        document = _loads_with_nan(head, error, allow_nan)
    if type(document) is not dict:
        raise _bad("the body must be a JSON object")
    get = document.get
    request_id = get("id")
    if request_id is not None and type(request_id) is not str:
        raise _bad("'id' must be a string")
    parameters = get("parameters")
    seconds: float | None = None
    binary = False
    if parameters is not None:
        parameters = _parameters(document, "request")
        binary = _flag(parameters, "binary_data_output", False, "request")
        seconds = _timeout(parameters)
    if timeout is not None:
        seconds = earliest(seconds, parse_timeout_header(timeout))
    # Looked for once in a short document, and only when it matters in a long one; the JSON part in front of raw tensors
    # is rarely worth it.
    text = body if header_length is None else None
    plain = text is not None and len(text) < _LONG and b"true" not in text and b"false" not in text
    return InferRequest(
        request_id,
        _decode_inputs(get("inputs"), rest, inputs, _Rules(plain, text, max_batch, allow_nan)),
        _decode_outputs(get("outputs"), binary, outputs),
        seconds,
    )


def _bad(message: str) -> RequestError:
    return RequestError(400, message)


def _loads_with_nan(head: bytes | memoryview, error: orjson.JSONDecodeError, allow_nan: bool) -> object:
    """JSON with the literals NaN and Infinity, which orjson rightly refuses and Python's own encoders write."""
    raw = bytes(head)
    if b"NaN" not in raw and b"Infinity" not in raw:
        raise _bad(f"the body is not valid JSON: {error}") from None
    if not allow_nan:
        raise _bad("the body is not valid JSON; mind that NaN and Infinity are no numbers of it") from None
    try:
        document: object = json.loads(raw.decode())
        # The same strictness as orjson's: no lone surrogates, no numbers of more than 64 bits.
        orjson.dumps(document)
    except (ValueError, RecursionError, TypeError):
        raise _bad(f"the body is not valid JSON: {error}") from None
    return document


def _split(body: bytes, header_length: str) -> tuple[memoryview, memoryview]:
    """The JSON part of a body and the raw tensors behind it."""
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


def _timeout(parameters: Mapping[str, Any]) -> float | None:
    """The request's parameter ``timeout`` in seconds; None for none or 0, as Triton has it."""
    if "sequence_id" in parameters and parameters["sequence_id"] not in (0, ""):
        raise _bad("parameter 'sequence_id' of the request is not supported: every request stands for itself")
    value = parameters.get("timeout")
    if value is None:
        return None
    if type(value) is not int or value < 0:
        raise _bad("parameter 'timeout' of the request must be a whole number of microseconds")
    return value * _MICROSECONDS if value else None


def _refuse_unsupported(parameters: Mapping[str, Any], where: str) -> None:
    for key in ("shared_memory_region", "classification"):
        if key in parameters:
            raise _bad(f"parameter '{key}' of the {where} is not supported")


class _Rules(NamedTuple):
    """What holds for all inputs of one request.

    ``plain``: the document holds neither ``true`` nor ``false``, as far as was looked. ``text``: the whole body when it
    is JSON and nothing else.
    """

    plain: bool
    text: bytes | None
    max_batch: int | None
    allow_nan: bool


def _decode_inputs(items: object, rest: memoryview, specs: Mapping[str, TensorSpec], rules: _Rules) -> dict[str, Array]:
    if type(items) is not list or not (items or not specs):
        raise _bad("'inputs' must be a list of tensors")
    arrays: dict[str, Array] = {}
    offset = 0
    for item in items:
        spec = _spec_of(item, specs, "input")
        name = spec.name
        if name in arrays:
            raise _bad(f"input '{name}' is given twice")
        shape = _shape_of(item, spec, rules.max_batch)
        if item.get("datatype") != spec.datatype.name:
            raise _wrong_datatype(item.get("datatype"), spec)
        size = None
        if "parameters" in item:
            parameters = _parameters(item, f"input '{name}'")
            _refuse_unsupported(parameters, f"input '{name}'")
            size = parameters.get("binary_data_size")
        if size is None:
            arrays[name] = _from_json(item.get("data"), spec, shape, rules)
            continue
        # KServe's client writes null beside raw tensors of no bytes.
        if item.get("data") is not None:
            raise _bad(f"input '{name}' has both 'data' and 'binary_data_size'")
        if type(size) is not int or size < 0:
            raise _bad(f"'binary_data_size' of input '{name}' must be a number of bytes")
        if size > len(rest) - offset:
            left = len(rest) - offset
            raise _bad(f"'binary_data_size' of input '{name}' is {size}, but only {left} bytes are left in the body")
        arrays[name] = _from_binary(rest[offset : offset + size], spec, shape, rules.allow_nan)
        offset += size
    if offset != len(rest):
        raise _bad(f"{len(rest) - offset} bytes at the end of the body belong to no input")
    if len(arrays) != len(specs):
        missing = [name for name in specs if name not in arrays]
        raise _bad(f"missing input{'s' if len(missing) > 1 else ''}: {', '.join(missing)}")
    return arrays


def _spec_of(item: object, specs: Mapping[str, TensorSpec], role: str) -> TensorSpec:
    if not isinstance(item, dict):
        raise _bad(f"each {role} must be a JSON object")
    name = item.get("name")
    spec = specs.get(name) if type(name) is str else None
    if spec is None:
        raise _bad(f"unknown {role} {_show(name)}; this model has: {', '.join(specs)}")
    return spec


def _wrong_datatype(datatype: object, spec: TensorSpec) -> RequestError:
    known = "" if isinstance(datatype, str) and datatype in DATATYPES else ", which is no known datatype"
    return _bad(f"input '{spec.name}' has datatype {_show(datatype)}{known}; expected '{spec.datatype.name}'")


def _shape_of(item: Mapping[str, Any], spec: TensorSpec, max_batch: int | None) -> tuple[int, ...]:
    """The shape of an input, checked against the model's; raises ``RequestError``."""
    shape = item.get("shape")
    if type(shape) is not list:
        raise _bad(f"'shape' of input '{spec.name}' must be a list of whole numbers")
    for axis in shape:
        if type(axis) is not int or axis < 0:
            raise _bad(f"'shape' of input '{spec.name}' must be a list of whole numbers")
    expected = spec.shape
    fits = len(shape) == len(expected)
    if fits:
        for axis, want in zip(shape, expected, strict=True):
            if want not in (-1, axis):
                fits = False
                break
    if not fits:
        raise _bad(f"input '{spec.name}' has shape {_show(shape)}; expected {list(expected)} (-1: any length)")
    if 0 in shape and math.prod(axis for axis in shape if axis) > _EMPTY_LIMIT:
        raise _bad(f"input '{spec.name}' is empty, and its shape {_show(shape)} is too large all the same")
    if max_batch is not None and shape and expected[0] == -1 and shape[0] > max_batch:
        raise _bad(f"input '{spec.name}' has a batch of {shape[0]}; this model takes at most {max_batch}")
    return tuple(shape)


@lru_cache(maxsize=1024)
def _all_outputs(names: tuple[str, ...], binary: bool) -> tuple[OutputRequest, ...]:
    return tuple(OutputRequest(name, binary) for name in names)


def _decode_outputs(items: object, default: bool, specs: Mapping[str, TensorSpec]) -> tuple[OutputRequest, ...]:
    if not items and (items is None or type(items) is list):
        if not default:
            for spec in specs.values():
                if not spec.datatype.in_json:
                    raise _binary_only(spec)
        return _all_outputs(tuple(specs), default)
    if type(items) is not list:
        raise _bad("'outputs' must be a list")
    outputs: dict[str, OutputRequest] = {}
    for item in items:
        spec = _spec_of(item, specs, "output")
        if spec.name in outputs:
            raise _bad(f"output '{spec.name}' is asked for twice")
        binary = default
        if "parameters" in item:
            where = f"output '{spec.name}'"
            asked = _parameters(item, where)
            _refuse_unsupported(asked, where)
            binary = _flag(asked, "binary_data", default, where)
        if not binary and not spec.datatype.in_json:
            raise _binary_only(spec)
        outputs[spec.name] = OutputRequest(spec.name, binary)
    return tuple(outputs.values())


def _binary_only(spec: TensorSpec) -> RequestError:
    return _bad(
        f"output '{spec.name}' is {spec.datatype.name}, which only the binary form carries: ask for it with parameter "
        "'binary_data' true"
    )


def _show(value: object, limit: int = 60) -> str:
    """A client's value for an error message: bounded, so that an answer never carries a payload back."""
    if isinstance(value, str):
        text = f"'{value[: limit + 1]}'"
    else:
        try:
            text = orjson.dumps(value).decode()
        except TypeError:
            text = "of this kind"
    return text if len(text) <= limit else f"{text[:limit]}…"


# --------------------------------------------------------------------------------------------------------------------
# JSON data
# --------------------------------------------------------------------------------------------------------------------
def _from_json(data: object, spec: TensorSpec, shape: tuple[int, ...], rules: _Rules) -> Array:
    """Tensor from JSON ``data``, which may be flat or nested as the shape says."""
    if type(data) is not list:
        raise _bad(f"input '{spec.name}' has no 'data' list")
    datatype = spec.datatype
    if not datatype.in_json:
        raise _bad(f"input '{spec.name}' is {datatype.name}, which only the binary form carries: send it so")
    flat: list[Any] = data
    if len(data) != math.prod(shape) or (data and type(data[0]) is list):
        unnested = _flatten(data, shape)
        if unnested is None:
            raise _misfit(data, spec, shape)
        flat = unnested
    array = _pack(flat, datatype, rules)
    if array is None:
        array = _text(flat, spec) if datatype.kind == "O" else _convert(flat, spec, rules.allow_nan)
    return array.reshape(shape)


def _flatten(data: list[Any], shape: tuple[int, ...]) -> list[Any] | None:
    """The elements of ``data`` nested exactly as ``shape`` says; None when it is not."""
    flat = data
    if not shape or len(flat) != shape[0]:
        return None
    for length in shape[1:]:
        if any(type(row) is not list or len(row) != length for row in flat):
            return None
        flat = list(chain.from_iterable(flat))
    return None if flat and type(flat[0]) is list else flat


def _misfit(data: list[Any], spec: TensorSpec, shape: tuple[int, ...]) -> RequestError:
    """What is wrong with ``data`` that is neither flat nor nested as ``shape`` says."""
    found = [len(data)]
    flat = data
    while len(found) <= len(shape) and flat and all(type(row) is list for row in flat):
        if len(set(map(len, flat))) > 1:
            break
        found.append(len(flat[0]))
        flat = list(chain.from_iterable(flat))
    if any(type(item) is list for item in flat):
        return _bad(f"'data' of input '{spec.name}' is ragged or too deeply nested")
    elements = f"{found[0]} elements" if len(found) == 1 else f"shape {found}"
    count = math.prod(shape)
    return _bad(
        f"'data' of input '{spec.name}' has {elements}, which does not fit shape {list(shape)} ({count} elements)"
    )


def _pack(flat: list[Any], datatype: Datatype, rules: _Rules) -> Array | None:
    """Numbers to an array by way of ``struct``, three times as fast as by numpy; None when it cannot, or must not.

    ``struct`` refuses text, null, lists, fractions for whole numbers, and whatever is out of range. It takes booleans
    as 0 and 1, so that they are looked for, in the cheapest way.
    """
    code = datatype.code
    if code is None or not flat:
        return None
    try:
        array: Array = np.frombuffer(struct.pack(f"<{len(flat)}{code}", *flat), datatype.wire)
    except (struct.error, OverflowError):
        return None
    if rules.plain or (len(flat) > _MANY and not ((array == 0) | (array == 1)).any()):
        return array
    text = rules.text
    if text is not None and len(text) >= _LONG and b"true" not in text and b"false" not in text:
        return array
    return None if bool in set(map(type, flat)) else array


_MANY: Final = 1024
_LONG: Final = 16384


def _convert(flat: list[Any], spec: TensorSpec, allow_nan: bool) -> Array:
    """Booleans, and numbers that ``_pack`` has refused, to the input's datatype, or the reason why not."""
    want = spec.datatype
    kinds = set(map(type, flat))
    if want.kind == "b":
        accepted = kinds <= {bool}
    elif want.kind == "f":
        accepted = kinds <= {int, float, type(None)} if allow_nan else kinds <= {int, float}
    else:
        accepted = kinds <= {int}
    if not accepted:
        raise _bad(f"'data' of input '{spec.name}' does not hold {_KINDS[want.kind]} only, as {want.name} needs")
    if want.kind in "iu" and flat:
        raise _bad(f"'data' of input '{spec.name}' holds numbers out of the range of {want.name}")
    try:
        # Numpy makes NaN of None here.
        found = np.array(flat, np.float64 if want.kind == "f" else want.dtype)
        with np.errstate(over="raise"):
            return found.astype(want.dtype, copy=False)
    except (FloatingPointError, OverflowError):
        raise _bad(f"'data' of input '{spec.name}' holds numbers too large for {want.name}") from None


_KINDS: Final = {"b": "true and false", "f": "numbers", "i": "whole numbers", "u": "whole numbers"}


def _text(flat: list[Any], spec: TensorSpec) -> Array:
    """Elements of a BYTES tensor from JSON: text, or base64 where the tensor holds any bytes."""
    if not set(map(type, flat)) <= {str}:
        raise _bad(f"'data' of input '{spec.name}' does not hold strings only, as BYTES needs")
    if spec.binary:
        try:
            flat = [base64.b64decode(item, validate=True) for item in flat]
        except (binascii.Error, ValueError):
            raise _bad(f"'data' of input '{spec.name}' is not base64, as its bytes need in JSON") from None
    array: Array = np.empty(len(flat), dtype=object)
    array[:] = flat
    return array


# --------------------------------------------------------------------------------------------------------------------
# Binary data
# --------------------------------------------------------------------------------------------------------------------
def _from_binary(raw: memoryview, spec: TensorSpec, shape: tuple[int, ...], allow_nan: bool) -> Array:
    """Tensor from raw little-endian elements in row-major order."""
    count = math.prod(shape)
    datatype = spec.datatype
    wire = datatype.wire
    if wire is None:
        return _binary_text(raw, spec, count).reshape(shape)
    if len(raw) != count * wire.itemsize:
        raise _bad(
            f"input '{spec.name}' of shape {list(shape)} and datatype {datatype.name} takes "
            f"{count * wire.itemsize} bytes, but 'binary_data_size' is {len(raw)}"
        )
    if datatype.kind == "b" and count and np.frombuffer(raw, np.uint8).max() > 1:
        # Other bytes than 0 and 1 are undefined behaviour once they are read as C++'s bool.
        raise _bad(f"input '{spec.name}' of datatype BOOL holds bytes other than 0 and 1")
    array: Array = np.frombuffer(raw, wire).reshape(shape)
    if datatype.kind == "f" and not allow_nan and not _finite(array):
        raise _bad(f"input '{spec.name}' holds NaN or infinities, which this server refuses")
    # The JSON part may have any length; kernels may read tensors with instructions that need alignment.
    return (
        array
        if array.flags.aligned and array.dtype is datatype.dtype
        else np.require(array, datatype.dtype, ["C", "A"])
    )


def _finite(array: Array) -> bool:
    # Signalling NaN would make ml_dtypes warn.
    with np.errstate(invalid="ignore"):
        return bool(np.isfinite(array).all())


def _binary_text(raw: memoryview, spec: TensorSpec, count: int) -> Array:
    """BYTES: each element is its length in 4 bytes and then its content: UTF-8, unless the tensor takes any bytes.

    ONNX strings are UTF-8 text; ONNX Runtime would turn anything else into its Python representation silently.
    """
    elements: list[str | bytes] = []
    offset = 0
    while offset < len(raw):
        if len(raw) - offset < _LENGTH.size:
            raise _bad(f"input '{spec.name}': the length of element {len(elements)} is cut off")
        (length,) = _LENGTH.unpack_from(raw, offset)
        offset += _LENGTH.size
        if length > len(raw) - offset:
            raise _bad(f"input '{spec.name}': element {len(elements)} is cut off")
        if len(elements) == count:
            raise _bad(f"input '{spec.name}' has more elements than its shape says ({count})")
        content = raw[offset : offset + length]
        try:
            elements.append(bytes(content) if spec.binary else str(content, "utf-8"))
        except UnicodeDecodeError:
            raise _bad(f"input '{spec.name}': element {len(elements)} is not UTF-8 text") from None
        offset += length
    if len(elements) != count:
        raise _bad(f"input '{spec.name}' has {len(elements)} elements, its shape says {count}")
    array: Array = np.empty(count, dtype=object)
    array[:] = elements
    return array


# --------------------------------------------------------------------------------------------------------------------
# Responses
# --------------------------------------------------------------------------------------------------------------------
def tensor_to_json(name: str, array: Array, datatype: Datatype) -> dict[str, Any]:
    """An output tensor with its data as a flat list in row-major order; to be serialised by orjson with numpy.

    Elements of a BYTES tensor that are ``bytes`` become base64, which ``parameters.content_type`` says.
    """
    document: dict[str, Any] = {"name": name, "shape": list(array.shape), "datatype": datatype.name}
    # orjson takes C-contiguous arrays only; ravel() copies others.
    flat: Any = array.ravel()
    if datatype.kind == "O":
        flat = flat.tolist()
        if any(type(item) is bytes for item in flat):
            document["parameters"] = _BASE64
            flat = [base64.b64encode(item if type(item) is bytes else item.encode()).decode() for item in flat]
    document["data"] = flat
    return document


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
                "shape": array.shape,
                "datatype": datatype.name,
                "parameters": {"binary_data_size": len(raw)},
            }
        )
    document: dict[str, Any] = {"model_name": model, "model_version": version}
    if request.id is not None:
        document["id"] = request.id
    document["outputs"] = outputs
    head = orjson.dumps(document, option=_JSON_OPTIONS)
    if not buffers:
        return EncodedResponse(head, None)
    return EncodedResponse(b"".join((head, *buffers)), len(head))


def _to_binary(array: Array, datatype: Datatype) -> bytes | memoryview:
    if datatype.wire is not None:
        if array.dtype is datatype.dtype:
            return array.tobytes()
        return np.ascontiguousarray(array, datatype.wire).tobytes()
    parts: list[bytes] = []
    for item in array.flat:
        content = item if type(item) is bytes else item.encode()
        parts += (_LENGTH.pack(len(content)), content)
    return b"".join(parts)
