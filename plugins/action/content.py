# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Delivers files to a host by sha256, each content once."""

from __future__ import annotations

import typing as t
from pathlib import Path

from ansible_collections.ai102.inference.plugins.plugin_utils._controller import ControllerAction


class ActionModule(ControllerAction):
    """Deliver a directory of files."""

    _requires_connection = True
    argument_spec: t.ClassVar[dict[str, dict[str, t.Any]]] = {
        "dest": {"type": "path", "required": True},
        "files": {"type": "list", "elements": "dict", "default": []},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        "replace": {"type": "bool", "default": False},
        "owner": {"type": "str", "default": "root"},
        "group": {"type": "str", "default": "root"},
        "mode": {"type": "str", "default": "0444"},
        "directory_mode": {"type": "str", "default": "0755"},
        "blobs": {"type": "path", "default": "/var/lib/ai102/blobs"},
    }

    def work(self, options: dict[str, t.Any], task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        """Do the work; see ``ControllerAction``."""
        sources = {entry["sha256"]: Path(entry["src"]) for entry in options["files"] if entry.get("src")}
        options["files"] = [{k: v for k, v in entry.items() if k != "src"} for entry in options["files"]]
        return self.deliver("ai102.inference.content", options, sources, task_vars)
