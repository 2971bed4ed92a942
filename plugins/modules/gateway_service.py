#!/usr/bin/python
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module ``gateway_service``."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: gateway_service
short_description: Have Nginx run the gateway's configuration in force
version_added: "0.1.0"
description:
  - Runs on a gateway. Compares what the running Nginx was started with or told last with the release in force, the
    certificates and the service's own settings, and starts, reloads or restarts it only when they differ.
  - An earlier run that was interrupted between switching a configuration and reloading is noticed and completed, and
    so is a certificate that was renewed.
  - A reload is complete when new workers serve, not when the signal was sent. A refused configuration fails the task
    with Nginx's own words.
  - What belongs to the service is read from C(service.json) of the release.
options:
  state:
    description:
      - V(started) links the service's files, enables it and has it run what is in force.
      - V(absent) stops and disables it, and removes the links.
    type: str
    choices: [started, absent]
    default: started
  path:
    description: Directory with the gateway's releases.
    type: path
    default: /etc/ai102/gateway
  unit:
    description: Systemd unit of Nginx.
    type: str
    default: nginx.service
  links:
    description: Links to remove with O(state=absent), where no release is left that names them.
    type: list
    elements: path
    default: []
  timeout:
    description: Seconds within which Nginx must have taken the configuration and answer.
    type: float
    default: 30.0
attributes:
  check_mode:
    description: Predicts what would happen.
    support: full
  diff_mode:
    description: The files are shown by M(ai102.inference.release).
    support: none
  idempotent:
    description: Running it again changes nothing.
    support: full
author: AI-102 inference maintainers (@ai102)
"""

EXAMPLES = r"""
- name: Have Nginx run the configuration in force
  ai102.inference.gateway_service:
  become: true

- name: Stop it, and remove its settings
  ai102.inference.gateway_service:
    state: absent
  become: true
"""

RETURN = r"""
action:
  description: What was done, or in check mode would be; V(none), V(start), V(reload), V(restart) or V(stop).
  returned: always
  type: str
linked:
  description: Links that were made or removed.
  returned: always
  type: list
  elements: str
release:
  description: The release in force.
  returned: always
  type: str
"""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ai102.inference.plugins.module_utils._gateway import (
    Gateway,
    GatewayError,
    Nginx,
    Service,
    read_service,
    wait_healthy,
)
from ansible_collections.ai102.inference.plugins.module_utils._release import ReleaseStore

_LOG_MODE = 0o640
_LOG_OWNER = ("www-data", "adm")


def _run(command: Sequence[str]) -> tuple[int, str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=180)
    except OSError as e:
        return 127, f"{command[0]}: {e.strerror}"
    except subprocess.TimeoutExpired:
        return 124, f"{command[0]} did not end within 180 s"
    return done.returncode, done.stdout + done.stderr


def _must(nginx: Nginx, *command: str) -> None:
    status, said = _run(command)
    if status != 0:
        raise GatewayError(f"'{' '.join(command)}' failed: {said.strip()} {nginx.last_words()}".strip())


def _unit(unit: str) -> dict[str, str]:
    status, said = _run(["systemctl", "show", "--property=LoadState,UnitFileState,ActiveState", unit])
    if status != 0:
        raise GatewayError(f"systemd does not answer: {said.strip()}")
    return dict(line.split("=", 1) for line in said.splitlines() if "=" in line)


def _link(dest: Path, target: Path, check_mode: bool) -> bool:
    """Makes a link; returns whether it was not there."""
    if dest.is_symlink() and dest.readlink() == target:
        return False
    if not check_mode:
        dest.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        temporary = dest.with_name(f".{dest.name}.ai102")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target)
        temporary.replace(dest)
    return True


def _log(path: Path, check_mode: bool) -> bool:
    """Has the access log belong to the workers' user and hidden from others; returns whether it was not so."""
    try:
        there = path.stat()
        right = there.st_mode & 0o7777 == _LOG_MODE and (path.owner(), path.group()) == _LOG_OWNER
    except (FileNotFoundError, KeyError):
        right = False
    if not right and not check_mode:
        path.touch(mode=_LOG_MODE)
        path.chmod(_LOG_MODE)
        shutil.chown(path, *_LOG_OWNER)
    return not right


