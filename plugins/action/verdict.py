# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action of `ai102.inference.verdict`: runs on the control node only; documented in plugins/modules/verdict.py."""

from __future__ import annotations

import json
import os
import re
import tempfile
import typing as t
from pathlib import Path

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.ai102.inference.plugins.module_utils._verdict import Check, Verdict

display = Display()


def _write(path: Path, content: str) -> None:
    """Put a file in place in one step, so that nobody ever reads half a report."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(content)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def registered_checks(
    hostvars: t.Mapping[str, t.Any], hosts: t.Sequence[str], names: t.Sequence[str]
) -> list[t.Mapping[str, t.Any]]:
    """The checks that tasks on the hosts registered; a host that has none to show has failed one."""
    checks: list[t.Mapping[str, t.Any]] = []
    for name in names:
        for host in hosts:
            try:
                result = hostvars[host][name]
            except KeyError:
                result = {"unreachable": True, "msg": "the host was lost or failed before it could be asked"}
            if result.get("skipped"):
                continue
            if "checks" in result:
                checks.extend(result["checks"])
                continue
            message = str(result.get("msg") or "no message").strip()
            if result.get("unreachable"):
                checks.append(
                    Check(
                        "reachable",
                        host,
                        "fail",
                        "answers",
                        _short(message),
                        "Can the control node log in? Try: ansible -m ansible.builtin.ping " + host,
                    ).to_dict()
                )
            else:
                checks.append(
                    Check(
                        "facts",
                        host,
                        "fail",
                        "can be looked at",
                        _short(message),
                        "Does the host have a Python, and may the user become root?"
                        if re.search(r"python|interpreter|sudo|become|password", message, re.IGNORECASE)
                        else "",
                    ).to_dict()
                )
    return checks


def _short(text: str, limit: int = 400) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


class ActionModule(ActionBase):
    """Gathers checks into one verdict, shows it, writes it, and fails the play when it is not good."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Run on the control node. Raises `AnsibleActionFail` when the parameters are wrong."""
        variables: dict[str, t.Any] = task_vars or {}
        super().run(tmp, variables)
        _unused, args = self.validate_argument_spec(
            argument_spec={
                "kind": {"type": "str", "required": True},
                "checks": {"type": "list", "elements": "dict", "default": []},
                "registered": {"type": "list", "elements": "str", "default": []},
                "hosts": {"type": "list", "elements": "str"},
                "directory": {"type": "path"},
                "fail": {"type": "bool", "default": True},
                "show": {"type": "bool", "default": True},
                "passes": {"type": "str", "choices": ["auto", "all", "hosts", "count", "none"], "default": "auto"},
            },
        )
        try:
            hosts = args["hosts"] or variables.get("ansible_play_hosts_all") or []
            checks = [*args["checks"], *registered_checks(variables.get("hostvars", {}), hosts, args["registered"])]
            verdict = Verdict.from_dicts(args["kind"], checks)
        except ValueError as error:
            raise AnsibleActionFail(f"verdict {args['kind']!r}: {error}") from error

        result: dict[str, t.Any] = {
            "changed": False,
            "ok": verdict.ok,
            "verdict": verdict.to_dict(),
            "msg": verdict.sentence(),
            "files": [],
        }
        if args["directory"] and not self._task.check_mode:
            result["files"] = self._write_all(verdict, Path(args["directory"]).expanduser())
        if args["show"]:
            # Never wider than 140 columns: nobody reads a table across a whole wall. A log has no width.
            columns = min(max(display.columns, 80), 140) if os.isatty(1) else 110
            display.display(verdict.table(width=columns, passes=args["passes"]))
        if args["fail"] and not verdict.ok:
            result["failed"] = True
            result["msg"] = verdict.failure_text()
            if result["files"]:
                result["msg"] += f"\nThe whole verdict: {result['files'][-1]}"
        return result

    @staticmethod
    def _write_all(verdict: Verdict, directory: Path) -> list[str]:
        """Write the three documents; the page is the last of the returned paths."""
        try:
            directory.mkdir(parents=True, exist_ok=True)
            documents = {
                f"{verdict.kind}.json": json.dumps(verdict.to_dict(), indent=2, ensure_ascii=False) + "\n",
                f"{verdict.kind}.xml": verdict.junit(),
                f"{verdict.kind}.html": verdict.html(),
            }
            for name, content in documents.items():
                _write(directory / name, content)
        except OSError as error:
            raise AnsibleActionFail(
                f"the verdict cannot be written to {directory}: {error.strerror or error}"
            ) from error
        return [str(directory / name) for name in documents]
