# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a role says of itself, read from its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from _console import ROOT, Failure

ROLES = ROOT / "roles"


class _Loader(yaml.SafeLoader):
    """YAML as Ansible writes it: tags such as ``!vault`` are kept as text."""


_Loader.add_multi_constructor("!", lambda _loader, suffix, _node: f"!{suffix}")


@dataclass(frozen=True)
class Role:
    """A role of the collection.

    Attributes:
        path: Its directory.
    """

    path: Path

    @property
    def name(self) -> str:
        """Name without the collection's."""
        return self.path.name

    def read(self, part: str) -> dict[str, Any]:
        """Return the content of a YAML file of the role; an absent file is empty.

        Raises:
            Failure: The file is not valid YAML or not a mapping.
        """
        return read_mapping(self.path / part)

    @property
    def specs(self) -> dict[str, dict[str, Any]]:
        """Entry point → its argument spec."""
        specs: dict[str, dict[str, Any]] = self.read("meta/argument_specs.yml").get("argument_specs", {})
        return specs

    @property
    def defaults(self) -> dict[str, Any]:
        """Public variables with their defaults, templates as they are written."""
        return self.read("defaults/main.yml")


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds; an absent or empty file is an empty one.

    Raises:
        Failure: The file is not valid YAML or holds something else.
    """
    content = read_yaml(path)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise Failure(f"{path} is not a mapping.")
    return content


def read_yaml(path: Path) -> Any:
    """Return what a YAML file holds, None for an absent file.

    Raises:
        Failure: The file is not valid YAML.
    """
    if not path.exists():
        return None
    try:
        return yaml.load(path.read_text(), Loader=_Loader)
    except yaml.YAMLError as error:
        raise Failure(f"{path} is not valid YAML: {error}") from error


def all_roles(directory: Path = ROLES) -> list[Role]:
    """List the roles of the collection."""
    return [Role(path.parent) for path in sorted(directory.glob("*/tasks"))]
