# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""A server process for conformance runs, with models of any kind."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from toolkit import ServerProcess, free_port

__all__ = ["VALUES", "package", "serving"]

VALUES: dict[str, list[Any]] = {
    "BOOL": [True, False, True, True],
    "UINT8": [0, 1, 254, 255],
    "UINT16": [0, 1, 2, 65535],
    "UINT32": [0, 1, 2, 2**32 - 1],
    "UINT64": [0, 1, 2**63, 2**64 - 1],
    "INT8": [-128, -1, 0, 127],
    "INT16": [-(2**15), -1, 0, 2**15 - 1],
    "INT32": [-(2**31), -1, 0, 2**31 - 1],
    "INT64": [-(2**63), -1, 0, 2**63 - 1],
    "FP16": [0.0, -1.5, 65504.0, 0.25],
    "BF16": [0.0, -1.5, 2.0**100, 0.25],
    "FP32": [0.0, -1.5, 2.0**100, 0.1],
    "FP64": [0.0, -1.5, 1e300, 0.1],
    "BYTES": ["", "text", "zwölf", "nul\0inside"],
}
"""Two by two elements of every datatype, the extremes among them."""


def package(root: Path, name: str, model: bytes) -> dict[str, str]:
    """An unsigned package of a model; returns its entry for ``models`` of the configuration."""
    path = root / name
    path.mkdir(parents=True)
    (path / "model.onnx").write_bytes(model)
    files = [{"path": "model.onnx", "sha256": sha256(model).hexdigest(), "size": len(model)}]
    (path / "manifest.json").write_text(json.dumps({"schema": 1, "name": name, "version": "1", "files": files}))
    return {"name": name, "version": "1", "path": str(path)}


@contextmanager
def serving(directory: Path, models: list[dict[str, str]], **config: Any) -> Iterator[ServerProcess]:
    """``ai102-server serve`` on a free port of this machine, until the block ends."""
    document: Mapping[str, Any] = {
        "listen": {"host": "127.0.0.1", "port": free_port()},
        "workers": 1,
        "start": "degraded",
        "models": models,
        "log": {"level": "error", "access": False},
        **config,
    }
    server = ServerProcess(directory, dict(document))
    try:
        server.wait_for("READY=1", 120)
        yield server
    finally:
        server.terminate()
        server.wait()
        server.close()