def _started(module: AnsibleModule, gateway: Gateway, release: str, service: Service) -> dict[str, Any]:
    nginx, timeout = gateway.nginx, module.params["timeout"]
    targets = {Path(dest): gateway.current / name for dest, name in service.links.items()}
    linked = [str(dest) for dest, target in targets.items() if _link(dest, target, module.check_mode)]
    unit = _unit(nginx.unit)
    if unit.get("LoadState") != "loaded" and not module.check_mode:
        raise GatewayError(f"there is no {nginx.unit} on this host; is Nginx installed?")
    wanted = gateway.wanted(service, release)
    action = gateway.action(service, wanted)
    if any(targets[Path(dest)].name == service.drop_in for dest in linked) and action == "reload":
        action = "restart"  # the running one never had the drop-in
    enable = unit.get("UnitFileState") != "enabled"
    log = bool(service.log) and _log(Path(service.log), module.check_mode)
    result = {"changed": bool(linked or action or enable or log), "action": action or "none", "linked": linked}
    if module.check_mode:
        return result
    if action in {"start", "restart"}:
        _must(nginx, "systemctl", "daemon-reload")
        # Beyond the limit of quick restarts systemd would refuse, although the configuration is another one now.
        _run(["systemctl", "reset-failed", nginx.unit])
        _must(nginx, "systemctl", action, nginx.unit)
    elif action == "reload":
        nginx.reload(timeout)
    if enable:
        _must(nginx, "systemctl", "enable", "--quiet", nginx.unit)
    if action and service.health:
        try:
            wait_healthy(service.health, timeout)
        except GatewayError as e:
            raise GatewayError(f"{e}. {nginx.last_words()}") from e
    gateway.remember(wanted)
    return result


def _absent(module: AnsibleModule, gateway: Gateway) -> dict[str, Any]:
    nginx = gateway.nginx
    links = {Path(link) for link in module.params["links"]}
    if gateway.current.is_dir():
        links |= {Path(link) for link in read_service(gateway.current).links}
    there = sorted(link for link in links if link.is_symlink())
    unit = _unit(nginx.unit)
    running = unit.get("ActiveState") in {"active", "activating", "reloading", "failed"}
    enabled = unit.get("UnitFileState") == "enabled"
    result = {
        "changed": bool(there or running or enabled),
        "action": "stop" if running else "none",
        "linked": [str(link) for link in there],
    }
    if module.check_mode:
        return result
    if running or enabled:
        _must(nginx, "systemctl", "disable", "--quiet", "--now", nginx.unit)
        _run(["systemctl", "reset-failed", nginx.unit])
    for link in there:
        link.unlink()
    if there:
        _must(nginx, "systemctl", "daemon-reload")
    gateway.record.unlink(missing_ok=True)
    return result


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["started", "absent"], "default": "started"},
            "path": {"type": "path", "default": "/etc/ai102/gateway"},
            "unit": {"type": "str", "default": "nginx.service"},
            "links": {"type": "list", "elements": "path", "default": []},
            "timeout": {"type": "float", "default": 30.0},
        },
        supports_check_mode=True,
    )
    params = module.params
    store = ReleaseStore(Path(params["path"]))
    gateway = Gateway(store.path, Nginx(_run, unit=params["unit"]))
    release = store.current()
    try:
        if params["state"] == "absent":
            result = _absent(module, gateway)
        elif release is not None:
            result = _started(module, gateway, release, read_service(gateway.current))
        elif module.check_mode:  # a fresh host: the release would have been switched to before
            result = {"changed": True, "action": "start", "linked": []}
        else:
            raise GatewayError(f"{store.path} has no configuration in force")
    except GatewayError as e:
        module.fail_json(msg=str(e), release=release, action="none", linked=[])
    except OSError as e:
        module.fail_json(
            msg=f"{e.filename or store.path}: {e.strerror or e}", release=release, action="none", linked=[]
        )
    module.exit_json(release=release, **result)


if __name__ == "__main__":
    main()
