# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""House rule: only the role ``artifacts`` fetches, and only its lock names an address outside."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ansiblelint.rules import AnsibleLintRule

if TYPE_CHECKING:
    from ansiblelint.errors import MatchError
    from ansiblelint.file_utils import Lintable
    from ansiblelint.utils import Task

FETCHER = "artifacts"
# Modules that exist to bring something from elsewhere, or to say where it may come from.
FETCHING = {
    "apt_key",
    "apt_repository",
    "deb822_repository",
    "get_url",
    "git",
    "rpm_key",
    "subversion",
    "yum_repository",
}
# An address with a host that is written out. What is templated, and this machine itself, is not "elsewhere".
ADDRESS = re.compile(
    r"\b(?:https?|ftp|git|ssh)://(?!(?:localhost|127\.|\[::1\]|[\w.-]+\.example\b|example\.))[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+"
)
PARTS = {"defaults", "files", "handlers", "tasks", "templates", "vars"}


class OnlyArtifactsFetchesRule(AnsibleLintRule):
    """A role other than artifacts fetches something, or names an address outside."""

    id = "only-artifacts-fetches"
    description = (
        "Every version, address and hash stands in the lock of the role artifacts, and only that role fetches: an "
        "offline site is then the same site with another source. Ask for what you need with "
        "include_role: {name: ai102.inference.artifacts, tasks_from: packages | environment | file}."
    )
    severity = "HIGH"
    tags = ["house"]  # noqa: RUF012 - as the base class declares it
    version_changed = "0.1.0"

    def matchtask(self, task: Task, file: Lintable | None = None) -> bool | str:
        """Look at the module of a task."""
        if file is None or not applies_to(file.path.parts):
            return False
        action: dict[str, Any] = task["action"]
        module = str(action["__ansible_module__"]).rsplit(".", 1)[-1]
        if module in FETCHING:
            return f"{module} belongs into the role {FETCHER}."
        if module == "uri" and "dest" in action:
            return f"uri with dest is a download: it belongs into the role {FETCHER}."
        if module == "unarchive" and "://" in str(action.get("src", "")):
            return f"unarchive of an address is a download: it belongs into the role {FETCHER}."
        return False

    def matchlines(self, file: Lintable) -> list[MatchError]:
        """Look at every line but comments for addresses."""
        if not applies_to(file.path.parts):
            return []
        return [
            self.create_matcherror(
                message=f"{found[0]} is named outside the lock of the role {FETCHER}.",
                lineno=number,
                filename=file,
            )
            for number, line in enumerate(file.content.splitlines(), start=1)
            if (found := ADDRESS.search(without_comment(line)))
        ]


def applies_to(parts: tuple[str, ...]) -> bool:
    """Tell whether a file, by the parts of its path, belongs to the inside of a role that must not fetch."""
    if "roles" not in parts:
        return False
    inside = parts[parts.index("roles") + 1 :]
    return len(inside) >= 3 and inside[0] != FETCHER and inside[1] in PARTS


def without_comment(line: str) -> str:
    """Return a line without the comment that takes all of it or follows white space."""
    return re.sub(r"(^|\s)(#|\{#).*$", "", line)
