# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Control node's half of `nft_ruleset`: comes in again by a new connection to confirm new rules."""

from __future__ import annotations

import contextlib
import time
import typing as t

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase

_MODULE = "ai102.inference.nft_ruleset"
_SSH = frozenset({"ssh", "paramiko", "paramiko_ssh", "libssh"})
_REVERT_AFTER = 40  # seconds, the module's default
_MARGIN = 3  # seconds before the timer fires in which no confirmation is begun any more


class ActionModule(ActionBase):
    """Runs the module, and once more over a new connection where it has loaded new rules."""

    TRANSFERS_FILES = False
    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Runs the module and returns its result."""
        super().run(tmp, task_vars)
        arguments: dict[str, t.Any] = {
            key: value for key, value in self._task.args.items() if key not in ("phase", "confirm")
        }
        over_ssh = str(getattr(self._connection, "transport", "")).rpartition(".")[2] in _SSH
        begin = time.monotonic()
        result = self._module({**arguments, "confirm": over_ssh}, task_vars)
        if result.get("failed") or not result.pop("pending", False):
            return result
        seconds = float(arguments.get("revert_after") or _REVERT_AFTER)
        problem = self._confirm(arguments, task_vars, begin + seconds - _MARGIN)
        if problem is None:
            result["confirmed"] = True
            return result
        back = self._is_back(arguments, task_vars, begin + seconds)
        result.update(
            failed=True,
            changed=False,
            confirmed=False,
            msg=(
                f"No new SSH connection to the host could be made after the new firewall rules were loaded "
                f"({problem}). "
                + (
                    "The host has brought the former rules back by itself, and is reached again. Nothing was kept."
                    if back
                    else f"The host brings the former rules back by itself {seconds:.0f} s after it loaded these, but "
                    "it could not be reached afterwards to see that."
                )
            ),
        )
        return result

    def _module(self, arguments: dict[str, t.Any], task_vars: dict[str, t.Any] | None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = self._execute_module(module_name=_MODULE, module_args=arguments, task_vars=task_vars)
        return result

    def _again(
        self, arguments: dict[str, t.Any], task_vars: dict[str, t.Any] | None, phase: str
    ) -> tuple[dict[str, t.Any], str]:
        """Runs a phase of the module over a new connection; its result, or nothing and what went wrong."""
        with contextlib.suppress(AnsibleError, NotImplementedError):  # there was nothing to close
            self._connection.reset()
        try:
            result = self._module({**arguments, "phase": phase}, task_vars)
        except AnsibleConnectionFailure as error:
            return {}, _first_line(str(error))
        if result.get("unreachable"):
            return {}, _first_line(str(result.get("msg", "unreachable")))
        return result, ""

    def _confirm(self, arguments: dict[str, t.Any], task_vars: dict[str, t.Any] | None, deadline: float) -> str | None:
        """Confirms the rules; None on success, otherwise what went wrong."""
        problem = "the time was too short"
        while time.monotonic() < deadline:
            result, problem = self._again(arguments, task_vars, "confirm")
            if result.get("failed"):
                return _first_line(str(result.get("msg")))
            if result.get("confirmed"):
                return None
            problem = problem or "the connection was not a new one"
            time.sleep(1)
        return problem

    def _is_back(self, arguments: dict[str, t.Any], task_vars: dict[str, t.Any] | None, fires: float) -> bool:
        """Waits until the timer has fired, and asks whether the former rules are there again."""
        while time.monotonic() < fires + 20:
            time.sleep(max(1.0, min(fires - time.monotonic(), 60)))
            result, _problem = self._again(arguments, task_vars, "status")
            if result.get("reverted"):
                return True
        return False


def _first_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
