# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""``quantize``: an INT8 model from a floating point one, with a report of what it is worth."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ai102_server.errors import ServerError

if TYPE_CHECKING:
    from ai102_server.quantisation import Outcome

__all__ = ["add_parser"]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``quantize``."""
    parser = commands.add_parser(
        "quantize",
        help="make an INT8 model and report what it is worth",
        description="Make an INT8 model, compare it with the original on held-out samples, and write it when it lost "
        "no more than --max-drop. Samples: V2 requests as JSON (one, a list, or {'requests': [...]}), a directory of "
        "such files, or an .npz with an array for each input; labels as 'label' beside 'request', or array 'labels'.",
    )
    add = parser.add_argument
    add("--model", type=Path, required=True, metavar="FILE", help="model (.onnx)")
    add("--output", type=Path, required=True, metavar="FILE", help="quantised model to write; must not exist")
    add("--samples", type=Path, required=True, metavar="PATH", help="samples to calibrate with")
    add("--evaluate", type=Path, metavar="PATH", help="samples to judge with (default: a part of --samples)")
    add("--hold-out", type=float, default=0.25, metavar="SHARE",
        help="part of --samples that is kept to judge with; default: %(default)s")  # fmt: skip
    add("--method", choices=("dynamic", "minmax", "entropy", "percentile"), default="minmax",
        help="how the ranges of activations are found; default: %(default)s")  # fmt: skip
    add("--percentile", type=float, default=99.999, metavar="PERCENT",
        help="share of values that a range covers, for that method; default: %(default)s")  # fmt: skip
    add("--target", choices=("cpu", "gpu"), default="cpu",
        help="gpu: symmetric ranges, as TensorRT wants them; default: %(default)s")  # fmt: skip
    add("--per-tensor", action="store_true", help="one scale for each weight instead of one for each of its channels")
    add("--reduce-range", action="store_true", help="7-bit weights, for processors without VNNI")
    add("--exclude", action="append", default=[], metavar="NODE",
        help="node to leave alone, with * and ?; may be given several times")  # fmt: skip
    add("--op-type", action="append", default=[], metavar="TYPE", help="quantise only nodes of these types (MatMul, …)")
    add("--no-preprocess", action="store_true", help="no shape inference and optimisation beforehand")
    add("--max-drop", type=float, default=0.01, metavar="NUMBER",
        help="refuse when --metric drops by more; default: %(default)s")  # fmt: skip
    add("--metric", choices=("auto", "accuracy", "agreement", "cosine"), default="auto",
        help="default: accuracy when there are labels, else cosine")  # fmt: skip
    add("--provider", default="CPUExecutionProvider", metavar="NAME",
        help="execution provider to judge on; default: %(default)s")  # fmt: skip
    add("--seconds", type=float, default=4.0, help="to measure speed for; default: %(default)s")
    add(
        "--tensorrt-table",
        type=Path,
        metavar="DIRECTORY",
        help="write TensorRT's calibration table too",
    )
    add("--report", type=Path, metavar="FILE", help="write the report as JSON, also after a refusal")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    try:
        from ai102_server.quantisation import Judge, Options, load_samples, quantise, split
        from ai102_server.quantisation.evaluate import open_session
        from ai102_server.quantisation.samples import input_specs, to_json
    except ImportError as error:
        raise ServerError(f"{error.name} is not installed: pip install 'ai102-server[quantize]'") from error
    specs = input_specs(open_session(arguments.model, "CPUExecutionProvider"))
    calibration = load_samples(arguments.samples, specs)
    if arguments.evaluate is None:
        calibration, held_out = split(calibration, arguments.hold_out)
    else:
        if arguments.evaluate.resolve() == arguments.samples.resolve():
            raise ServerError("--evaluate is --samples: what a model was calibrated with says nothing about the rest")
        held_out = load_samples(arguments.evaluate, specs)
    options = Options(
        method=arguments.method,
        target=arguments.target,
        per_channel=not arguments.per_tensor,
        reduce_range=arguments.reduce_range,
        percentile=arguments.percentile,
        exclude=tuple(arguments.exclude),
        op_types=tuple(arguments.op_type),
        preprocess=not arguments.no_preprocess,
    )
    outcome = quantise(
        arguments.model,
        arguments.output,
        options,
        calibration,
        held_out,
        Judge(arguments.metric, arguments.max_drop, arguments.provider, arguments.seconds),
        _progress,
        arguments.tensorrt_table,
    )
    if arguments.report is not None:
        document = json.loads(json.dumps(asdict(outcome)))
        try:
            arguments.report.write_text(to_json(document), encoding="utf-8")
        except OSError as error:
            raise ServerError(f"{arguments.report} cannot be written: {error.strerror}") from error
    print(_table(outcome))
    if outcome.refused is not None:
        print(f"refused: {outcome.refused}; nothing was written", file=sys.stderr)
        return 1
    print(f"wrote {arguments.output}", file=sys.stderr)
    if outcome.table_tensors is not None:
        print(f"wrote the ranges of {outcome.table_tensors} tensors to {arguments.tensorrt_table}", file=sys.stderr)
    return 0


def _progress(items: Sequence[Any], text: str) -> Iterator[Any]:
    """Go through ``items`` with a bar on a terminal, when tqdm is installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        return iter(items)
    return iter(tqdm(items, desc=text, unit="sample", leave=False, disable=None))


def _table(outcome: Outcome) -> str:
    found = outcome.evaluation
    smaller = found.size_original / found.size_quantised
    faster = found.latency_original / found.latency_quantised
    before, after = found.latency_original * 1e3, found.latency_quantised * 1e3
    rows = [
        ("", "original", "INT8"),
        ("size", f"{found.size_original:,} bytes", f"{found.size_quantised:,} bytes ({smaller:.2f} times smaller)"),
        ("latency, median", f"{before:.3f} ms", f"{after:.3f} ms ({faster:.2f} times as fast)"),
    ]
    if found.accuracy_original is not None and found.accuracy_quantised is not None:
        rows.append(("accuracy", f"{found.accuracy_original:.4f}", f"{found.accuracy_quantised:.4f}"))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for item in found.comparisons:
        agreement = "" if item.agreement is None else f", agreement {item.agreement:.4f}"
        lines.append(
            f"{item.output}: cosine {item.cosine_mean:.5f} (lowest {item.cosine_min:.5f}), error at most "
            f"{item.error_max:.4g}, mean {item.error_mean:.4g}{agreement}"
        )
    lines.append(
        f"{outcome.options.method}, {outcome.quantised_nodes} nodes in INT8, {len(outcome.excluded)} excluded; "
        f"calibrated with {outcome.calibration_samples}, judged with {found.samples} samples on {found.provider}; "
        f"drop of {found.metric}: {found.drop:.4g}"
    )
    return "\n".join(lines)
