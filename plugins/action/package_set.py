# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asks the host what is missing, and asks apt for that only."""

from __future__ import annotations

import typing as t

from ansible.plugins.action import ActionBase

#: What ``policy-rc.d`` answers to keep a package's daemon from being started.
_DO_NOT_START = 101


class ActionModule(ActionBase):
    """Install sets of operating system packages."""

    _requires_connection = True
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Run the task.

        :returns: the module's facts, and apt's answer where it was asked.
        """
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        result.update(
            self._execute_module(
                module_name="ai102.inference.package_set", module_args=dict(self._task.args), task_vars=task_vars
            )
        )
        if result.get("failed") or not result.get("changed") or self._task.check_mode:
            return result
        arguments: dict[str, t.Any] = {
            "name": result["missing"],
            "state": "present",
            "install_recommends": False,
            "update_cache": True,
            "cache_valid_time": int(self._task.args.get("cache_valid_time", 3600)),
            "lock_timeout": 300,
        }
        start = self._task.args.get("start_services", False)
        if str(start).lower() not in {"true", "yes", "1", "on"}:
            arguments["policy_rc_d"] = _DO_NOT_START
        answer = self._execute_module(module_name="ansible.builtin.apt", module_args=arguments, task_vars=task_vars)
        if answer.get("failed"):
            # The lists may be empty though their directory is new (images), or name files that are replaced.
            arguments["cache_valid_time"] = 0
            answer = self._execute_module(module_name="ansible.builtin.apt", module_args=arguments, task_vars=task_vars)
        if answer.get("failed"):
            names = ", ".join(result["missing"])
            answer["msg"] = f"cannot install {names}: {answer.get('msg', 'apt gave no reason')}"
            result.update(answer)
            result["changed"] = bool(answer.get("changed"))
        return result
