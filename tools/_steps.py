# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs named steps, a few at a time: one line for each that ends, and the whole log of each that failed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from _console import CACHE, ROOT, Stopwatch, say

LOGS = CACHE / "logs"
LIMIT_SECONDS = 45 * 60
PASSED = re.compile(r"\b(\d+) (?:tests )?passed\b")
REASON = re.compile(r"^(?:E  |FAILED|ERROR|error:|fatal:|ended after|Traceback|\S*Error\b)|: error:|FAILED:|\[ERROR\]")
REASONS_MAX = 15


@dataclass(frozen=True)
class Step:
    """Commands that are judged together.

    Attributes:
        name: Short name, of which the log's name is made.
        commands: Run one after the other; the first that fails ends the step.
        env: Additions to the environment.
        after: Name of a step that must have ended, whatever became of it.
        detail: Where its commands write more than they print; of use when the step was ended for its time.
    """

    name: str
    commands: Sequence[Sequence[str | Path]]
    env: dict[str, str] = field(default_factory=dict)
    after: str = ""
    detail: Path | None = None

    @property
    def log(self) -> Path:
        """Where the output goes."""
        return LOGS / f"{re.sub('[^a-z0-9.]+', '-', self.name.lower())}.log"


@dataclass(frozen=True)
class Result:
    """What became of a step.

    Attributes:
        step: The step.
        ok: Whether all its commands ended with 0.
        seconds: How long it took.
        tests: Tests that passed in it, as far as its output tells.
    """

    step: Step
    ok: bool
    seconds: float
    tests: int


class Runner:
    """Runs steps and keeps count over several groups of them.

    Args:
        total: How many steps there will be, for the progress.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._watch = Stopwatch()
        self._lock = threading.Lock()
        self.results: list[Result] = []

    def run(self, steps: Sequence[Step], workers: int = 2) -> bool:
        """Run a group of steps, in their order, several at a time.

        Args:
            steps: The steps.
            workers: How many run at once.

        Returns:
            Whether all of them passed.
        """
        LOGS.mkdir(parents=True, exist_ok=True)
        before = len(self.results)
        waiting = list(steps)
        running: set[Future[None]] = set()
        with ThreadPoolExecutor(max_workers=workers) as pool:
            while waiting or running:
                names = {step.name for step in steps} - {result.step.name for result in self.results}
                for step in [step for step in waiting if step.after not in names][: workers - len(running)]:
                    waiting.remove(step)
                    running.add(pool.submit(self._run, step))
                ended, running = wait(running, return_when=FIRST_COMPLETED)
                for future in ended:
                    future.result()
        return all(result.ok for result in self.results[before:])

    def _run(self, step: Step) -> None:
        watch = Stopwatch()
        ok = True
        with step.log.open("w") as sink:
            for command in step.commands:
                words = [str(word) for word in command]
                print(f"$ {' '.join(words)}", file=sink, flush=True)
                if not _execute(words, {**os.environ, **step.env}, sink.fileno()):
                    ok = False
                    break
        output = step.log.read_text(errors="replace")
        tests = sum(int(number) for line in output.splitlines() for number in PASSED.findall(line)[:1])
        with self._lock:
            self.results.append(Result(step, ok, watch.seconds, tests))
            count = f", {tests} tests" if tests else ""
            say(
                f"[{len(self.results)}/{self._total}] {step.name}: {'passed' if ok else 'FAILED'}"
                f" ({watch}{count}; so far {self._watch})"
            )
            if not ok:
                say(f"--- {step.log.relative_to(ROOT)} ---\n{output.rstrip()}\n--- end ---")

    def passed(self, step: Step) -> bool:
        """Tell whether a step was run and passed."""
        return any(result.ok for result in self.results if result.step is step)

    def summary(self) -> bool:
        """Print where the time went and, last, how many passed; return whether all did."""
        say(f"\n{'step':<28} {'seconds':>8}")
        for result in self.results:
            say(f"{result.step.name:<28} {result.seconds:>8.0f}{'' if result.ok else '  FAILED'}")
        failed = self._total - sum(result.ok for result in self.results)  # what could not run has not passed
        passed = sum(result.tests or 1 for result in self.results if result.ok)
        for result in self.results:
            if not result.ok:
                say(f"\nwhy {result.step.name} failed, from {result.step.log.relative_to(ROOT)}:")
                say("\n".join(reasons(result.step.log.read_text(errors="replace"))))
                if result.step.detail is not None and result.step.detail.exists():
                    say(f"and the end of {result.step.detail.relative_to(ROOT)}:")
                    say("\n".join(reasons(result.step.detail.read_text(errors="replace"))))
        say(f"in {self._watch}, {self._total - failed} of {self._total} steps passed\n")
        say(f"{passed} passed, {failed} failed")
        return failed == 0


def reasons(output: str) -> list[str]:
    """Pick the lines of a log that say why its step failed; its last lines where none does."""
    lines = [line.rstrip()[:300] for line in output.splitlines() if line.strip()]
    return ([line for line in lines if REASON.search(line)] or lines)[-REASONS_MAX:]


def _execute(words: list[str], env: dict[str, str], sink: int) -> bool:
    """Run a command with its output in a file; end it, and what it started, when it takes too long."""
    process = subprocess.Popen(
        words, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True
    )
    try:
        return process.wait(timeout=LIMIT_SECONDS) == 0
    except subprocess.TimeoutExpired:
        os.write(sink, f"\nended after {LIMIT_SECONDS // 60} minutes\n".encode())
        return False
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
