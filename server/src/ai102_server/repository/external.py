# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Which files an ONNX model keeps its weights in, read from its bytes without the package ``onnx``.

A model that is loaded from memory has no directory, so ONNX Runtime would look for such files in the process's working
directory. They must be handed over with the model instead, and for that they must be known.

Format: https://protobuf.dev/programming-guides/encoding/ and onnx.proto
(https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

__all__ = ["external_files"]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_DEPTH: Final = 64
_EXTERNAL: Final = 1

# Fields of a message that lead to tensors: message → field → message of that field.
_PATHS: Final[dict[str, dict[int, str]]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_INITIALISER: Final = ("model", "graph", "tensor")
_EXTERNAL_DATA: Final = 13
_DATA_LOCATION: Final = 14
_KEY: Final = 1
_VALUE: Final = 2


def external_files(model: bytes) -> tuple[str, ...]:
    """Locations of external data that the graph's initialisers name, each once.

    Raises ``ValueError``: it is no ONNX model, or a tensor elsewhere (in a subgraph, an attribute) names such a file,
    which ONNX Runtime does not take from memory.
    """
    found: dict[str, None] = {}
    _walk(memoryview(model), ("model",), found)
    return tuple(found)


def _walk(message: memoryview, path: tuple[str, ...], found: dict[str, None]) -> None:
    if len(path) > _MAX_DEPTH:
        raise ValueError("is nested too deeply")
    if path[-1] == "tensor":
        location = _location(message)
        if location is not None:
            if path != _INITIALISER:
                raise ValueError(
                    f"keeps weights of a subgraph or an attribute in the file {location!r}, which ONNX Runtime takes "
                    "from the disk only: save the model with all weights inside, or do not encrypt it"
                )
            found[location] = None
        return
    inner = _PATHS[path[-1]]
    for field, value in _fields(message):
        kind = inner.get(field)
        if kind is not None and isinstance(value, memoryview):
            _walk(value, (*path, kind), found)


def _location(message: memoryview) -> str | None:
    """The file that a tensor's content is in; None when it is in the model."""
    location = ""
    external = False
    for field, value in _fields(message):
        if field == _DATA_LOCATION:
            external = value == _EXTERNAL
        elif field == _EXTERNAL_DATA and isinstance(value, memoryview):
            entry = {key: bytes(text) for key, text in _fields(value) if isinstance(text, memoryview)}
            if entry.get(_KEY) == b"location":
                location = entry.get(_VALUE, b"").decode(errors="replace")
    return location if external else None


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Each field of a message: its number, and its content where it is of variable length, else its number or 0."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        wire = tag & 7
        if wire == _VARINT:
            value, at = _varint(message, at)
            yield tag >> 3, value
            continue
        if wire == _BYTES:
            size, at = _varint(message, at)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError("is not an ONNX model")
        if size > len(message) - at:
            raise ValueError("is cut off")
        yield tag >> 3, message[at : at + size] if wire == _BYTES else 0
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(message) or shift > 63:  # noqa: PLR2004 - a varint has 64 bits
            raise ValueError("is cut off")
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:  # noqa: PLR2004 - the continuation bit
            return value, at
