# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Makes an INT8 model of a floating point one."""

from __future__ import annotations

import contextlib
import fnmatch
import importlib.util
import io
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import onnx
import onnx.version_converter
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from ai102_server.errors import ModelError, ServerError
from ai102_server.quantisation.evaluate import Evaluation, Judge, Progress, evaluate
from ai102_server.quantisation.samples import SampleSet
from ai102_server.quantisation.tensorrt import Reader, write_table

__all__ = ["METHODS", "TARGETS", "Options", "Outcome", "quantise"]

logger = logging.getLogger(__name__)

METHODS: Final = ("dynamic", "minmax", "entropy", "percentile")
TARGETS: Final = ("cpu", "gpu")
_CALIBRATION: Final = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
# DequantizeLinear has scales for channels, and the tools expect its form, from here on.
_OPSET: Final = 13
# Not Conv: its dynamic form is several times slower than the original.
_DYNAMIC: Final = ("Attention", "EmbedLayerNormalization", "Gather", "LSTM", "MatMul")


@dataclass(frozen=True)
class Options:
    """How to quantise.

    ``method``: "dynamic" finds the ranges of activations while it runs, the others beforehand from samples. ``target``:
    "cpu" has unsigned activations, which its kernels want; "gpu" symmetric signed ones, which TensorRT wants.
    ``per_channel``: a scale for each channel of a weight. ``exclude``: names of nodes to leave alone, with * and ?.
    ``op_types``: the only kinds of nodes to quantise; empty: all that can be. ``reduce_range``: 7-bit weights, for
    processors without VNNI, whose sums of 8-bit products can saturate. ``percentile``: share of values, in per cent,
    that the range of a tensor covers.
    """

    method: str = "minmax"
    target: str = "cpu"
    per_channel: bool = True
    reduce_range: bool = False
    percentile: float = 99.999
    exclude: tuple[str, ...] = ()
    op_types: tuple[str, ...] = ()
    preprocess: bool = True


@dataclass(frozen=True)
class Outcome:
    """A quantised model, which was written only when ``refused`` is None. ``excluded``: nodes that were left alone."""

    options: Options
    calibration_samples: int
    quantised_nodes: int
    excluded: tuple[str, ...]
    evaluation: Evaluation
    refused: str | None
    table_tensors: int | None = None


def quantise(
    model: Path,
    output: Path,
    options: Options,
    calibration: SampleSet,
    held_out: SampleSet,
    judge: Judge,
    progress: Progress,
    table: Path | None = None,
) -> Outcome:
    """Quantise ``model``, judge it with ``held_out``, and write it to ``output`` when it lost no more than allowed.

    ``table``: directory for TensorRT's calibration table of the original. Raises ``ServerError`` or ``ModelError``;
    then, as after a refusal, ``output`` is untouched.
    """
    _check_output(output)
    # Beside the output, so that the result is moved there in one step.
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".quantise-") as scratch, _quiet():
        prepared = _prepare(model, Path(scratch) / "prepared.onnx", options)
        excluded = _excluded(prepared, options)
        made = Path(scratch) / "quantised.onnx"
        try:
            if options.method == "dynamic":
                _dynamic(prepared, made, options, excluded)
            else:
                _static(prepared, made, options, excluded, Reader(calibration, progress))
        except (ServerError, OSError):
            raise
        except Exception as error:
            raise ModelError(f"{model} cannot be quantised: {_first_line(error)}") from error
        nodes = _quantised_nodes(made)
        if nodes == 0:
            raise ModelError(
                f"{model} has nothing to quantise: no node of a kind that has an INT8 form, or all excluded"
            )
        found = evaluate(model, made, held_out, judge, progress)
        refused = None
        if found.drop > judge.max_drop:
            refused = f"the drop of {found.metric} is {found.drop:.4g}, more than the {judge.max_drop:g} allowed"
        tensors = None
        if refused is None:
            if table is not None:
                calibration_method = _CALIBRATION.get(options.method, CalibrationMethod.MinMax)
                tensors = write_table(model, calibration, calibration_method, table, progress)
            made.chmod(0o644)
            made.replace(output)
    return Outcome(options, len(calibration), nodes, tuple(excluded), found, refused, tensors)


