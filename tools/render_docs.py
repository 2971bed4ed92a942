#!/usr/bin/env python3
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes the README of each role from its argument specs, between two markers; what stands outside is kept."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from _console import ROOT, Failure, say
from _roles import Role, all_roles

BEGIN = "<!-- argument specs: written by `make docs`, do not edit -->"
END = "<!-- end of argument specs -->"
MARKUP = {
    "B": "**{}**",
    "I": "*{}*",
    "C": "`{}`",
    "V": "`{}`",
    "O": "`{}`",
    "M": "`{}`",
    "E": "`{}`",
    "P": "`{}`",
    "U": "<{}>",
}


def text(description: str | Sequence[str] | None) -> str:
    """Turn a description in Ansible's markup into one paragraph of Markdown."""
    parts = [description] if isinstance(description, str) else list(description or [])
    joined = " ".join(" ".join(part.split()) for part in parts)
    joined = re.sub(r"L\(([^,)]+), *([^)]+)\)", r"[\1](\2)", joined)
    return re.sub(r"\b([BICVOMEPU])\(([^)]*)\)", lambda found: MARKUP[found[1]].format(found[2]), joined)


def cell(content: str) -> str:
    """Make text safe for a table."""
    return content.replace("|", "\\|").replace("\n", " ")


def literal(value: object) -> str:
    """Show a default as one would write it in YAML, on one line."""
    if isinstance(value, str):
        shown = " ".join(value.split()) if value else '""'
    else:
        shown = json.dumps(value, ensure_ascii=False)
    fence = "``" if "`" in shown else "`"
    return f"{fence}{shown}{fence}"


def rows(options: Mapping[str, Mapping[str, Any]], prefix: str = "") -> Iterator[str]:
    """Yield a table row for each variable, and for each key inside it."""
    for name, option in options.items():
        kind = str(option.get("type", "str"))
        if "elements" in option:
            kind += f" of {option['elements']}"
        if option.get("required"):
            default = "**required**"
        else:
            default = literal(option["default"]) if "default" in option else ""
        description = text(option.get("description"))
        if choices := option.get("choices"):
            description += f" One of {', '.join(literal(choice) for choice in choices)}."
        yield f"| `{prefix}{name}` | {kind} | {cell(default)} | {cell(description)} |"
        if inner := option.get("options"):
            yield from rows(inner, f"{prefix}{name}{'[]' if option.get('type') == 'list' else ''}.")


def table(options: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the table of an entry point's variables."""
    if not options:
        return ["No variables."]
    return ["| Variable | Type | Default | Meaning |", "|---|---|---|---|", *rows(options)]


def section(role: Role) -> str:
    """Return what stands between the markers."""
    lines = [BEGIN]
    specs = role.specs
    for entry in sorted(specs, key=lambda name: (name != "main", name)):
        spec = specs[entry]
        description = spec.get("description")
        paragraphs = [description] if isinstance(description, str) else list(description or [])
        lines += ["", f"## Entry point `{entry}`", "", f"{text(spec.get('short_description'))}.".replace("..", ".")]
        for paragraph in paragraphs:
            lines += ["", text(paragraph)]
        lines += ["", *table(spec.get("options") or {})]
    return "\n".join([*lines, "", END])


def render(role: Role, current: str) -> str:
    """Return a role's README: what people wrote, with the part between the markers renewed."""
    if BEGIN not in current or END not in current:
        description = text(role.read("meta/main.yml").get("galaxy_info", {}).get("description", ""))
        current = current or f"# ai102.inference.{role.name}\n\n{description}\n"
        current = f"{current.rstrip()}\n\n{BEGIN}\n{END}\n"
    before, rest = current.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    return f"{before}{section(role)}{after}"


def main() -> None:
    """Write the READMEs, or say which are out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when one is out of date")
    check = parser.parse_args().check
    stale = []
    roles = all_roles()
    for role in roles:
        path = role.path / "README.md"
        current = path.read_text() if path.exists() else ""
        wanted = render(role, current)
        if wanted != current:
            stale.append(str(path.relative_to(ROOT)))
            if not check:
                path.write_text(wanted)
    if check and stale:
        raise Failure(f"Out of date: {', '.join(stale)}", "make docs")
    say(f"  {len(stale)} written, {len(roles) - len(stale)} up to date")


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"error: {failure}")
