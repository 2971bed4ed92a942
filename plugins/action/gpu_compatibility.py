# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action of `ai102.inference.gpu_compatibility`: compares what the module says of the host with the table."""

from __future__ import annotations

import time
import typing as t
from pathlib import Path

import yaml
from ansible.errors import AnsibleActionFail
from ansible_collections.ai102.inference.plugins.module_utils._driver_choice import Judge, Options, Table, TableError
from ansible_collections.ai102.inference.plugins.module_utils._preflight import apply_severity, check_severity
from ansible_collections.ai102.inference.plugins.plugin_utils._controller import ControllerAction

_MODULE = "ai102.inference.gpu_compatibility"

#: The table and the summary of the locks lie in the role `artifacts`, beside the lock.
_FILES = Path(__file__).resolve().parents[2] / "roles/artifacts/files"


def read_yaml(path: Path) -> t.Any:
    """Read a document. Raises `AnsibleActionFail`."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise AnsibleActionFail(f"{path} cannot be read: {error}") from error


class ActionModule(ControllerAction):
    """Say which driver a host would get."""

    _requires_connection = True
    argument_spec: t.ClassVar[dict[str, dict[str, t.Any]]] = {
        "host": {"type": "str"},
        "source": {"type": "str", "choices": ["nvidia", "distribution", "bundle", "provided"], "default": "nvidia"},
        "branch": {"type": "str", "default": "auto"},
        "kernel_modules": {"type": "str", "choices": ["auto", "open", "proprietary"], "default": "auto"},
        "flavour": {"type": "str", "choices": ["auto", "cpu", "gpu", "gpu_cuda12"], "default": "auto"},
        "gpus": {"type": "int", "default": 0},
        "reboot": {"type": "str", "choices": ["never", "when_needed"], "default": "never"},
        "allow_in_use": {"type": "bool", "default": False},
        "own_units": {
            "type": "list",
            "elements": "str",
            "default": [
                "ai102-*",
                "nvidia-persistenced.service",
                "nvidia-fabricmanager.service",
                "nvidia-dcgm*.service",
            ],
        },
        "own_holds": {"type": "list", "elements": "str", "default": []},
        "held_record": {"type": "path"},
        "enrol_key": {"type": "bool", "default": False},
        "interpreter": {"type": "path", "default": "/usr/bin/python3"},
        "executable": {"type": "str", "default": "nvidia-smi"},
        "timeout": {"type": "int", "default": 60},
        "table": {"type": "path"},
        "locks": {"type": "path"},
        "severity": {"type": "dict", "default": {}},
        "simulate": {"type": "path"},
    }

    def work(self, options: dict[str, t.Any], task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        """Do the work; see ``ControllerAction``."""
        try:
            severity = check_severity(options["severity"])
            table = Table(read_yaml(Path(options["table"] or _FILES / "gpu.yml")))
        except (TableError, ValueError) as error:
            raise AnsibleActionFail(str(error)) from error
        summary = read_yaml(Path(options["locks"] or _FILES / "python/summary.yml"))
        answer: dict[str, t.Any] = self._execute_module(
            module_name=_MODULE,
            module_args={
                **{key: options[key] for key in ("interpreter", "executable", "timeout", "simulate", "held_record")},
                "patterns": table.known,
                "names": table.every_name(),
            },
            task_vars=task_vars,
        )
        if answer.get("failed") or "facts" not in answer:
            return answer
        judge = Judge(
            table,
            summary,
            answer["facts"],
            Options(
                source=options["source"],
                branch=options["branch"],
                kernel_modules=options["kernel_modules"],
                flavour=options["flavour"],
                gpus=options["gpus"],
                reboot=options["reboot"],
                allow_in_use=options["allow_in_use"],
                own_units=tuple(options["own_units"]),
                own_holds=(*options["own_holds"], *answer["facts"].get("own_holds", ())),
                enrol_key=options["enrol_key"],
            ),
            host=options["host"] or str(task_vars.get("inventory_hostname", "")),
            month=time.strftime("%Y-%m"),
        )
        result = judge.judge()
        checks = apply_severity(judge.checks, severity)
        return {
            **answer,
            **result,
            "ok": not any(check.status == "fail" for check in checks),
            "checks": [check.to_dict() for check in checks],
            "changed": False,
        }