def _check_output(output: Path) -> None:
    if output.exists():
        raise ServerError(f"{output} exists: remove it, or name another --output")
    if not output.parent.is_dir():
        raise ServerError(f"directory {output.parent} does not exist: make it, or name another --output")


def _prepare(model: Path, target: Path, options: Options) -> Path:
    """Shapes of all tensors, and the optimisations that do not depend on the machine; an older opset is converted."""
    try:
        onnx.checker.check_model(str(model))
        newer = target.with_name("newer.onnx")
        document = onnx.load(str(model))
        if any(item.domain in {"", "ai.onnx"} and item.version < _OPSET for item in document.opset_import):
            onnx.save(onnx.version_converter.convert_version(document, _OPSET), str(newer))
            model = newer
    except Exception as error:
        raise ModelError(f"{model} is not a valid ONNX model of our time: {_first_line(error)}") from error
    if not options.preprocess:
        return model
    symbolic = importlib.util.find_spec("sympy") is not None
    for skip in (False, True) if symbolic else (True,):
        try:
            quant_pre_process(str(model), str(target), skip_symbolic_shape=skip, auto_merge=True)
            return target
        except Exception as error:  # noqa: BLE001 (it raises whatever its parts raise, and there is another way)
            logger.info("preparation failed, trying with less", extra={"reason": _first_line(error)})
    return model


def _excluded(model: Path, options: Options) -> list[str]:
    """Names of nodes that the patterns name; each must name one, so that a typing mistake is noticed."""
    names = [node.name for node in onnx.load(str(model), load_external_data=False).graph.node if node.name]
    found: list[str] = []
    for pattern in options.exclude:
        matching = fnmatch.filter(names, pattern)
        if not matching:
            raise ServerError(f"--exclude '{pattern}' names no node; there are, for example: {', '.join(names[:5])}")
        found += [name for name in matching if name not in found]
    return found


def _static(prepared: Path, made: Path, options: Options, excluded: list[str], reader: Reader) -> None:
    gpu = options.target == "gpu"
    extra: dict[str, Any] = {
        "CalibStridedMinMax": reader.portion,
        "ActivationSymmetric": gpu,
        "WeightSymmetric": True,
        "CalibTensorRangeSymmetric": gpu,
        "CalibPercentile": options.percentile,
        # TensorRT wants the bias as it was.
        "QuantizeBias": not gpu,
    }
    quantize_static(
        str(prepared),
        str(made),
        reader,
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(options.op_types) or None,
        per_channel=options.per_channel,
        reduce_range=options.reduce_range,
        activation_type=QuantType.QInt8 if gpu else QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=excluded,
        calibrate_method=_CALIBRATION[options.method],
        extra_options=extra,
    )


def _dynamic(prepared: Path, made: Path, options: Options, excluded: list[str]) -> None:
    if options.target == "gpu":
        raise ServerError(
            "dynamic quantisation is for CPUs: no GPU provider has its operators; choose another --method"
        )
    quantize_dynamic(
        str(prepared),
        str(made),
        op_types_to_quantize=list(options.op_types or _DYNAMIC),
        per_channel=options.per_channel,
        reduce_range=options.reduce_range,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=excluded,
    )


def _quantised_nodes(model: Path) -> int:
    """Nodes that take part in INT8 arithmetic: those with an integer form, and those fed by DequantizeLinear."""
    graph = onnx.load(str(model), load_external_data=False).graph
    restored = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    bridges = {"QuantizeLinear", "DequantizeLinear"}
    return sum(
        node.op_type not in bridges
        and (
            "Integer" in node.op_type
            or node.op_type.startswith("DynamicQuantize")
            or not restored.isdisjoint(node.input)
        )
        for node in graph.node
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what ONNX Runtime's tools say, to the root logger and by print, out of the output."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(before)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]
