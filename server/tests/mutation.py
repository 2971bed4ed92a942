# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Breaks the code on purpose, in one place at a time, and reports what no test notices.

``python tests/mutation.py access codec`` mutates the modules of these packages (``access/limits`` means one module) and
runs their tests, ``tests/test_<package>*.py``, for each mutant, in a copy of ``src`` and ``tests``: the checkout is not
touched. It is no part of the normal run, because it takes minutes to hours; ``--sample`` takes some of the mutants, and
``--jobs`` says how many processes run them.

A mutant is a comparison turned round or moved by one, ``and`` for ``or``, a condition negated, a constant changed, an
arithmetic operator exchanged, a returned value replaced, a raise or an assignment left out.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

SERVER: Final = Path(__file__).parents[1]
PACKAGE: Final = Path("src/ai102_server")
PRELOADED: Final = ("argon2", "casbin", "flask", "hypothesis", "jwt", "numpy", "onnx", "orjson", "yaml")
IGNORE: Final = shutil.ignore_patterns("__pycache__", ".hypothesis", "*.pyc")

COMPARISONS: Final[dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
OPERATORS: Final[dict[type[ast.operator], type[ast.operator]]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}


class Mutant(NamedTuple):
    """A changed module: where, what was changed, and the whole text."""

    module: Path
    line: int
    what: str
    text: str


class Change(NamedTuple):
    """A node to put in the place of another one."""

    place: ast.AST
    field: str
    position: int | None
    new: ast.AST


def _constants(node: ast.Constant) -> Iterator[ast.AST]:
    value = node.value
    if isinstance(value, bool):
        yield ast.Constant(not value)
    elif isinstance(value, (int, float)):
        yield ast.Constant(value + 1)
        if value not in {0, 1}:
            yield ast.Constant(0)
    elif isinstance(value, str):
        yield ast.Constant(f"{value}~")


def _variants(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in the place of a node."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        for operator in COMPARISONS.get(type(node.ops[0]), ()):
            yield ast.Compare(node.left, [operator()], node.comparators)
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
        for value in node.values:
            rest = [item for item in node.values if item is not value]
            yield rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
        yield node.operand
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        yield ast.BinOp(node.left, OPERATORS[type(node.op)](), node.right)
    elif isinstance(node, ast.Constant):
        yield from _constants(node)
    elif isinstance(node, ast.IfExp):
        yield node.body
        yield node.orelse
    elif isinstance(node, (ast.If, ast.While)) and not isinstance(node.test, (ast.Compare, ast.Constant)):
        # A comparison is turned round where it stands.
        yield type(node)(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)
    elif isinstance(node, ast.Return) and node.value is not None and not isinstance(node.value, ast.Constant):
        yield ast.Return(ast.Constant(None))
    elif isinstance(node, (ast.Raise, ast.AugAssign, ast.Assign, ast.Continue, ast.Break, ast.Delete)) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ):
        yield ast.Pass()


def _ignored(node: ast.AST, parent: ast.AST, field: str) -> bool:
    """What is no behaviour: annotations, documentation, imports, names that are exported, text of messages."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        # Documentation, and parts of f-strings.
        if isinstance(parent, (ast.Expr, ast.JoinedStr, ast.FormattedValue)):
            return True
        # Messages of errors, logs and help: prose has spaces.
        return " " in node.value.strip() or node.value in {"utf-8", "surrogatepass", "surrogateescape"}
    if field in {"annotation", "returns", "decorator_list", "type_comment", "keywords_of_class"}:
        return True
    if isinstance(node, (ast.Import, ast.ImportFrom, ast.FormattedValue, ast.JoinedStr)):
        return True
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return True
    if isinstance(node, ast.Assign) and isinstance(parent, (ast.Module, ast.ClassDef)):
        # Without them the module does not load. What they hold is changed all the same.
        return any(isinstance(target, ast.Name) and target.id in {"__all__", "__slots__"} for target in node.targets)
    return False


def _changes(node: ast.AST) -> Iterator[Change]:
    for field, value in ast.iter_fields(node):
        children = value if isinstance(value, list) else [value]
        for index, child in enumerate(children):
            if not isinstance(child, ast.AST) or _ignored(child, node, field):
                continue
            for new in _variants(child):
                if not (isinstance(new, ast.Pass) and isinstance(node, (ast.Module, ast.ClassDef))):
                    yield Change(node, field, index if isinstance(value, list) else None, new)
            yield from _changes(child)


def mutants(module: Path) -> Iterator[Mutant]:
    """All mutants of a module (path below the server's directory)."""
    tree = ast.parse((SERVER / module).read_text(encoding="utf-8"))
    lines = (SERVER / module).read_text(encoding="utf-8").splitlines()
    for change in _changes(tree):
        holder = getattr(change.place, change.field)
        old = holder if change.position is None else holder[change.position]
        line = getattr(old, "lineno", 0)
        if line and "# no mutant" in lines[line - 1]:
            continue
        new = ast.copy_location(copy.copy(change.new), old)
        what = f"{_short(old)}  →  {_short(new)}"
        if change.position is None:
            setattr(change.place, change.field, new)
        else:
            holder[change.position] = new
        text = ast.unparse(ast.fix_missing_locations(tree))
        if change.position is None:
            setattr(change.place, change.field, old)
        else:
            holder[change.position] = old
        yield Mutant(module, line, what, text)


def _short(node: ast.AST) -> str:
    text = " ".join(ast.unparse(ast.fix_missing_locations(node)).split())
    return text if len(text) <= 70 else f"{text[:67]}..."


def modules(target: str) -> list[Path]:
    """Modules of a package such as ``access``, or the one module of ``access/limits``."""
    path = SERVER / PACKAGE / target
    found = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    return [item.relative_to(SERVER) for item in found if item.name != "__init__.py"]


def tests(target: str) -> list[str]:
    """The tests of a package."""
    name = target.split("/", maxsplit=1)[0]
    return [str(path.relative_to(SERVER)) for path in sorted((SERVER / "tests").glob(f"test_{name}*.py"))]


def start(directory: Path, selected: list[str]) -> int:
    """Run the tests of a copy in a process of their own; returns its id. Its exit status is 0 when they pass."""
    child = os.fork()
    if child == 0:
        # A group of its own: what the tests start ends with them.
        os.setsid()
        os.chdir(directory)
        silence = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(silence, stream)
        status = 1
        try:
            sys.argv = ["pytest"]
            status = pytest.main(["-q", "-x", "-p", "no:cacheprovider", "--no-header", *selected])
        finally:
            os._exit(status)
    return child


def survivors(found: list[Mutant], selected: list[str], jobs: int, timeout: float) -> Iterator[Mutant]:
    """Those mutants with which all tests pass."""
    for name in PRELOADED:
        # Each run of the tests has them at once, by the fork.
        importlib.import_module(name)
    sys.dont_write_bytecode = True
    with tempfile.TemporaryDirectory() as root:
        free = [Path(root) / str(number) for number in range(jobs)]
        for directory in free:
            for part in ("src", "tests"):
                shutil.copytree(SERVER / part, directory / part, ignore=IGNORE)
            for name in ("pyproject.toml", "README.md", "LICENSE"):
                shutil.copy(SERVER / name, directory / name)
        if os.waitpid(start(free[0], selected), 0)[1]:
            raise SystemExit("the tests fail without any mutant")
        running: dict[int, tuple[Mutant, Path, str, float]] = {}
        waiting = list(reversed(found))
        while waiting or running:
            while waiting and free:
                mutant, directory = waiting.pop(), free.pop()
                path = directory / mutant.module
                good = path.read_text(encoding="utf-8")
                path.write_text(mutant.text, encoding="utf-8")
                running[start(directory, selected)] = mutant, directory, good, time.monotonic() + timeout
                print(f"\r{len(found) - len(waiting)}/{len(found)} ", end="", file=sys.stderr, flush=True)
            child, status = os.waitpid(-1, os.WNOHANG)
            for late in [key for key, value in running.items() if value[3] < time.monotonic()]:
                # It hangs: that is noticed as well.
                os.killpg(late, signal.SIGKILL)
            if not child:
                time.sleep(0.02)
                continue
            mutant, directory, good, _ = running.pop(child)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            (directory / mutant.module).write_text(good, encoding="utf-8")
            free.append(directory)
            if status == 0:
                yield mutant


def main() -> int:
    """Run as a script. Returns 1 when a mutant survived."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", nargs="+", help="package, or package/module")
    parser.add_argument("--sample", type=int, help="take so many mutants of each target, by chance")
    parser.add_argument("--seed", type=int, default=0, help="of the choice (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for the tests of one mutant")
    parser.add_argument("--tests", nargs="+", help="tests to run (default: tests/test_<package>*.py)")
    arguments = parser.parse_args()
    failed = False
    for target in arguments.target:
        found = [mutant for module in modules(target) for mutant in mutants(module)]
        total = len(found)
        if arguments.sample is not None and arguments.sample < total:
            found = random.Random(arguments.seed).sample(found, arguments.sample)
        alive = 0
        for mutant in survivors(found, arguments.tests or tests(target), arguments.jobs, arguments.timeout):
            alive += 1
            print(f"{mutant.module}:{mutant.line}: {mutant.what}", flush=True)
        print(f"{target}: {len(found)} of {total} mutants tried, {alive} survived", flush=True)
        failed = failed or alive > 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
