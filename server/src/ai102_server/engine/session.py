# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""One ONNX Runtime session: its options, its tensors in terms of the protocol, and the provider it really has."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort

from ai102_server.codec import TensorSpec, from_onnx
from ai102_server.codec.datatypes import Array
from ai102_server.config import Execution
from ai102_server.errors import ModelError, RequestError

__all__ = ["ModelSession", "prepare_providers"]

logger = logging.getLogger(__name__)

_OPTIMISATION: Final = {
    "disabled": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
_NVIDIA: Final = {"CUDAExecutionProvider", "TensorrtExecutionProvider"}
_SEVERITY_ERROR: Final = 3


def prepare_providers(execution: Execution) -> None:
    """Do what must be done once in a process before its first session.

    CUDA and cuDNN that came as Python packages are not on the loader's path: ONNX Runtime is told to load them.
    """
    ort.set_default_logger_severity(_SEVERITY_ERROR)
    if not _NVIDIA.isdisjoint(execution.providers) and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()


class ModelSession:
    """A loaded model. ``run`` may be called from several threads at once; ONNX Runtime releases the interpreter."""

    def __init__(self, path: Path, execution: Execution) -> None:
        """Load the model at ``path``. Raises ``ModelError`` when ONNX Runtime or the protocol cannot take it."""
        available = ort.get_available_providers()
        providers = [name for name in execution.providers if name in available]
        for name in execution.providers:
            if name not in available:
                logger.warning("execution provider not in this ONNX Runtime", extra={"provider": name})
        try:
            self._session: Any = ort.InferenceSession(
                str(path),
                sess_options=_options(execution),
                providers=providers or ["CPUExecutionProvider"],
                provider_options=[dict(execution.provider_options.get(name, {})) for name in providers] or None,
                # A provider that fails must not be replaced behind our back, neither now nor later.
                enable_fallback=0,
            )
        except Exception as error:
            raise ModelError(f"ONNX Runtime cannot load {path}: {_reason(error)}") from error
        self.providers: tuple[str, ...] = tuple(self._session.get_providers())
        self.inputs: dict[str, TensorSpec] = _specs(self._session.get_inputs(), "input", path)
        self.outputs: dict[str, TensorSpec] = _specs(self._session.get_outputs(), "output", path)

    @property
    def provider(self) -> str:
        """The execution provider that ONNX Runtime really uses first, as the session itself says."""
        return self.providers[0]

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Compute ``outputs``, in that order. Raises ``RequestError`` (400) when the model refuses the inputs."""
        try:
            result: list[Array] = self._session.run(outputs, inputs)
        except ort.capi.onnxruntime_pybind11_state.InvalidArgument as error:
            raise RequestError(400, f"the model does not take these inputs: {_reason(error)}") from error
        return result

    def sample_inputs(self) -> dict[str, Array]:
        """Inputs of zeros (empty strings), every open axis of length 1: to warm up a model without golden answers."""
        arrays: dict[str, Array] = {}
        for spec in self.inputs.values():
            shape = tuple(1 if axis < 0 else axis for axis in spec.shape)
            fill: Any = "" if spec.datatype.kind == "O" else 0
            arrays[spec.name] = np.full(shape, fill, dtype=spec.datatype.dtype)
        return arrays


def _options(execution: Execution) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = execution.intra_op_threads
    options.inter_op_num_threads = execution.inter_op_threads
    if execution.inter_op_threads != 1:
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    options.graph_optimization_level = _OPTIMISATION[execution.graph_optimisation]
    spinning = "1" if execution.allow_spinning else "0"
    options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    options.add_session_config_entry("session.inter_op.allow_spinning", spinning)
    options.log_severity_level = _SEVERITY_ERROR
    return options


def _specs(nodes: Sequence[Any], role: str, path: Path) -> dict[str, TensorSpec]:
    specs: dict[str, TensorSpec] = {}
    for node in nodes:
        datatype = from_onnx(node.type)
        if datatype is None:
            hint = "; export it without ZipMap (zipmap=False)" if node.type.startswith("seq(map(") else ""
            raise ModelError(f"{path}: {role} '{node.name}' is of type {node.type}, which V2 cannot carry{hint}")
        shape = tuple(axis if isinstance(axis, int) else -1 for axis in node.shape)
        specs[node.name] = TensorSpec(node.name, datatype, shape)
    return specs


def _reason(error: Exception) -> str:
    """First line of ONNX Runtime's message, without its prefix."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return text.removeprefix("[ONNXRuntimeError] : ")[:300]
