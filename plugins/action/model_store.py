# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Delivers signed model packages to a host."""

from __future__ import annotations

import typing as t
from pathlib import Path

from ansible_collections.ai102.inference.plugins.module_utils._manifest import read_manifest
from ansible_collections.ai102.inference.plugins.module_utils._sealing import EncryptionKey, key_id, parse_key
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
        "encryption_key": {"type": "path", "default": "", "no_log": False},
        "passphrase": {"type": "str", "default": "", "no_log": True},
        "decryption_keys": {"type": "list", "elements": "str", "default": [], "no_log": True},
        "decryption_keys_path": {"type": "path", "default": "/etc/ai102/model_keys"},
        "decryption_keys_group": {"type": "str", "default": "ai102"},
    }

    def work(self, options: dict[str, t.Any], task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        """Do the work; see ``ControllerAction``."""
        sources = {
            file["sha256"]: Path(model["package"]) / file["path"]
            for model in options["models"]
            for file in model["files"]
            if model.get("package")
        }
        arguments = {key: value for key, value in options.items() if key not in {"encryption_key", "passphrase"}}
        arguments["decryption_keys"] = self._keys(options)
        return self.deliver("ai102.inference.model_store", arguments, sources, task_vars)

    @staticmethod
    def _keys(options: t.Mapping[str, t.Any]) -> list[str]:
        """Return the keys that the packages need, in hexadecimal, in the order of their ids."""
        needed = {
            file["encryption"]["key"]
            for model in options["models"]
            if model.get("package")
            for file in read_manifest(Path(model["package"]))[0]["files"]
            if file.get("encryption")
        }
        if not needed:
            return []
        keys = [
            parse_key(text, f"model_store_decryption_keys[{number}]")
            for number, text in enumerate(options["decryption_keys"])
        ]
        own = EncryptionKey(options["encryption_key"], options["passphrase"])
        if own.path.is_file():
            keys.append(own.key())
        return [key.hex() for identity, key in sorted((key_id(key), key) for key in keys) if identity in needed]
