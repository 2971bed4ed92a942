#!/usr/bin/env python3
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compares what the roles promise (meta/argument_specs.yml) with what they do (defaults, tasks, calls)."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from _console import ROOT, Failure, say
from _roles import ROLES, Role, all_roles, read_yaml

COLLECTION = "ai102.inference."
SHARED = "common"
SHARED_PREFIX = "ai102_"
META = ("author", "description", "license", "min_ansible_version", "platforms")


def check_role(role: Role, shared: Mapping[str, Any]) -> list[str]:
    """List what is wrong with a role.

    Args:
        role: The role.
        shared: Defaults of the variables that roles share; a role may repeat one in its spec.
    """
    problems: list[str] = []
    specs, defaults = role.specs, role.defaults
    if "main" not in specs:
        problems.append("meta/argument_specs.yml has no entry point main")
    options: dict[str, Mapping[str, Any]] = {}
    for entry, spec in specs.items():
        if not any((role.path / "tasks" / f"{entry}{suffix}").exists() for suffix in (".yml", ".yaml")):
            problems.append(f"entry point {entry} has no tasks/{entry}.yml")
        for key in ("short_description", "description", "author", "version_added"):
            if key not in spec:
                problems.append(f"entry point {entry} has no {key}")
        for name, option in (spec.get("options") or {}).items():
            problems.extend(f"{entry}: {problem}" for problem in check_option(name, option))
            problems.extend(check_default(entry, name, option, {**shared, **defaults}))
            options[name] = option
    problems.extend(f"{name} is in defaults/main.yml but in no spec" for name in defaults if name not in options)
    for name in defaults:
        if not name.startswith((f"{role.name}_", SHARED_PREFIX if role.name == SHARED else f"{role.name}_")):
            problems.append(f"{name} in defaults/main.yml does not begin with {role.name}_")
    for name in role.read("vars/main.yml"):
        if not name.startswith(f"__{role.name}_"):
            problems.append(f"{name} in vars/main.yml does not begin with __{role.name}_")
    info = role.read("meta/main.yml").get("galaxy_info", {})
    problems.extend(f"meta/main.yml has no galaxy_info.{key}" for key in META if not info.get(key))
    return problems


def check_option(name: str, option: Mapping[str, Any]) -> Iterator[str]:
    """Say what is missing in the spec of a variable, and of the keys inside it."""
    if "type" not in option:
        yield f"{name} has no type"
    if not option.get("description"):
        yield f"{name} has no description"
    if option.get("type") == "list" and "elements" not in option:
        yield f"{name} is a list without elements"
    if option.get("required") and "default" in option:
        yield f"{name} is required and has a default"
    for key, inner in (option.get("options") or {}).items():
        yield from check_option(f"{name}.{key}", inner)


def check_default(entry: str, name: str, option: Mapping[str, Any], defaults: Mapping[str, Any]) -> Iterator[str]:
    """Compare the default of a spec with defaults/main.yml. `undef()` stands for a variable that must be set."""
    if name not in defaults:
        if "default" in option:
            yield f"{entry}: {name} has a default in the spec but none in defaults/main.yml"
        return
    value = defaults[name]
    if is_undefined(value):
        if not option.get("required"):
            yield f"{entry}: {name} must be set by the user (undef) but is not required in the spec"
    elif option.get("required"):
        yield f"{entry}: {name} is required in the spec but has a default in defaults/main.yml"
    elif "default" not in option:
        yield f"{entry}: {name} has a default in defaults/main.yml but none in the spec"
    elif normal(option["default"]) != normal(value):
        yield f"{entry}: the default of {name} is {option['default']!r} in the spec and {value!r} in defaults/main.yml"


def is_undefined(value: object) -> bool:
    """Tell whether a default is there to fail when it is used."""
    return isinstance(value, str) and re.search(r"\{\{\s*undef\(", value) is not None


def normal(value: object) -> object:
    """Return a default so that how it was wrapped in YAML does not matter."""
    return " ".join(value.split()) if isinstance(value, str) else value


def calls(content: object) -> Iterator[tuple[str, str]]:
    """Find every (role, entry point) that plays and tasks call."""
    if isinstance(content, list):
        for item in content:
            yield from calls(item)
    elif isinstance(content, dict):
        for key, value in content.items():
            if str(key).rsplit(".", 1)[-1] in ("include_role", "import_role") and isinstance(value, dict):
                yield str(value.get("name", "")), str(value.get("tasks_from", "main")).removesuffix(".yml")
            yield from calls(value)


def check_calls(roles: Mapping[str, Role]) -> list[str]:
    """List the calls of entry points that the called role does not promise."""
    problems = []
    for path in sorted(
        [*ROLES.glob("*/tasks/**/*.yml"), *ROLES.glob("*/handlers/*.yml"), *ROOT.glob("playbooks/*.yml")]
    ):
        for name, entry in calls(read_yaml(path)):
            role = roles.get(name.removeprefix(COLLECTION))
            if "{{" in name + entry or not name.startswith(COLLECTION):
                continue
            if role is None:
                problems.append(f"{path.relative_to(ROOT)} calls {name}, which does not exist")
            elif entry not in role.specs:
                problems.append(f"{path.relative_to(ROOT)} calls {name}:{entry}, which has no argument spec")
    return problems


def main() -> None:
    """Check all roles."""
    roles = {role.name: role for role in all_roles()}
    shared = roles[SHARED].defaults if SHARED in roles else {}
    problems = [f"roles/{role.name}: {problem}" for role in roles.values() for problem in check_role(role, shared)]
    problems += check_calls(roles)
    for problem in problems:
        say(f"  {problem}")
    if problems:
        raise Failure(f"{len(problems)} differences between argument specs and roles.")
    say(f"  {len(roles)} roles agree with their argument specs")


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"error: {failure}")
