# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the action plugins share that have the control node's cache on one side and a host on the other."""

from __future__ import annotations

import typing as t
from pathlib import Path

from ansible.errors import AnsibleActionFail
from ansible.module_utils.urls import open_url
from ansible.plugins.action import ActionBase
from ansible_collections.ai102.inference.plugins.module_utils._artifacts import ArtifactError, Cache
from ansible_collections.ai102.inference.plugins.module_utils._content import ContentError, sha256_of
from ansible_collections.ai102.inference.plugins.module_utils._manifest import PackageError

#: Delivered bytes after which the host takes what has come, so that a broken connection costs this much at most.
_BATCH_BYTES = 256 << 20

#: Options of the actions that use the control node's cache; the documentation fragment ``cache`` describes them.
CACHE_OPTIONS: dict[str, dict[str, t.Any]] = {
    "cache_dir": {"type": "path", "required": True},
    "source": {"type": "str", "choices": ["online", "bundle"], "default": "online"},
    "bundle_dir": {"type": "str", "default": ""},
    "retries": {"type": "int", "default": 3},
}


def open_address(url: str) -> t.Any:
    """Open an address for reading; timeout 60 seconds without an answer."""
    return open_url(url, timeout=60, http_agent="ai102-inference")


class ControllerAction(ActionBase):
    """An action whose work, or part of it, is done on the control node."""

    #: The options, as ``AnsibleModule`` takes them.
    argument_spec: t.ClassVar[dict[str, dict[str, t.Any]]] = {}

    _supports_check_mode = True

    def options(self) -> dict[str, t.Any]:
        """Return the task's options, checked, with defaults.

        :raises AnsibleActionFail: an option that is unknown, missing or of the wrong type.
        """
        _result, options = self.validate_argument_spec(argument_spec=self.argument_spec)
        return dict(options)

    def cache(self, options: t.Mapping[str, t.Any]) -> Cache:
        """Return the control node's cache."""
        return Cache(
            options["cache_dir"],
            bundle=options["bundle_dir"],
            online=options["source"] == "online",
            report=lambda message: self._display.display(f"[{self._name()}] {message}"),
        )

    def _name(self) -> str:
        return str(self._task.action).rpartition(".")[2]

    def work(self, options: dict[str, t.Any], task_vars: dict[str, t.Any], /) -> dict[str, t.Any]:
        """Do the work.

        :returns: the task's result.
        """
        raise NotImplementedError

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Run the task; an error of ours becomes a failure with its message alone."""
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        try:
            result.update(self.work(self.options(), task_vars or {}))
        except (ArtifactError, ContentError, PackageError) as error:
            raise AnsibleActionFail(str(error)) from error
        return result

    def deliver(
        self,
        module: str,
        arguments: t.Mapping[str, t.Any],
        sources: t.Mapping[str, Path],
        task_vars: dict[str, t.Any],
    ) -> dict[str, t.Any]:
        """Run a module of the host that answers ``missing`` (sha256) until it has all content, and then does its work.

        :param module: its full name.
        :param arguments: its options, without ``incoming``.
        :param sources: sha256 → file on the control node.
        :returns: the module's last answer, with ``transferred`` (files) and ``transferred_bytes``.
        :raises ContentError: the host asks for something that the control node does not have.
        """
        answer: dict[str, t.Any] = self._execute_module(
            module_name=module, module_args=dict(arguments), task_vars=task_vars
        )
        transferred = transferred_bytes = 0
        while answer.get("missing") and not answer.get("failed") and not self._task.check_mode:
            batch: dict[str, str] = {}
            size = 0
            folder = self._connection._shell.tmpdir or self._make_tmp_path()
            for sha256 in answer["missing"]:
                source = sources.get(sha256)
                if source is None or not source.is_file():
                    raise ContentError(f"the control node has no content with sha256 {sha256}")
                if sha256_of(source) != sha256:
                    raise ContentError(f"{source} has changed since it was described: its sha256 is not {sha256}")
                remote = self._connection._shell.join_path(folder, sha256)
                self._transfer_file(str(source), remote)
                batch[sha256] = remote
                size += source.stat().st_size
                if size >= _BATCH_BYTES:
                    break
            self._fixup_perms2([folder, *batch.values()])
            transferred += len(batch)
            transferred_bytes += size
            answer = self._execute_module(
                module_name=module, module_args={**arguments, "incoming": batch}, task_vars=task_vars
            )
            if set(batch) & set(answer.get("missing", ())):
                raise ContentError("the host did not keep what was delivered")
        answer["transferred"] = transferred
        answer["transferred_bytes"] = transferred_bytes
        return answer
