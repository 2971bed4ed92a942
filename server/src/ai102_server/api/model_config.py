# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""A model in the terms of Triton's model configuration, as ``GET /v2/models/<model>/config`` answers it.

Source: ``docs/protocol/extension_model_configuration.md`` of triton-inference-server/server and ``model_config.proto``
of triton-inference-server/common. Clients read types, dimensions and the batch size from it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from ai102_server.codec import TensorSpec
from ai102_server.engine import LoadedModel

__all__ = ["model_config"]

_TYPES: Final = {"BYTES": "TYPE_STRING"}


def model_config(model: LoadedModel) -> dict[str, Any]:
    """The configuration of a model that has a session.

    ``max_batch_size`` is 0, which says that ``dims`` are whole shapes: whether requests are put together is this
    server's own business and never asks clients to leave an axis out.
    """
    return {
        "name": model.name,
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "version_policy": {"specific": {"versions": [int(model.version)]}} if model.version.isdigit() else {},
        "max_batch_size": 0,
        "input": _tensors(model.inputs.values()),
        "output": _tensors(model.outputs.values()),
        "default_model_filename": model.package.model_file.name if model.package is not None else "",
        "parameters": {
            "execution_provider": {"string_value": model.provider or ""},
            "version": {"string_value": model.version},
        },
    }


def _tensors(specs: Iterable[TensorSpec]) -> list[dict[str, Any]]:
    return [
        {
            "name": spec.name,
            "data_type": _TYPES.get(spec.datatype.name, f"TYPE_{spec.datatype.name}"),
            "dims": list(spec.shape),
        }
        for spec in specs
    ]
