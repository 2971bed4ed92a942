# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Golden answers: requests whose answers are known, asked before a model is served."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from ai102_server.codec import Datatype
from ai102_server.codec.datatypes import Array
from ai102_server.errors import ModelError, ServerError

__all__ = ["DEFAULT_TOLERANCE", "GoldenRequest", "compare_tensors", "load_golden", "parse_golden", "read_requests"]

DEFAULT_TOLERANCE: Final = 1e-3
_SHOWN: Final = 3


@dataclass(frozen=True)
class GoldenRequest:
    """A V2 inference request (``body``, JSON) and the outputs it must bring.

    Floating point numbers may differ by ``tolerance * max(1, |expected|)``; everything else must be equal.
    """

    body: bytes
    outputs: tuple[dict[str, Any], ...]
    tolerance: float


def load_golden(path: Path) -> tuple[GoldenRequest, ...]:
    """Read a ``golden.json``. Raises ``ModelError`` when it cannot be used."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"golden answers {path} cannot be read: {error.strerror}") from error
    return parse_golden(content, path)


def parse_golden(content: bytes, path: Path) -> tuple[GoldenRequest, ...]:
    """Read golden answers that came from ``path``. Raises ``ModelError`` when they cannot be used."""
    try:
        document = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise ModelError(f"golden answers {path} are not valid JSON: {error}") from error
    items = document.get("requests") if isinstance(document, dict) else None
    if not isinstance(items, list) or not items:
        raise ModelError(f"golden answers {path} must hold a list 'requests' with at least one entry")
    return tuple(_golden_request(item, f"{path}: requests[{index}]") for index, item in enumerate(items))


def _golden_request(item: object, where: str) -> GoldenRequest:
    if not isinstance(item, dict) or not isinstance(item.get("request"), dict):
        raise ModelError(f"{where} has no 'request'")
    response = item.get("response")
    outputs = response.get("outputs") if isinstance(response, dict) else None
    if not isinstance(outputs, list) or not outputs or not all(isinstance(o, dict) for o in outputs):
        raise ModelError(f"{where} has no 'response' with outputs, so it proves nothing")
    tolerance = item.get("tolerance", DEFAULT_TOLERANCE)
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)) or not tolerance >= 0:
        raise ModelError(f"{where}.tolerance must be a number, 0 or more")
    # The request is asked in the JSON form, whatever parameters it was recorded with.
    return GoldenRequest(orjson.dumps(item["request"]), tuple(outputs), float(tolerance))


def compare_tensors(expected: dict[str, Any], array: Array, datatype: Datatype, tolerance: float) -> str | None:
    """What differs between a recorded V2 output and a computed array; None when they agree."""
    name = expected.get("name")
    if expected.get("datatype") != datatype.name:
        return f"output '{name}' has datatype {datatype.name}, expected {expected.get('datatype')}"
    if expected.get("shape") != list(array.shape):
        return f"output '{name}' has shape {list(array.shape)}, expected {expected.get('shape')}"
    wanted = _flat(expected.get("data"), datatype)
    if wanted is None or wanted.size != array.size:
        return f"output '{name}': the recorded 'data' does not hold {array.size} elements of {datatype.name}"
    got = array.reshape(-1)
    if datatype.kind == "f":
        want64, got64 = wanted.astype(np.float64), got.astype(np.float64)
        with np.errstate(invalid="ignore"):
            near = np.abs(got64 - want64) <= tolerance * np.maximum(1.0, np.abs(want64))
        # JSON has no NaN and no infinities: they are recorded as null, which is read as NaN.
        wrong = ~(near | (np.isnan(want64) & ~np.isfinite(got64)))
    else:
        wrong = wanted != got
    positions = np.flatnonzero(wrong)
    if positions.size == 0:
        return None
    shown = ", ".join(f"[{i}] {got[i]!s:.40} instead of {wanted[i]!s:.40}" for i in positions[:_SHOWN])
    more = ", …" if positions.size > _SHOWN else ""
    return f"output '{name}': {positions.size} of {array.size} elements differ (tolerance {tolerance:g}): {shown}{more}"


def _flat(data: object, datatype: Datatype) -> Array | None:
    """Recorded data, flat or nested, as a flat array; None when it is not of the datatype."""
    try:
        if datatype.kind == "O":
            return np.array(data, dtype=object).reshape(-1)
        # None becomes NaN for floating point, and an error for whole numbers.
        return np.array(data, dtype=datatype.dtype).reshape(-1)
    except (ValueError, TypeError, OverflowError):
        return None


def read_requests(path: Path) -> list[dict[str, Any]]:
    """Entries of a file: one V2 request, a list of them, or a document with ``requests`` such as ``golden.json``.

    Raises ``ServerError`` when it cannot be read or is none of these.
    """
    try:
        document = orjson.loads(path.read_bytes())
    except OSError as error:
        raise ServerError(f"{path} cannot be read: {error.strerror}") from error
    except orjson.JSONDecodeError as error:
        raise ServerError(f"{path} is not valid JSON: {error}") from error
    if isinstance(document, dict):
        document = document.get("requests", [document])
    if not isinstance(document, list) or not all(isinstance(item, dict) for item in document):
        raise ServerError(f"{path} must hold a V2 request with 'inputs', or a list of them")
    return document
