# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Delivers signed model packages to a host."""

from __future__ import annotations

import typing as t
from pathlib import Path

from ansible_collections.ai102.inference.plugins.plugin_utils._controller import ControllerAction


class ActionModule(ControllerAction):
    """Deliver signed model packages."""

    _requires_connection = True
    argument_spec: t.ClassVar[dict[str, dict[str, t.Any]]] = {
        "models": {"type": "list", "elements": "dict", "required": True},
        "public_keys": {"type": "str", "required": True, "no_log": False},
        "public_keys_path": {"type": "path", "default": "/etc/ai102/model_signing.pub"},
        "path": {"type": "path", "default": "/var/lib/ai102/models"},
        "blobs": {"type": "path", "default": "/var/lib/ai102/blobs"},
        "references": {"type": "list", "elements": "str", "default": []},
        "keep": {"type": "int", "default": 2},
    }

    def work(self, options: dict[str, t.Any], task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        """Do the work; see ``ControllerAction``."""
        sources = {
            file["sha256"]: Path(model["package"]) / file["path"]
            for model in options["models"]
            for file in model["files"]
            if model.get("package")
        }
        return self.deliver("ai102.inference.model_store", options, sources, task_vars)
