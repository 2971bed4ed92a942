# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds the locked virtual environment of the inference server on a host that needs no network for it."""

from __future__ import annotations

import re
import typing as t
from pathlib import Path

from ansible_collections.ai102.inference.plugins.module_utils._artifacts import (
    ArtifactError,
    Wheel,
    environment_digest,
    parse_python_lock,
    render_requirements,
    source_digest,
)
from ansible_collections.ai102.inference.plugins.plugin_utils._controller import CACHE_OPTIONS, ControllerAction

_MODULE = "ai102.inference.python_environment"


class ActionModule(ControllerAction):
    """Build a virtual environment of locked wheels."""

    _requires_connection = True
    argument_spec: t.ClassVar[dict[str, dict[str, t.Any]]] = {
        **CACHE_OPTIONS,
        "lock_dir": {"type": "path", "required": True},
        "flavour": {"type": "str", "required": True},
        "project": {"type": "path", "required": True},
        "modules": {"type": "list", "elements": "str", "default": []},
        "left_out": {"type": "list", "elements": "str", "default": []},
        "path": {"type": "path", "default": "/opt/ai102/environments"},
        "interpreter": {"type": "path", "default": "/usr/bin/python3"},
        "references": {"type": "list", "elements": "str", "default": []},
        "keep": {"type": "int", "default": 2},
        "blobs": {"type": "path", "default": "/var/lib/ai102/blobs"},
        "wheelhouses": {"type": "path", "default": "/var/lib/ai102/wheelhouses"},
    }

    def work(self, options: dict[str, t.Any], task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        """Do the work; see ``ControllerAction``."""
        project = Path(options["project"])
        sources = source_digest(project)
        flavour = options["flavour"]
        locks = self._locks(Path(options["lock_dir"]), flavour)
        arguments = {
            key: options[key]
            for key in (
                "modules",
                "left_out",
                "path",
                "interpreter",
                "references",
                "keep",
                "blobs",
                "wheelhouses",
                "flavour",
            )
        }
        arguments["candidates"] = {
            python: environment_digest(wheels, sources, python, flavour) for python, wheels in locks.items()
        }
        answer: dict[str, t.Any] = self._execute_module(module_name=_MODULE, module_args=arguments, task_vars=task_vars)
        if answer.get("failed") or not answer.get("changed") or self._task.check_mode:
            return answer
        cache = self.cache(options)
        python = answer["python"]
        wheels = list(locks[python])
        paths = cache.wheels(wheels, python, options["retries"])
        built, path = cache.build(project)
        wheels.append(built)
        paths[built.sha256] = path
        arguments["files"] = [{"path": w.filename, "sha256": w.sha256, "size": w.size} for w in wheels]
        arguments["requirements"] = render_requirements(wheels)
        return self.deliver(_MODULE, arguments, paths, task_vars)

    @staticmethod
    def _locks(folder: Path, flavour: str) -> dict[str, list[Wheel]]:
        """Read the locks of a flavour: version of Python → wheels."""
        locks: dict[str, list[Wheel]] = {}
        for path in sorted(folder.glob(f"server-{flavour}-cp*.txt")):
            matched = re.search(r"-cp(\d)(\d+)$", path.stem)
            if matched:
                locks[f"{matched[1]}.{matched[2]}"] = parse_python_lock(path.read_text(encoding="utf-8"))
        if not locks:
            raise ArtifactError(f"no lock of flavour {flavour!r} in {folder}")
        return locks
