# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""``golden``: record what a model answers, to be asked again wherever it is served."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from ai102_server.codec import decode_request, tensor_to_json
from ai102_server.config import Execution
from ai102_server.engine import ModelSession, prepare_providers
from ai102_server.errors import ServerError
from ai102_server.repository.golden import read_requests

__all__ = ["record", "run_golden"]


def run_golden(model: Path, requests: Sequence[Path], output: Path, tolerance: float, provider: str) -> int:
    """Ask ``model`` all requests of the files, and write the golden answers to ``output``."""
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise ServerError("--tolerance must be a number, 0 or more")
    execution = Execution(providers=(provider,), required_provider=provider)
    prepare_providers(execution)
    session = ModelSession(model, execution)
    if session.provider != provider:
        raise ServerError(f"this ONNX Runtime does not have {provider}; it runs the model on {session.provider}")
    recorded = [record(session, item, tolerance) for path in requests for item in _read(path)]
    # numpy arrays are serialised as they are; the file ends with a line break, as text files do.
    document = orjson.dumps({"requests": recorded}, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_INDENT_2)
    try:
        output.write_bytes(document + b"\n")
    except OSError as error:
        raise ServerError(f"{output} cannot be written: {error.strerror}") from error
    print(f"recorded {len(recorded)} golden answers on {provider} in {output}", file=sys.stderr)
    return 0


def record(session: ModelSession, request: dict[str, Any], tolerance: float) -> dict[str, Any]:
    """One entry of a ``golden.json``. Raises ``RequestError`` when the model does not take the request."""
    decoded = decode_request(orjson.dumps(request), None, session.inputs, session.outputs)
    names = [output.name for output in decoded.outputs]
    arrays = session.run(decoded.inputs, names)
    outputs = [
        tensor_to_json(name, array, session.outputs[name].datatype) for name, array in zip(names, arrays, strict=True)
    ]
    return {"request": request, "response": {"outputs": outputs}, "tolerance": tolerance}


def _read(path: Path) -> list[dict[str, Any]]:
    """Requests of a file, with or without what stands beside them in a ``golden.json``."""
    items = [item.get("request", item) for item in read_requests(path)]
    if not items or not all(isinstance(item, dict) and "inputs" in item for item in items):
        raise ServerError(f"{path} must hold a V2 request with 'inputs', or a list of them")
    return items
