# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""One ONNX Runtime session: its options, its tensors in terms of the protocol, and the provider it really has."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort

from ai102_server.codec import TensorSpec, from_onnx
from ai102_server.codec.datatypes import Array
from ai102_server.codec.ortvalues import needs_ort_values, run_with_ort_values
from ai102_server.config import Execution
from ai102_server.config.execution import NVIDIA
from ai102_server.errors import ModelError, RequestError

__all__ = ["ModelSession", "prepare_providers", "sample_inputs"]

logger = logging.getLogger(__name__)

_OPTIMISATION: Final = {
    "disabled": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
_SEVERITY_ERROR: Final = 3


def prepare_providers(execution: Execution) -> None:
    """Do what must be done once in a process before its first session.

    CUDA and cuDNN that came as Python packages are not on the loader's path: ONNX Runtime is told to load them.
    """
    ort.set_default_logger_severity(_SEVERITY_ERROR)
    if not NVIDIA.isdisjoint(execution.providers) and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()


class ModelSession:
    """A loaded model. ``run`` may be called from several threads at once; ONNX Runtime releases the interpreter."""

    def __init__(
        self,
        model: Path | bytes,
        execution: Execution,
        *,
        where: str | None = None,
        device: int = 0,
        sha256: str = "",
        external: Mapping[str, bytes] | None = None,
    ) -> None:
        """Load a model.

        Args:
            model: Path of the ONNX file, or its content.
            execution: Options of the session.
            where: How messages call the model; default: its path.
            device: Number of the GPU.
            sha256: SHA-256 (hex) of the model, by which its optimised graph is kept and found.
            external: Content of the files in which the model keeps weights, for a model that comes as bytes.

        Raises:
            ModelError: ONNX Runtime or the protocol cannot take the model.

        """
        where = where or str(model if isinstance(model, Path) else "model")
        available = ort.get_available_providers()
        providers = [name for name in execution.providers if name in available]
        for name in execution.providers:
            if name not in available:
                logger.warning("execution provider not in this ONNX Runtime", extra={"provider": name})
        options = _options(execution)
        source = str(model) if isinstance(model, Path) else model
        if external:
            sizes = [len(content) for content in external.values()]
            options.add_external_initializers_from_files_in_memory(list(external), list(external.values()), sizes)
        kept = _optimised_model(execution, model, sha256)
        if kept is not None and kept.exists():
            source = str(kept)
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        elif kept is not None:
            options.optimized_model_filepath = str(kept.with_suffix(f".{os.getpid()}"))
        try:
            self._session: Any = ort.InferenceSession(
                source,
                sess_options=options,
                providers=providers or ["CPUExecutionProvider"],
                provider_options=[_provider_options(execution, name, device) for name in providers] or None,
                # A provider that fails must not be replaced behind our back, neither now nor later.
                enable_fallback=0,
            )
        except Exception as error:
            raise ModelError(f"ONNX Runtime cannot load {where}: {_reason(error)}") from error
        if kept is not None and not kept.exists():
            kept.with_suffix(f".{os.getpid()}").rename(kept)
        self.providers: tuple[str, ...] = tuple(self._session.get_providers())
        self.inputs: dict[str, TensorSpec] = _specs(self._session.get_inputs(), "input", where)
        self.outputs: dict[str, TensorSpec] = _specs(self._session.get_outputs(), "output", where)
        self._ort_values = needs_ort_values(self.inputs, self.outputs)
        self._bound = execution.io_binding and self.provider in NVIDIA
        # The method of the compiled class below the Python one, where there is one: the checks in between cost as much
        # as a small model, and the inputs have been checked.
        self._run: Any = getattr(getattr(self._session, "_sess", None), "run", self._session.run)

    @property
    def problem(self) -> str | None:
        """Why it cannot run now; always None: what is in this process can."""
        return None

    @property
    def provider(self) -> str:
        """The execution provider that ONNX Runtime really uses first, as the session itself says."""
        return self.providers[0]

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Compute ``outputs``, in that order. Raises ``RequestError`` (400) when the model refuses the inputs."""
        try:
            if self._ort_values:
                return run_with_ort_values(self._session, outputs, inputs)
            if self._bound:
                return self._run_bound(inputs, outputs)
            result: list[Array] = self._run(outputs, inputs, None)
        except ort.capi.onnxruntime_pybind11_state.InvalidArgument as error:
            raise RequestError(400, f"the model does not take these inputs: {_reason(error)}") from error
        return result

    def _run_bound(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Run with inputs and outputs bound: one copy each way, through memory that the device can reach itself."""
        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for name in outputs:
            binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(binding)
        result: list[Array] = binding.copy_outputs_to_cpu()
        return result

    def sample_inputs(self) -> dict[str, Array]:
        """Inputs of zeros (empty strings), every open axis of length 1: to warm up a model without golden answers."""
        return sample_inputs(self.inputs)


def sample_inputs(specs: Mapping[str, TensorSpec]) -> dict[str, Array]:
    """Inputs of zeros (empty strings), every open axis of length 1."""
    arrays: dict[str, Array] = {}
    for spec in specs.values():
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
    options.enable_cpu_mem_arena = execution.memory_arena
    options.enable_mem_pattern = execution.memory_pattern
    options.log_severity_level = _SEVERITY_ERROR
    return options


def _provider_options(execution: Execution, provider: str, device: int) -> dict[str, str]:
    options = {"device_id": str(device)} if provider in NVIDIA else {}
    return {**options, **execution.provider_options.get(provider, {})}


def _optimised_model(execution: Execution, model: Path | bytes, sha256: str) -> Path | None:
    """Where the optimised graph of a model is kept; None when it is not.

    It fits only the ONNX Runtime, the provider, the options and the processor it was made with. What was decrypted is
    never written. Graphs with parts compiled by TensorRT cannot be written; its engine cache is for them.
    """
    directory = execution.optimised_models
    if directory is None or not sha256 or not isinstance(model, Path) or not NVIDIA.isdisjoint(execution.providers):
        return None
    cpu = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    kind = [line for line in cpu.splitlines() if line.startswith(("model name", "flags"))][:2]
    facts = repr((ort.__version__, execution.providers, execution.graph_optimisation, kind))
    return directory / f"{sha256[:16]}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}.onnx"


def _specs(nodes: Sequence[Any], role: str, where: str) -> dict[str, TensorSpec]:
    specs: dict[str, TensorSpec] = {}
    for node in nodes:
        datatype = from_onnx(node.type)
        if datatype is None:
            hint = "; export it without ZipMap (zipmap=False)" if node.type.startswith("seq(map(") else ""
            raise ModelError(f"{where}: {role} '{node.name}' is of type {node.type}, which V2 cannot carry{hint}")
        shape = tuple(axis if isinstance(axis, int) else -1 for axis in node.shape)
        specs[node.name] = TensorSpec(node.name, datatype, shape)
    return specs


def _reason(error: Exception) -> str:
    """First line of ONNX Runtime's message, without its prefix."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return text.removeprefix("[ONNXRuntimeError] : ")[:300]
