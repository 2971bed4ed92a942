# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""How ONNX Runtime runs the models: the sections ``execution`` and ``batching``.

What the sections ``cuda`` and ``tensorrt`` say becomes options of these execution providers; any other option of a
provider can be given by its own name in ``provider_options``, which wins. Their names and meanings are in ONNX
Runtime's documentation of the providers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ai102_server.config.reader import (
    Section,
    kind_of,
    to_choice,
    to_flag,
    to_integer,
    to_path,
    to_seconds,
    to_text,
)

__all__ = ["CUDA", "NVIDIA", "TENSORRT", "Batching", "Execution", "processors", "read_batching", "read_execution"]

ENGINES: Final = ("auto", "worker", "process")
GRAPH_OPTIMISATION: Final = ("disabled", "basic", "extended", "all")
BATCHING: Final = ("auto", "always", "never")
CUDA: Final = "CUDAExecutionProvider"
TENSORRT: Final = "TensorrtExecutionProvider"
NVIDIA: Final = frozenset({CUDA, TENSORRT})
MAX_BYTES: Final = 1 << 42


@dataclass(frozen=True)
class Execution:
    """How sessions are made.

    ``devices`` are the GPUs to use, by number; workers are spread over them; empty: all there are.
    ``optimised_models`` is a directory in which optimised graphs are kept, so that the next start need not optimise
    again. ``io_binding``: keep inputs and outputs in pinned memory on the way to and from a GPU. ``engine``: where the
    sessions are, in each worker or in a process of their own for each device, see ``engine_processes``.
    """

    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    required_provider: str | None = None
    engine: str = "auto"
    devices: tuple[int, ...] = ()
    intra_op_threads: int = 1
    inter_op_threads: int = 1
    allow_spinning: bool = False
    graph_optimisation: str = "all"
    optimised_models: Path | None = None
    memory_arena: bool = True
    memory_pattern: bool = True
    io_binding: bool = True
    provider_options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    warmup_runs: int = 2

    @property
    def engine_processes(self) -> bool:
        """Whether each device has a process with the sessions, which all workers use: by itself, on GPUs.

        Not on processors, where workers gain nothing by it and pay for the way to another process and back.
        """
        return self.engine == "process" or (self.engine == "auto" and not NVIDIA.isdisjoint(self.providers))

    def gpus(self) -> tuple[int, ...]:
        """Numbers of the GPUs to use: as said; else all that this process can see, and 0 when it can see none."""
        if self.devices:
            return self.devices
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is not None:
            count = len([item for item in visible.split(",") if item.strip()])
        else:
            count = sum(1 for path in Path("/dev").glob("nvidia*") if path.name.removeprefix("nvidia").isdigit())
        return tuple(range(max(count, 1)))


@dataclass(frozen=True)
class Batching:
    """Whether requests run together. ``delay`` in seconds; ``max_size`` in rows."""

    enabled: str = "auto"
    max_size: int = 32
    delay: float = 0.0


def processors() -> int:
    """Processors that this process may use: those of its affinity, within the quota of its control group."""
    count = len(os.sched_getaffinity(0))
    try:
        own = Path("/proc/self/cgroup").read_text(encoding="ascii").strip().rpartition("::")[2]
        quota, period = Path(f"/sys/fs/cgroup{own}/cpu.max").read_text(encoding="ascii").split()
        if quota != "max":
            count = min(count, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):
        pass
    return count


def read_execution(section: Section) -> Execution:
    """Read the section ``execution``."""
    default = Execution()
    before = len(section.problems)
    options = _named_options(section)
    none: dict[str, dict[str, str]] = {}
    for name, given in section.get("provider_options", none, _provider_options).items():
        options[name] = {**options.get(name, {}), **given}
    execution = Execution(
        providers=section.get("providers", default.providers, _providers),
        required_provider=section.get("required_provider", None, _provider),
        engine=section.get("engine", default.engine, to_choice(ENGINES)),
        devices=section.get("devices", default.devices, _devices),
        intra_op_threads=section.get("intra_op_threads", default.intra_op_threads, to_integer(0, 1024)),
        inter_op_threads=section.get("inter_op_threads", default.inter_op_threads, to_integer(0, 1024)),
        allow_spinning=section.get("allow_spinning", default.allow_spinning, to_flag),
        graph_optimisation=section.get("graph_optimisation", default.graph_optimisation, to_choice(GRAPH_OPTIMISATION)),
        optimised_models=section.get("optimised_models", None, to_path),
        memory_arena=section.get("memory_arena", default.memory_arena, to_flag),
        memory_pattern=section.get("memory_pattern", default.memory_pattern, to_flag),
        io_binding=section.get("io_binding", default.io_binding, to_flag),
        provider_options=options,
        warmup_runs=section.get("warmup_runs", default.warmup_runs, to_integer(0, 1000)),
    )
    # What was reported already would only be reported again in other words.
    if len(section.problems) == before:
        required = execution.required_provider
        if required is not None and required not in execution.providers:
            section.report("required_provider", f"'{required}' is not among providers: add it there")
        for name in execution.provider_options:
            if name not in execution.providers:
                section.report("provider_options", f"'{name}' is not among providers: add it there or remove it here")
    section.finish()
    return execution


