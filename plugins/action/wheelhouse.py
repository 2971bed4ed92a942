# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Has the wheels of a Python lock on the control node, and those of our own projects."""

from __future__ import annotations

import typing as t
from pathlib import Path

from ansible_collections.ai102.inference.plugins.module_utils._artifacts import (
    Wheel,
    parse_python_lock,
    render_requirements,
)
from ansible_collections.ai102.inference.plugins.plugin_utils._controller import CACHE_OPTIONS, ControllerAction


class ActionModule(ControllerAction):
    """Fetch the wheels of a lock and build those of our projects."""

    _requires_connection = False
    argument_spec: t.ClassVar[dict[str, dict[str, t.Any]]] = {
        **CACHE_OPTIONS,
        "lock_file": {"type": "path", "required": True},
        "python": {"type": "str", "required": True},
        "projects": {"type": "list", "elements": "path", "default": []},
    }

    def work(self, options: dict[str, t.Any], _task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        """Do the work; see ``ControllerAction``."""
        cache = self.cache(options)
        wheels: list[Wheel] = parse_python_lock(Path(options["lock_file"]).read_text(encoding="utf-8"))
        if self._task.check_mode:
            absent = [wheel.filename for wheel in wheels if not cache.has(wheel.sha256, wheel.size)]
            return {"changed": False, "wheels": [], "absent": absent, "requirements": ""}
        paths = cache.wheels(wheels, options["python"], options["retries"])
        for project in options["projects"]:
            built, path = cache.build(Path(project))
            wheels.append(built)
            paths[built.sha256] = path
        entries = [
            {"path": w.filename, "sha256": w.sha256, "size": w.size, "src": str(paths[w.sha256])} for w in wheels
        ]
        return {"changed": False, "wheels": entries, "absent": [], "requirements": render_requirements(wheels)}
