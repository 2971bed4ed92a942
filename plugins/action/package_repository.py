# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fetches the key of a package repository to the control node, and has the host trust it if it is the right one."""

from __future__ import annotations

import typing as t
from pathlib import Path

from ansible.errors import AnsibleActionFail
from ansible_collections.ai102.inference.plugins.module_utils._artifacts import ArtifactError, rewrite_url
from ansible_collections.ai102.inference.plugins.module_utils._repositories import RepositoryError, armored, verify_key
from ansible_collections.ai102.inference.plugins.modules.package_repository import OPTIONS
from ansible_collections.ai102.inference.plugins.plugin_utils._controller import ControllerAction, open_address

#: A key of one person with all its signatures is a few kilobytes.
_LARGEST_KEY = 1 << 20


class ActionModule(ControllerAction):
    """Tell apt of a package repository."""

    _requires_connection = True
    argument_spec: t.ClassVar[dict[str, dict[str, t.Any]]] = OPTIONS

    def work(self, options: dict[str, t.Any], task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        """Do the work; see ``ControllerAction``."""
        arguments = {name: options[name] for name in OPTIONS}
        answer = self._host(arguments, task_vars)
        if answer.get("failed") or not answer.get("key_wanted"):
            return answer
        try:
            key = self._key(answer["key_wanted"], answer["fingerprint"], options)
        except RepositoryError as error:
            raise AnsibleActionFail(str(error)) from error
        return self._host({**arguments, "key": key}, task_vars)

    def _host(self, arguments: dict[str, t.Any], task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        answer: dict[str, t.Any] = self._execute_module(
            module_name="ai102.inference.package_repository", module_args=arguments, task_vars=task_vars
        )
        return answer

    def _key(self, origin: str, fingerprint: str, options: t.Mapping[str, t.Any]) -> str:
        """Return the key in its text form.

        :param origin: a path on the control node, or an address.
        :raises RepositoryError: it is another key.
        :raises ArtifactError: it cannot be had.
        """
        kept = Path(options["cache_dir"]) / "keys" / f"{fingerprint}.asc"
        bundled = Path(options["bundle_dir"]) / "keys" / kept.name if options["bundle_dir"] else None
        for path in (bundled, kept):
            if path is not None and path.is_file():
                content = path.read_bytes()
                verify_key(content, fingerprint, str(path))
                return armored(content)
        if "://" not in origin:
            try:
                content = Path(origin).expanduser().read_bytes()
            except OSError as error:
                raise ArtifactError(f"the key of the repository cannot be read: {error}") from error
            verify_key(content, fingerprint, origin)
            return armored(content)
        if options["source"] == "bundle":
            raise ArtifactError(f"the bundle has no key {fingerprint} (keys/{kept.name}), and nothing is fetched")
        content = self._fetch(rewrite_url(origin, options["url_rewrites"]), options["retries"])
        verify_key(content, fingerprint, origin)
        key = armored(content)
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(key, encoding="ascii")
        return key

    def _fetch(self, url: str, retries: int) -> bytes:
        reason = ""
        for _attempt in range(max(retries, 1)):
            try:
                with open_address(url) as stream:
                    content: bytes = stream.read(_LARGEST_KEY)
                    return content
            except OSError as error:
                reason = str(error)
        raise ArtifactError(f"{url} cannot be fetched: {reason}")
