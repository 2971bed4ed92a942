#!/usr/bin/env python3
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prints, as JSON, the pairs of Python and ansible-core that CI tests: those of the lock that we promise to support."""

from __future__ import annotations

import json
import re

from _console import ROOT, Failure

PYTHONS = ("3.11", "3.12", "3.13")
PIN = re.compile(
    r"^ansible-core==(?P<core>[0-9.]+)(?: ; python_full_version (?P<sign><|>=) '(?P<bound>[0-9.]+)')? \\$", re.M
)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def matrix(lock: str, runtime: str) -> list[dict[str, str]]:
    """Return the pairs.

    Args:
        lock: Text of the developer's lock.
        runtime: Text of meta/runtime.yml.

    Raises:
        Failure: One of them does not say which ansible-core.
    """
    floor = re.search(r"requires_ansible:\s*[\"']?>=([0-9.]+)", runtime)
    if floor is None:
        raise Failure("meta/runtime.yml does not say requires_ansible: '>=…'.")
    pairs = []
    for python in PYTHONS:
        for pin in PIN.finditer(lock):
            inside = pin["bound"] is None or (_numbers(python) < _numbers(pin["bound"])) == (pin["sign"] == "<")
            if inside and _numbers(pin["core"]) >= _numbers(floor[1]):
                pairs.append({"python": python, "ansible_core": pin["core"]})
    if not any(_numbers(pair["ansible_core"])[:2] == _numbers(floor[1])[:2] for pair in pairs):
        raise Failure(f"No Python tests the oldest ansible-core that meta/runtime.yml admits, {floor[1]}.")
    return pairs


if __name__ == "__main__":
    found = matrix((ROOT / "requirements" / "dev.txt").read_text(), (ROOT / "meta" / "runtime.yml").read_text())
    print(json.dumps({"include": found}))
