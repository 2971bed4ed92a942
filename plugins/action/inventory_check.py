# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action of `ai102.inference.inventory_check`: control node only; documented in plugins/modules/inventory_check.py."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import typing as t
from pathlib import Path

import yaml
from ansible.errors import AnsibleActionFail, AnsibleError, AnsibleUndefinedVariable
from ansible.plugins.action import ActionBase
from ansible.release import __version__ as ansible_version
from ansible.template import Templar
from ansible_collections.ai102.inference.plugins.module_utils import _preflight as pf
from ansible_collections.ai102.inference.plugins.module_utils._inventory_check import (
    InventoryCheck,
    RoleSpec,
    Undefined,
    Unsettled,
)
from ansible_collections.ai102.inference.plugins.module_utils._verdict import Check

#: What is known only in a play or after a host was asked: a value made of it cannot be judged yet.
_LATER = re.compile(r"ansible_facts|ansible_play|ansible_role|role_path|\bhostvars\b|playbook_dir|ansible_check_mode")

try:  # where a value was written; not public, so its absence must not matter
    from ansible._internal._datatag._tags import Origin
except ImportError:  # pragma: no cover
    Origin = None


def read_roles(directory: Path, loader: t.Any) -> dict[str, RoleSpec]:
    """What the roles below a directory accept. Raises `AnsibleError` for a file that is no YAML."""
    roles = {}
    for path in sorted(directory.iterdir()) if directory.is_dir() else []:
        if not (path / "tasks").is_dir() and not (path / "meta").is_dir():
            continue
        documents = []
        for folder, names in (
            ("meta", ("argument_specs.yml", "argument_specs.yaml")),
            ("defaults", ("main.yml", "main.yaml")),
        ):
            found = next((path / folder / name for name in names if (path / folder / name).is_file()), None)
            documents.append(loader.load_from_file(str(found), trusted_as_template=True) if found else {})
        roles[path.name] = RoleSpec.from_documents(path.name, documents[0] or {}, documents[1] or {})
    return roles


class AnsibleInventory:
    """The inventory as Ansible read it, for `InventoryCheck`."""

    def __init__(
        self, hostvars: t.Any, groups: t.Mapping[str, t.Sequence[str]], roles: t.Mapping[str, RoleSpec], loader: t.Any
    ) -> None:
        """`hostvars` and `groups` are Ansible's own; the defaults of all roles complete the variables of a host."""
        self.groups = {name: list(hosts) for name, hosts in groups.items()}
        self._hostvars = hostvars
        self._loader = loader
        self._defaults = {name: value for role in roles.values() for name, value in role.defaults.items()}
        self._own: dict[str, dict[str, t.Any]] = {}
        self._templars: dict[str, t.Any] = {}

    def variables(self, host: str) -> t.Mapping[str, t.Any]:
        """The variables of a host, not templated; what an earlier task found out is left away."""
        if host not in self._own:
            manager = getattr(self._hostvars, "_variable_manager", None)
            learned = set(getattr(manager, "_nonpersistent_fact_cache", {}).get(host, ()))
            raw = self._hostvars.raw_get(host)
            self._own[host] = {name: value for name, value in raw.items() if name not in learned}
        return self._own[host]

    def value(self, host: str, name: str) -> t.Any:
        """The value a task on the host would see. Raises `Undefined`, `Unsettled`."""
        variables = self.variables(host)
        if name in variables:
            raw = variables[name]
        elif name in self._defaults:
            raw = self._defaults[name]
        else:
            raise Undefined("")
        if not isinstance(raw, (str, list, dict)):
            return raw
        if host not in self._templars:
            self._templars[host] = Templar(loader=self._loader, variables={**self._defaults, **variables})
        try:
            return self._templars[host].template(raw)
        except AnsibleUndefinedVariable as error:
            message = _plain(error)
            if _LATER.search(message) or _LATER.search(str(raw)):
                raise Unsettled(message) from error
            raise Undefined(message) from error
        except AnsibleError as error:
            raise Undefined(_plain(error)) from error

    def origin(self, host: str, name: str) -> str:
        """File and line, as short as it is still clear."""
        if Origin is None:
            return ""
        variables = self.variables(host)
        key = next((key for key in variables if key == name), name)
        origin = Origin.get_tag(variables.get(name)) or Origin.get_tag(key)
        if origin is None:
            return ""
        if not origin.path:
            return str(origin.description or "").strip("<>")
        path = Path(str(origin.path))
        short = os.path.relpath(path)
        text = str(path) if short.startswith("..") else short
        return f"{text}:{origin.line_num}" if origin.line_num else text


def _plain(error: Exception) -> str:
    """The message of an error without Ansible's preamble and without the place it adds."""
    text = str(getattr(error, "_original_message", "") or getattr(error, "message", "") or error)
    return text.partition("\nOrigin:")[0].strip()


