# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""``convert``: TensorFlow SavedModels to ONNX, by tf2onnx.

TensorFlow is large and pins other libraries: it is an optional extra (``ai102-server[convert]``), and the conversion
runs in an interpreter of its own, which may be that of another environment (``--python``). The result is compared with
the original there, on random inputs, before it is written.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from ai102_server.cli.saved_model import MISSING
from ai102_server.errors import ModelError, ServerError

__all__ = ["add_parser"]

_SCRIPT: Final = Path(__file__).with_name("saved_model.py")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``convert``."""
    parser = commands.add_parser(
        "convert",
        help="convert a TensorFlow SavedModel to ONNX",
        description="Convert a TensorFlow SavedModel to ONNX and compare both on random inputs; a result that answers "
        "otherwise is not written. Needs TensorFlow: pip install 'ai102-server[convert]', or --python.",
    )
    parser.add_argument("--saved-model", type=Path, required=True, metavar="DIRECTORY", help="with saved_model.pb")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="model to write; must not exist")
    parser.add_argument("--signature", default="serving_default", metavar="NAME", help="default: %(default)s")
    parser.add_argument("--opset", type=int, default=17, help="default: %(default)s")
    parser.add_argument("--tolerance", type=float, default=1e-3, metavar="NUMBER",
                        help="largest difference, as a share of the largest element; default: %(default)s")  # fmt: skip
    parser.add_argument("--python", type=Path, default=Path(sys.executable), metavar="FILE",
                        help="interpreter that has tensorflow and tf2onnx (default: this one)")  # fmt: skip
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    source, output = arguments.saved_model, arguments.output
    if not (source / "saved_model.pb").is_file():
        raise ServerError(f"{source} is not a SavedModel: it has no saved_model.pb")
    if output.exists():
        raise ServerError(f"{output} exists: remove it, or name another --output")
    if not output.parent.is_dir():
        raise ServerError(f"directory {output.parent} does not exist: make it, or name another --output")
    # Beside the output, so that the result is moved there in one step.
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".convert-") as scratch:
        made = Path(scratch) / "model.onnx"
        job = {
            "model": str(source.resolve()),
            "signature": arguments.signature,
            "opset": arguments.opset,
            "tolerance": arguments.tolerance,
            "output": str(made.resolve()),
        }
        found = _convert(arguments.python, job)
        made.chmod(0o644)
        made.replace(output)
    print(
        f"wrote {output}: inputs {', '.join(found['inputs'])}, outputs {', '.join(found['outputs'])}; "
        f"differs from TensorFlow {found['tensorflow']} by {found['difference']:.2g} at most",
        file=sys.stderr,
    )
    return 0


def _convert(python: Path, job: dict[str, object]) -> dict[str, Any]:
    # Isolated: neither the working directory nor this environment's path decides what is called tensorflow.
    command = [str(python), "-I", str(_SCRIPT), json.dumps(job)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (the one named)
    except OSError as error:
        raise ServerError(f"{python} cannot be run: {error.strerror}") from error
    lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
    if done.returncode == MISSING:
        raise ServerError(
            f"{python} has no {lines[-1]}: pip install 'ai102-server[convert]' there, or name an interpreter that has "
            "tensorflow, tf2onnx, onnx and onnxruntime with --python"
        )
    if done.returncode != 0:
        raise ModelError(f"{job['model']} cannot be converted: {lines[-1][:500]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found
