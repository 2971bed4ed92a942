#!/usr/bin/env python3
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs Molecule scenarios, several at a time, and believes a scenario only when its tests really ran.

Molecule ends with 0 when it finds no test to run. Here a scenario has passed when Molecule ended with 0, every step of
its sequence was executed, and pytest reports passed tests and none skipped.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from _console import CACHE, ROOT, Failure, Stopwatch, apt_install, say
from _steps import reasons

SCENARIOS = ROOT / "molecule"
BASE = ROOT / ".config" / "molecule" / "config.yml"
LONGEST = ("nvidia_driver", "upgrade_driver", "container_runtime", "image")
CLIENTS = ("curl", "skopeo")  # programs of the control node with which scenarios ask hosts and send them images
STEP = re.compile(r"^INFO\s+(?:\[(?P<a>[\w-]+) > (?P<b>\w+)\]|(?P<c>[\w-]+) ➜ (?P<d>\w+):) Executed: Successful")
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
SUMMARY = re.compile(r"^=+ (?P<counts>.*) in [0-9.]+s.* =+$")
COUNT = re.compile(r"(\d+) (passed|failed|skipped|error|errors|xfailed|xpassed|deselected)")


@dataclass(frozen=True)
class Outcome:
    """What became of a scenario.

    Attributes:
        scenario: Its name.
        tests: Number of tests that passed.
        seconds: How long it took.
        problems: Why it has not passed; empty when it has.
        log: Where Molecule's output is.
    """

    scenario: str
    tests: int
    seconds: float
    problems: list[str] = field(default_factory=list)
    log: Path = Path()


def all_scenarios() -> list[str]:
    """List the scenarios of the checkout: those that take longest first, then those with several hosts."""
    names = [path.parent.name for path in SCENARIOS.glob("*/molecule.yml")]
    names.sort(key=lambda name: (LONGEST.index(name) if name in LONGEST else len(LONGEST), -_size(name), name))
    return names


def _size(scenario: str) -> int:
    """Number of its hosts."""
    inventory = (SCENARIOS / scenario / "hosts.yml").read_text()
    return inventory.count("ai102-mol-") + inventory.count("test_host_address: ")


def sequence(scenario: str) -> list[str]:
    """Return the steps that ``molecule test`` must execute for a scenario."""
    steps: list[str] = []
    for path in (BASE, SCENARIOS / scenario / "molecule.yml"):
        content = yaml.safe_load(path.read_text()) or {}
        steps = content.get("scenario", {}).get("test_sequence", steps)
    return steps


def judge(status: int, output: str, steps: list[str]) -> tuple[int, list[str]]:
    """Decide whether a scenario has passed.

    Args:
        status: Molecule's exit status.
        output: Everything it printed.
        steps: The steps that had to be executed.

    Returns:
        The number of tests that passed, and the reasons why the scenario has not (empty when it has).
    """
    lines = [ESCAPE.sub("", line).rstrip() for line in output.splitlines()]
    executed = [match["b"] or match["d"] for match in map(STEP.match, lines) if match]
    counts: dict[str, int] = {}
    for line in lines:
        summary = SUMMARY.match(line)
        for number, kind in COUNT.findall(summary["counts"]) if summary else ():
            counts[kind] = counts.get(kind, 0) + int(number)
    problems = [f"molecule ended with status {status}"] if status else []
    if missing := [step for step in dict.fromkeys(steps) if step not in executed]:
        problems.append(f"not executed: {', '.join(missing)}")
    passed = counts.pop("passed", 0)
    if "verify" in executed and passed == 0:
        problems.append("no test ran")
    problems.extend(f"{number} {kind}" for kind, number in counts.items() if number)
    return passed, problems


def run_one(scenario: str, logs: Path) -> Outcome:
    """Run the whole sequence of one scenario."""
    watch = Stopwatch()
    log = logs / f"molecule-{scenario}.log"
    with log.open("w") as sink:
        status = subprocess.run(
            [Path(sys.executable).parent / "molecule", "test", "-s", scenario, "--no-command-borders"],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            check=False,
            env={
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
                "NO_COLOR": "1",
                "ANSIBLE_FORCE_COLOR": "0",
            },
        ).returncode
    tests, problems = judge(status, log.read_text(), sequence(scenario))
    return Outcome(scenario, tests, watch.seconds, problems, log)


def _tail(log: Path, lines: int) -> str:
    """Return the end of a log, without blank lines."""
    return "\n".join([line for line in log.read_text().splitlines() if line.strip()][-lines:])


def main() -> None:
    """Run the scenarios named on the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenarios", nargs="*", help="names (default: all)")
    parser.add_argument("--exclude", action="append", default=[], help="a scenario to leave out")
    parser.add_argument("--workers", type=int, default=2, help="how many run at once (default: 2)")
    arguments = parser.parse_args()
    known = all_scenarios()
    wanted = [name for name in arguments.scenarios or known if name not in arguments.exclude]
    if unknown := sorted(set(wanted) - set(known)):
        raise Failure(f"There is no scenario {', '.join(unknown)}.", f"there are: {', '.join(sorted(known))}")
    apt_install(name for name in CLIENTS if shutil.which(name) is None)
    logs = CACHE / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    failed: list[Outcome] = []
    with ThreadPoolExecutor(max_workers=arguments.workers) as pool:
        futures = [pool.submit(run_one, name, logs) for name in wanted]
        for number, future in enumerate(as_completed(futures), start=1):
            outcome = future.result()
            verdict = f"FAILED: {'; '.join(outcome.problems)}" if outcome.problems else f"{outcome.tests} tests passed"
            say(f"  {number}/{len(wanted)} {outcome.scenario}: {verdict} ({outcome.seconds:.0f} s)")
            if outcome.problems:
                failed.append(outcome)
    for outcome in failed:
        say(f"\n--- the end of {outcome.log.relative_to(ROOT)} ---\n{_tail(outcome.log, 80)}")
        say("--- why ---\n" + "\n".join(reasons(outcome.log.read_text(errors="replace"))))
    say(f"  {len(wanted) - len(failed)} passed, {len(failed)} failed")
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"error: {failure}")
