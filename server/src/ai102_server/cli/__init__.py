# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""The command line ``ai102-server``. Each command imports what it needs when it runs, so that ``--help`` is quick."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ai102_server import __version__
from ai102_server.cli import account, bench, convert, gpu_exporter, health, package, privacy, quantize
from ai102_server.cli.target import add_target_options
from ai102_server.errors import ServerError

__all__ = ["main"]

Command = Callable[[argparse.Namespace], int]


def _serve(arguments: argparse.Namespace) -> int:
    from ai102_server.cli.serving import run_serve

    return run_serve(arguments.config)


def _check(arguments: argparse.Namespace) -> int:
    from ai102_server.cli.serving import run_check

    return run_check(arguments.config, as_json=arguments.json, access_only=arguments.access)


def _predict(arguments: argparse.Namespace) -> int:
    from ai102_server.cli.predict import run_predict
    from ai102_server.cli.target import Target

    return run_predict(Target.of(arguments), arguments.model, arguments.version, arguments.request)


def _golden(arguments: argparse.Namespace) -> int:
    from ai102_server.cli.golden import run_golden

    return run_golden(arguments.model, arguments.request, arguments.output, arguments.tolerance, arguments.provider)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ai102-server", description="Serve ONNX models over the Open Inference Protocol V2."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="run the server")
    serve.add_argument("--config", type=Path, required=True, metavar="FILE", help="configuration (YAML)")
    serve.set_defaults(run=_serve)

    check = commands.add_parser("check", help="validate configuration, TLS files and models, and ask golden answers")
    check.add_argument("--config", type=Path, required=True, metavar="FILE", help="configuration (YAML)")
    check.add_argument("--json", action="store_true", help="print the result as JSON")
    check.add_argument("--access", action="store_true", help="only accounts, policy, keys and what refers to them")
    check.set_defaults(run=_check)

    predict = commands.add_parser("predict", help="ask a running server")
    add_target_options(predict)
    predict.add_argument("--model", required=True, help="name of the model")
    predict.add_argument("--version", dest="version", metavar="VERSION", help="version of the model (default: latest)")
    predict.add_argument("--request", default="-", metavar="FILE", help="V2 request as JSON (default: standard input)")
    predict.set_defaults(run=_predict)

    golden = commands.add_parser("golden", help="record golden answers of a model")
    golden.add_argument("--model", type=Path, required=True, metavar="FILE", help="model (.onnx)")
    golden.add_argument(
        "--request", type=Path, action="append", required=True, metavar="FILE",
        help="V2 request as JSON, or a list of them; may be given several times",
    )  # fmt: skip
    golden.add_argument("--output", type=Path, required=True, metavar="FILE", help="golden.json to write")
    golden.add_argument("--tolerance", type=float, default=1e-3, metavar="NUMBER", help="default: %(default)s")
    golden.add_argument("--provider", default="CPUExecutionProvider", metavar="NAME", help="default: %(default)s")
    golden.set_defaults(run=_golden)

    account.add_parser(commands)
    privacy.add_parser(commands)
    quantize.add_parser(commands)
    bench.add_parser(commands)
    convert.add_parser(commands)
    gpu_exporter.add_parser(commands)
    health.add_parser(commands)
    package.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit status: 0, 1 when something is wrong, 2 for wrong arguments."""
    arguments = _parser().parse_args(argv)
    run: Command = arguments.run
    try:
        return run(arguments)
    except ServerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output went away: nothing is left to tell it.
        return 1