def read_batching(section: Section) -> Batching:
    """Read the section ``batching``."""
    default = Batching()
    batching = Batching(
        enabled=section.get("enabled", default.enabled, _enabled),
        max_size=section.get("max_size", default.max_size, to_integer(1, 1 << 16)),
        delay=section.get("delay", default.delay, to_seconds(0, 1)),
    )
    section.finish()
    return batching


def _enabled(value: object) -> str:
    if isinstance(value, bool):
        return "always" if value else "never"
    return to_choice(BATCHING)(value)


# --------------------------------------------------------------------------------------------------------------------
# Options of providers
# --------------------------------------------------------------------------------------------------------------------
def _switch(value: object) -> str:
    return "1" if to_flag(value) else "0"


def _bytes(value: object) -> str:
    return str(to_integer(1 << 20, MAX_BYTES)(value))


def _word(words: Mapping[str, str]) -> Callable[[object], str]:
    choose = to_choice(words)
    return lambda value: words[choose(value)]


_Named = Mapping[str, tuple[str, Callable[[object], str]]]

_CUDA_OPTIONS: Final[_Named] = {
    "memory_limit_bytes": ("gpu_mem_limit", _bytes),
    "arena_strategy": (
        "arena_extend_strategy",
        _word({"next_power_of_two": "kNextPowerOfTwo", "same_as_requested": "kSameAsRequested"}),
    ),
    "algorithm_search": (
        "cudnn_conv_algo_search",
        _word({"exhaustive": "EXHAUSTIVE", "heuristic": "HEURISTIC", "default": "DEFAULT"}),
    ),
    "algorithm_workspace_max": ("cudnn_conv_use_max_workspace", _switch),
    "tf32": ("use_tf32", _switch),
    "graphs": ("enable_cuda_graph", _switch),
    "prefer_nhwc": ("prefer_nhwc", _switch),
    "copy_in_default_stream": ("do_copy_in_default_stream", _switch),
}
_TENSORRT_OPTIONS: Final[_Named] = {
    "workspace_bytes": ("trt_max_workspace_size", _bytes),
    "fp16": ("trt_fp16_enable", _switch),
    "bf16": ("trt_bf16_enable", _switch),
    "int8": ("trt_int8_enable", _switch),
    "calibration_table": ("trt_int8_calibration_table_name", to_text),
    "graphs": ("trt_cuda_graph_enable", _switch),
    "optimisation_level": ("trt_builder_optimization_level", lambda value: str(to_integer(0, 5)(value))),
    "profile_min_shapes": ("trt_profile_min_shapes", to_text),
    "profile_opt_shapes": ("trt_profile_opt_shapes", to_text),
    "profile_max_shapes": ("trt_profile_max_shapes", to_text),
}


def _named_options(section: Section) -> dict[str, dict[str, str]]:
    """What ``cuda`` and ``tensorrt`` say, as options of the providers."""
    options: dict[str, dict[str, str]] = {}
    for provider, key, known in ((CUDA, "cuda", _CUDA_OPTIONS), (TENSORRT, "tensorrt", _TENSORRT_OPTIONS)):
        part = section.section(key)
        given: dict[str, str] = {}
        for name, (option, convert) in known.items():
            if part.has(name):
                value = part.get(name, "", convert)
                given[option] = value
            else:
                part.known.append(name)
        if key == "tensorrt":
            cache = part.get("engine_cache", None, to_path)
            if cache is not None:
                given |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(cache)}
                given |= {"trt_timing_cache_enable": "1", "trt_timing_cache_path": str(cache)}
            if given.get("trt_int8_enable") == "1" and "trt_int8_calibration_table_name" in given:
                # Made by ai102-server quantize, not by TensorRT itself.
                given["trt_int8_use_native_calibration_table"] = "0"
        part.finish()
        if given:
            options[provider] = given
    return options


def _provider(value: object) -> str:
    text = to_text(value)
    if not text.endswith("ExecutionProvider"):
        raise ValueError(f"'{text}' is not an execution provider; write it in full, such as 'CUDAExecutionProvider'")
    return text


def _providers(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError("must be a list of execution providers, the preferred one first")
    names = tuple(_provider(item) for item in value)
    if len(set(names)) != len(names):
        raise ValueError("names an execution provider twice")
    return names


def _devices(value: object) -> tuple[int, ...]:
    if value == "auto":
        return ()
    if not isinstance(value, list) or not value:
        raise ValueError("must be a list of GPU numbers, such as [0, 1], or auto")
    numbers = tuple(to_integer(0, 255)(item) for item in value)
    if len(set(numbers)) != len(numbers):
        raise ValueError("names a GPU twice")
    return numbers


def _provider_options(value: object) -> dict[str, dict[str, str]]:
    if not isinstance(value, dict):
        raise ValueError(f"must map execution providers to their options, not {kind_of(value)}")
    result: dict[str, dict[str, str]] = {}
    for name, options in value.items():
        if not isinstance(options, dict):
            raise ValueError(f"options of '{name}' must be a mapping, not {kind_of(options)}")
        result[_provider(name)] = {str(key): _option(str(key), item) for key, item in options.items()}
    return result


def _option(key: str, value: object) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, (str, int, float)):
        return str(value)
    raise ValueError(f"option '{key}' must be text, a number or true/false, not {kind_of(value)}")
