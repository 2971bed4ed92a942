# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes and signs the packages of models on the control node."""

from __future__ import annotations

import typing as t
from pathlib import Path

from ansible_collections.ai102.inference.plugins.module_utils import _manifest as manifest_utils
from ansible_collections.ai102.inference.plugins.module_utils._manifest import PackageError
from ansible_collections.ai102.inference.plugins.module_utils._model_package import Packager, SigningKey
from ansible_collections.ai102.inference.plugins.module_utils._sealing import EncryptionKey, key_id, parse_key
from ansible_collections.ai102.inference.plugins.plugin_utils._controller import ControllerAction


class ActionModule(ControllerAction):
    """Make the packages of models."""

    _requires_connection = False
    argument_spec: t.ClassVar[dict[str, dict[str, t.Any]]] = {
        "models": {"type": "list", "elements": "dict", "required": True},
        "cache_dir": {"type": "path", "required": True},
        "signing_key": {"type": "path", "required": True},
        "passphrase": {"type": "str", "required": True, "no_log": True},
        "trusted_keys": {"type": "list", "elements": "str", "default": [], "no_log": False},
        "encryption_key": {"type": "path", "default": "", "no_log": False},
        "decryption_keys": {"type": "list", "elements": "str", "default": [], "no_log": True},
        "fetched": {"type": "dict", "default": {}},
        "shipped": {"type": "path", "required": True},
    }

    def work(self, options: dict[str, t.Any], _task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        """Do the work; see ``ControllerAction``."""
        trusted = [self._key(text) for text in options["trusted_keys"]]
        packager = Packager(
            Path(options["cache_dir"]),
            SigningKey(options["signing_key"], options["passphrase"]),
            trusted,
            options["fetched"],
            Path(options["shipped"]),
            EncryptionKey(
                options["encryption_key"] or Path(options["signing_key"]).with_name("model_encryption.key"),
                options["passphrase"],
            ),
            [
                key_id(parse_key(text, f"model_store_decryption_keys[{number}]"))
                for number, text in enumerate(options["decryption_keys"])
            ],
            dry=self._task.check_mode,
        )
        packages: list[dict[str, t.Any]] = []
        seen: set[tuple[str, str]] = set()
        for entry in options["models"]:
            package = packager.package(entry)
            if (package.name, package.version) in seen:
                raise PackageError(f"model {package.name} {package.version} is listed twice")
            seen.add((package.name, package.version))
            packages.append(
                {
                    "name": package.name,
                    "version": package.version,
                    "package": str(package.path or ""),
                    "manifest_sha256": package.manifest_sha256,
                    "files": manifest_utils.package_files(package.path) if package.path else [],
                }
            )
        return {"changed": False, "models": packages, "public_keys": "".join(packager.keys())}

    @staticmethod
    def _key(text: str) -> str:
        """Return a public key that is given as text or as the path of a file."""
        if "BEGIN PUBLIC KEY" not in text:
            try:
                text = Path(text).expanduser().read_text(encoding="ascii")
            except (OSError, UnicodeDecodeError) as error:
                raise PackageError(f"the trusted key {text} cannot be read: {error}") from error
        if not manifest_utils.split_keys(text):
            raise PackageError("a trusted key is not a public key in PEM form")
        return text
