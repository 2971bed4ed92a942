# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Facts of an ONNX model file: what goes in, what comes out, which operators it needs."""

from __future__ import annotations

import contextlib
import typing as t
from pathlib import Path

ONNX_IMPORT_ERROR: str | None = None
try:
    import onnx
except ImportError as import_error:
    ONNX_IMPORT_ERROR = str(import_error)

#: ONNX element type → datatype of the Open Inference Protocol (V2). Others have no V2 name.
_V2_DATATYPES = {
    "FLOAT": "FP32",
    "DOUBLE": "FP64",
    "FLOAT16": "FP16",
    "BFLOAT16": "BF16",
    "INT8": "INT8",
    "INT16": "INT16",
    "INT32": "INT32",
    "INT64": "INT64",
    "UINT8": "UINT8",
    "UINT16": "UINT16",
    "UINT32": "UINT32",
    "UINT64": "UINT64",
    "BOOL": "BOOL",
    "STRING": "BYTES",
}


class ModelFileError(Exception):
    """A file that is not a usable ONNX model; the message says what is wrong with it."""


def _tensor(value: t.Any) -> dict[str, t.Any]:
    """Describe one input or output: V2 datatype, shape (-1 where any size fits), names of the dynamic axes."""
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return {"name": value.name, "datatype": kind or "unknown", "shape": [], "dynamic_axes": {}}
    element = onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type)
    shape: list[int] = []
    dynamic: dict[str, str] = {}
    for axis, dimension in enumerate(value.type.tensor_type.shape.dim):
        size = dimension.dim_value if dimension.HasField("dim_value") else -1
        if size < 0 or (size == 0 and not dimension.HasField("dim_value")):
            dynamic[str(axis)] = dimension.dim_param
            size = -1
        shape.append(int(size))
    return {
        "name": value.name,
        "datatype": _V2_DATATYPES.get(element, element),
        "shape": shape,
        "dynamic_axes": dynamic,
    }


def _graphs(graph: t.Any) -> t.Iterator[t.Any]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)
            for inner in attribute.graphs:
                yield from _graphs(inner)


def _external_files(graph: t.Any) -> list[str]:
    """Name the files beside the model that hold its weights."""
    names: set[str] = set()
    for part in _graphs(graph):
        for tensor in part.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                names.update(entry.value for entry in tensor.external_data if entry.key == "location")
    return sorted(names)


def _parameters(graph: t.Any) -> int:
    total = 0
    for part in _graphs(graph):
        for tensor in part.initializer:
            count = 1
            for size in tensor.dims:
                count *= int(size)
            total += count
    return total


def model_facts(path: Path, check: bool = True) -> dict[str, t.Any]:
    """Read the facts of a model file.

    :param path: an ONNX file; weights in files beside it are not read.
    :param check: whether the structure is checked in full by ONNX's own checker.
    :returns: see the return values of the module ``onnx_model_info``; sizes in bytes.
    :raises ModelFileError: it cannot be read, is no ONNX model, or is damaged.
    """
    if ONNX_IMPORT_ERROR is not None:
        raise ModelFileError(f"the Python package onnx is needed: {ONNX_IMPORT_ERROR}")
    try:
        size = path.stat().st_size
        model = onnx.load(str(path), load_external_data=False)
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror}") from error
    except Exception as error:  # protobuf's decode errors have no common base
        raise ModelFileError(f"{path} is not an ONNX model, or is damaged: {error}") from error
    if not model.HasField("graph") or not model.graph.output or not model.opset_import:
        raise ModelFileError(f"{path} is not an ONNX model: it has no graph with outputs, or no operator set")
    if check:
        try:
            onnx.checker.check_model(str(path) if _external_files(model.graph) else model)
        except Exception as error:  # the checker raises errors of several kinds
            raise ModelFileError(f"{path} is damaged: {str(error).strip().splitlines()[0]}") from error
    weights = {tensor.name for tensor in model.graph.initializer}
    operators: dict[str, int] = {}
    for part in _graphs(model.graph):
        for node in part.node:
            name = f"{node.domain}:{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
            operators[name] = operators.get(name, 0) + 1
    inputs = [_tensor(value) for value in model.graph.input if value.name not in weights]
    external = _external_files(model.graph)
    external_bytes = 0
    for name in external:
        with contextlib.suppress(OSError):
            external_bytes += (path.parent / name).stat().st_size
    return {
        "inputs": inputs,
        "outputs": [_tensor(value) for value in model.graph.output],
        "batchable": bool(inputs) and all(tensor["shape"][:1] == [-1] for tensor in inputs),
        "opset": {entry.domain or "ai.onnx": int(entry.version) for entry in model.opset_import},
        "ir_version": int(model.ir_version),
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "metadata": {entry.key: entry.value for entry in model.metadata_props},
        "operators": dict(sorted(operators.items())),
        "parameters": _parameters(model.graph),
        "external_files": external,
        "size": size,
        "external_size": external_bytes,
    }