def own_requirements(root: Path) -> dict[str, t.Any]:
    """What the collection asks of a control node: ansible-core of meta/runtime.yml, collections of its manifest."""
    runtime = yaml.safe_load((root / "meta" / "runtime.yml").read_text()) or {}
    manifest, galaxy = root / "MANIFEST.json", root / "galaxy.yml"
    if manifest.is_file():
        dependencies = json.loads(manifest.read_text())["collection_info"].get("dependencies") or {}
    elif galaxy.is_file():
        dependencies = (yaml.safe_load(galaxy.read_text()) or {}).get("dependencies") or {}
    else:
        dependencies = {}
    return {
        "ansible_core": _floor(runtime.get("requires_ansible", "")),
        "collections": {name: _floor(version) for name, version in dependencies.items()},
    }


def _floor(requirement: str) -> str:
    match = re.search(r">=\s*([\d.]+)", str(requirement))
    return match.group(1) if match else "0"


def collection_version(name: str) -> str | None:
    """Version of an installed collection, None when there is none."""
    try:
        package = importlib.import_module(f"ansible_collections.{name}")
    except ImportError:
        return None
    for place in map(Path, package.__path__):
        manifest, galaxy = place / "MANIFEST.json", place / "galaxy.yml"
        if manifest.is_file():
            return str(json.loads(manifest.read_text())["collection_info"]["version"])
        if galaxy.is_file():
            return str((yaml.safe_load(galaxy.read_text()) or {}).get("version", "0"))
    return "0"


def library_version(name: str) -> str | None:
    """Version of a Python library of the control node, None when it cannot be imported."""
    try:
        if importlib.util.find_spec(name) is None:
            return None
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "present"
    except (ImportError, ValueError):
        return None


class ActionModule(ActionBase):
    """Checks the inventory and the control node."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Run on the control node. Raises `AnsibleActionFail` when the parameters are wrong."""
        variables: dict[str, t.Any] = task_vars or {}
        super().run(tmp, variables)
        _unused, args = self.validate_argument_spec(
            argument_spec={
                "tiers": {"type": "dict", "required": True},
                "required_tiers": {"type": "list", "elements": "str", "default": ["gateways", "inference_hosts"]},
                "hosts": {"type": "list", "elements": "str"},
                "known": {"type": "list", "elements": "str", "default": []},
                "roles_path": {"type": "path"},
                "severity": {"type": "dict", "default": {}},
                "control_node": {
                    "type": "dict",
                    "options": {
                        "ansible_core": {"type": "str"},
                        "python": {"type": "str", "default": "3.11"},
                        "collections": {"type": "dict"},
                        "libraries": {"type": "list", "elements": "str", "default": []},
                        "directories": {"type": "list", "elements": "raw", "default": []},
                        "free_gb": {"type": "float", "default": 1},
                    },
                },
            },
        )
        root = Path(__file__).resolve().parents[2]
        try:
            severity = pf.check_severity(args["severity"])
            roles = read_roles(Path(args["roles_path"]) if args["roles_path"] else root / "roles", self._loader)
            checks = self._inventory(args, roles, variables, severity)
            if args["control_node"]:
                checks += self._control_node(args["control_node"], root, severity)
        except (ValueError, OSError) as error:
            raise AnsibleActionFail(f"inventory_check: {error}") from error
        dictionaries = [check.to_dict() for check in checks]
        return {"changed": False, "checks": dictionaries, "ok": not any(check.status == "fail" for check in checks)}

    def _inventory(
        self,
        args: t.Mapping[str, t.Any],
        roles: t.Mapping[str, RoleSpec],
        variables: t.Mapping[str, t.Any],
        severity: t.Mapping[str, str],
    ) -> list[Check]:
        groups = variables.get("groups", {})
        hosts = args["hosts"] or variables.get("ansible_play_hosts_all") or groups.get("all", [])
        inventory = AnsibleInventory(variables["hostvars"], groups, roles, self._loader)
        # The control node itself is often in the play, for the steps that run there; it has no role.
        hosts = [host for host in hosts if host in groups.get("all", []) and host != "localhost"] or list(hosts)
        check = InventoryCheck(
            inventory, roles, args["tiers"], hosts, required_tiers=args["required_tiers"], known=args["known"]
        )
        return pf.apply_severity(check.run(), severity)

    def _control_node(self, wanted: t.Mapping[str, t.Any], root: Path, severity: t.Mapping[str, str]) -> list[Check]:
        requirements = own_requirements(root)
        asked = {
            "ansible_core": wanted["ansible_core"] or requirements["ansible_core"],
            "python": wanted["python"],
            "collections": wanted["collections"] if wanted["collections"] is not None else requirements["collections"],
            "libraries": wanted["libraries"],
        }
        paths = pf.wanted_paths(wanted["directories"], wanted["free_gb"])
        facts = {
            "ansible_core": ansible_version,
            "python": platform.python_version(),
            "collections": {name: collection_version(name) for name in asked["collections"]},
            "libraries": {name: library_version(name) for name in asked["libraries"]},
            "directories": [pf.free_space(Path(path).expanduser(), free_gb) for path, free_gb in paths],
        }
        return pf.evaluate_control_node(facts, asked, severity)
