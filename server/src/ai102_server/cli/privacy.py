# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""``privacy``: mask text, and seal and open fields that are handed over between systems.

All of it reads standard input and writes standard output, line by line, so that it fits between other programs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ai102_server.errors import ServerError

if TYPE_CHECKING:
    from ai102_server.privacy import Masker, Sealer

__all__ = ["add_parser", "run_key", "run_mask", "run_open", "run_seal"]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and what belongs to it."""
    privacy = commands.add_parser("privacy", help="mask text; seal and open fields (standard input to output)")
    actions = privacy.add_subparsers(dest="action", required=True, metavar="ACTION")

    mask = actions.add_parser("mask", help="replace what must not be in a log, such as e-mail addresses")
    mask.add_argument(
        "--config", type=Path, metavar="FILE", help="mask as its section privacy says (default: the default kinds)"
    )
    mask.add_argument("--kind", action="append", metavar="KIND", help="mask this kind only; may be given several times")
    mask.set_defaults(run=run_mask)

    for name, run, what in (
        ("seal", run_seal, "seal each line, or fields of JSON lines (AES-256-GCM)"),
        ("open", run_open, "the inverse of seal"),
    ):
        action = actions.add_parser(name, help=what)
        keys = action.add_mutually_exclusive_group(required=True)
        keys.add_argument("--keys", type=Path, metavar="FILE", help="key file; its first key seals")
        keys.add_argument("--config", type=Path, metavar="FILE", help="the key file that its privacy.seal_keys names")
        action.add_argument(
            "--context",
            required=True,
            help="what the field is and for whom, such as orders/customer; both sides say it",
        )
        action.add_argument(
            "--field", action="append", default=[], metavar="NAME",
            help="the lines are JSON objects, of which this field is meant; may be given several times",
        )  # fmt: skip
        action.set_defaults(run=run)

    key = actions.add_parser("key", help="print a new line for a key file")
    key.add_argument("--id", required=True, metavar="NAME", help="id of the key, such as 2026-01")
    key.set_defaults(run=run_key)


def run_mask(arguments: argparse.Namespace) -> int:
    """Mask standard input."""
    masker = _masker(arguments.config, arguments.kind)
    # Bytes that are not UTF-8 come out as they came in.
    _each_line(sys.stdin.buffer, masker.mask)
    return 0


def run_seal(arguments: argparse.Namespace) -> int:
    """Seal standard input."""
    sealer, context = _sealer(arguments), arguments.context

    def seal(value: object) -> str:
        import orjson

        # Other values than text are sealed as JSON, and marked so that they come back as they were.
        plain = isinstance(value, str) and not value.startswith("\0")
        return sealer.seal(str(value) if plain else f"\0{orjson.dumps(value).decode()}", context)

    _each_line(sys.stdin.buffer, _of_fields(arguments.field, seal))
    return 0


def run_open(arguments: argparse.Namespace) -> int:
    """Open standard input. Ends at the first line that cannot be opened."""
    sealer, context = _sealer(arguments), arguments.context

    def unseal(value: object) -> object:
        import orjson

        if not isinstance(value, str):
            raise ServerError("the field is not text, so it is not sealed")
        opened = sealer.open(value, context)
        return orjson.loads(opened[1:]) if opened.startswith("\0") else opened

    _each_line(sys.stdin.buffer, _of_fields(arguments.field, unseal))
    return 0


def run_key(arguments: argparse.Namespace) -> int:
    """Print a line for a key file."""
    from ai102_server.privacy import new_key_line

    try:
        sys.stdout.write(new_key_line(arguments.id))
    except ValueError as error:
        raise ServerError(f"--id: {error}") from None
    return 0


def _masker(config: Path | None, kinds: list[str] | None) -> Masker:
    from ai102_server.config import load_config
    from ai102_server.privacy import DEFAULT_KINDS, KINDS, Masker

    unknown = [kind for kind in kinds or [] if kind not in KINDS]
    if unknown:
        raise ServerError(f"--kind '{unknown[0]}' is not one of {', '.join(KINDS)}")
    if config is None:
        return Masker(kinds or DEFAULT_KINDS)
    privacy = load_config(config).privacy
    return Masker(kinds or privacy.mask, privacy.patterns)


def _sealer(arguments: argparse.Namespace) -> Sealer:
    from ai102_server.config import load_config
    from ai102_server.privacy import Keyring, KeySource, Sealer

    if arguments.keys is not None:
        return Sealer(Keyring.load(KeySource(file=arguments.keys)))
    source = load_config(arguments.config).privacy.seal_keys
    if source is None:
        raise ServerError(f"{arguments.config}: privacy.seal_keys is missing: say where the keys are")
    return Sealer(Keyring.load(source))


def _of_fields(fields: Iterable[str], change: Callable[[object], object]) -> Callable[[str], str]:
    """What changes a line: all of it, or fields of the JSON object that it is."""
    import orjson

    names = list(fields)

    def whole(line: str) -> str:
        return str(change(line))

    def some(line: str) -> str:
        if not line.strip():
            return line
        try:
            document: Any = orjson.loads(line)
        except orjson.JSONDecodeError:
            document = None
        if not isinstance(document, dict):
            raise ServerError("is not a JSON object")
        for name in names:
            if document.get(name) is not None:
                document[name] = change(document[name])
        return orjson.dumps(document).decode()

    return some if names else whole


def _each_line(stream: BinaryIO, change: Callable[[str], str]) -> None:
    output = sys.stdout.buffer
    for number, raw in enumerate(stream, 1):
        end = b"\n" if raw.endswith(b"\n") else b""
        line = raw.removesuffix(b"\n").decode("utf-8", "surrogateescape")
        try:
            changed = change(line)
        except ServerError as error:
            output.flush()
            raise ServerError(f"line {number}: {error}") from None
        output.write(changed.encode("utf-8", "surrogateescape") + end)
        # Whoever reads may want each line as it comes.
        output.flush()
