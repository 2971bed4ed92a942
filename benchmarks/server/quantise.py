#!/usr/bin/env python3
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Quantises the models of the benchmark with `ai102-server quantize` and writes what they are worth.

    python benchmarks/server/quantise.py

Writes quantisation.json and quantisation.md. MiniLM is judged by the cosine of its embeddings of 500 sentences,
PP-OCR's classifier by its accuracy for 1,000 rendered text lines with labels, EfficientNet-Lite0 by how often it agrees
with the original on 108 cut-outs of photographs (there are no labelled ones in packages).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import environments
from environments import CACHE, DATA, HERE, ROOT, Failure, say
from run import machine


@dataclass(frozen=True)
class Job:
    """One way to quantise a model. ``limit``: the drop beyond which it is refused."""

    model: str
    label: str
    options: tuple[str, ...]
    metric: str
    limit: float


ACCURACY, COSINE, AGREEMENT = ("accuracy", 0.01), ("cosine", 0.01), ("agreement", 0.05)
MATMUL, CONV = ("--op-type", "MatMul"), ("--op-type", "Conv", "--op-type", "MatMul", "--op-type", "Gemm")
PERCENTILE = ("--method", "percentile", "--percentile", "99.99")
JOBS = (
    Job("minilm", "dynamic", ("--method", "dynamic"), *COSINE),
    Job("minilm", "dynamic, only MatMul", ("--method", "dynamic", *MATMUL), *COSINE),
    Job("minilm", "static, MinMax, only MatMul", ("--method", "minmax", *MATMUL), *COSINE),
    Job("minilm", "static, percentile 99.99, only MatMul", (*PERCENTILE, *MATMUL), *COSINE),
    Job("ocr", "static, MinMax", ("--method", "minmax"), *ACCURACY),
    Job("ocr", "static, entropy", ("--method", "entropy"), *ACCURACY),
    Job("ocr", "static, percentile 99.999", ("--method", "percentile"), *ACCURACY),
    Job("ocr", "static, MinMax, only Conv and MatMul", ("--method", "minmax", *CONV), *ACCURACY),
    Job("image", "static, MinMax", ("--method", "minmax"), *AGREEMENT),
    Job("image", "static, entropy", ("--method", "entropy"), *AGREEMENT),
    Job("image", "static, percentile 99.99", PERCENTILE, *AGREEMENT),
)
SUFFIX = {"minilm": "json", "ocr": "npz", "image": "npz"}


def quantise(job: Job, python: Path, seconds: float) -> dict[str, Any]:
    """Run the command. Raises Failure when it ends in another way than by success or refusal."""
    directory = CACHE / "quantise"
    output, report = directory / "made.onnx", directory / "report.json"
    for path in (output, report):
        path.unlink(missing_ok=True)
    samples = directory / f"{job.model}-calibrate.{SUFFIX[job.model]}"
    command = [python, "-m", "ai102_server", "quantize", "--model", DATA / job.model / "model.onnx", "--output", output]
    command += ["--samples", samples, "--evaluate", samples.with_stem(f"{job.model}-judge"), "--report", report]
    command += ["--metric", job.metric, "--max-drop", str(job.limit), "--seconds", str(seconds), *job.options]
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "server" / "src")}
    done = subprocess.run([str(part) for part in command], env=environ, capture_output=True, text=True, check=False)
    if not report.exists():
        raise Failure(f"{job.model}, {job.label}: {done.stderr.strip()[-500:]}")
    found: dict[str, Any] = json.loads(report.read_text())
    return {"model": job.model, "label": job.label, **found}


def table(document: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "# INT8 beside the original",
        "",
        f"{document['machine']['cpu']}, one thread, one sample at a time; speed: ratio of medians, measured in turn.",
        "",
        "| model | how | size | speed | judged by | original | INT8 | cosine (mean, lowest) | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for item in document["results"]:
        found = item["evaluation"]
        first = found["comparisons"][0]
        metric = found["metric"]
        before, after = {
            "accuracy": (found["accuracy_original"], found["accuracy_quantised"]),
            "agreement": (1.0, first["agreement"]),
            "cosine": (1.0, first["cosine_mean"]),
        }[metric]
        size, speed = (found[f"{what}_original"] / found[f"{what}_quantised"] for what in ("size", "latency"))
        judged = f"{metric}, {first['rows']} rows | {before:.4f} | {after:.4f}"
        cosine = f"{first['cosine_mean']:.4f}, {first['cosine_min']:.4f}"
        verdict = "refused" if item["refused"] else "written"
        how = f"{item['model']} | {item['label']} | {size:.2f} × smaller | {speed:.2f} ×"
        lines.append(f"| {how} | {judged} | {cosine} | {verdict} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Quantise everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="to measure the speed of each; default: %(default)s"
    )
    parser.add_argument("--output", type=Path, default=HERE / "results")
    arguments = parser.parse_args()
    try:
        environments.models()
        if not (CACHE / "quantise" / "image-judge.npz").exists():
            python = environments.environment("models", HERE / "models.txt") / "python"
            subprocess.run([python, HERE / "quantise_data.py", DATA, CACHE / "quantise"], check=True)
        python = environments.environment("quantise-tools", HERE / "quantise.txt") / "python"
        results = []
        for job in JOBS:
            say(f"{job.model}, {job.label}")
            results.append(quantise(job, python, arguments.seconds))
    except (Failure, subprocess.CalledProcessError) as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    document = {"machine": machine(), "results": results}
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "quantisation.json").write_text(json.dumps(document, indent=1) + "\n")
    text = table(document)
    (arguments.output / "quantisation.md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
