# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Renders the templates of a release on the control node and hands the texts to the module in one call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase
from ansible.template import trust_as_template


class ActionModule(ActionBase):
    """Action plugin of ``ai102.inference.release``."""

    TRANSFERS_FILES = False
    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Render, then run the module."""
        variables = dict(task_vars or {})
        super().run(tmp, variables)
        arguments = dict(self._task.args)
        templates = arguments.pop("templates", None) or []
        if not isinstance(templates, list):
            raise AnsibleActionFail("templates: must be a list of {src, dest, mode}")
        files = list(arguments.get("files") or [])
        for number, template in enumerate(templates):
            files.append(self._render(template, number, variables))
        if files:
            arguments["files"] = files
        result: dict[str, Any] = self._execute_module(
            module_name="ai102.inference.release", module_args=arguments, task_vars=variables
        )
        return result

    def _render(self, template: Any, number: int, variables: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(template, dict) or not template.get("src") or not template.get("dest"):
            raise AnsibleActionFail(f"templates[{number}]: needs src and dest")
        unknown = sorted(set(template) - {"src", "dest", "mode"})
        if unknown:
            raise AnsibleActionFail(f"templates[{number}]: unknown key {', '.join(unknown)}; known: src, dest, mode")
        try:
            source = self._find_needle("templates", template["src"])
            text = self._loader.get_text_file_contents(source)
        except AnsibleError as error:
            raise AnsibleActionFail(f"templates[{number}]: {error}") from error
        search = [str(path) for path in variables.get("ansible_search_path", [])] + [str(Path(source).parent)]
        templar = self._templar.copy_with_new_env(
            searchpath=[str(Path(path, sub)) for path in search for sub in ("templates", "")],
            available_variables={**variables, "ansible_managed": "Managed by Ansible (ai102.inference)."},
        )
        rendered = templar.template(
            trust_as_template(text),
            escape_backslashes=False,
            overrides={"trim_blocks": True, "lstrip_blocks": True},
        )
        return {"dest": template["dest"], "content": str(rendered or ""), "mode": str(template.get("mode", "0644"))}
