#!/usr/bin/python
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Has a container engine run with the configuration in force."""

from __future__ import annotations

DOCUMENTATION = r"""
module: container_engine
short_description: Have a container engine run with the configuration in force
version_added: "0.1.0"
description:
  - Links what the release in force brings to where the engine looks for it, and removes links that are not wanted any
    more. Which these are, and which file has the rules for nft, is read from C(runtime.json) of the release (C(links),
    C(guard)).
  - Starts the engine, or restarts it when what it was started with is not what is in force. An earlier run that was
    interrupted is noticed and completed.
  - Containers go on running while Docker is restarted, if C(live-restore) is wanted; where it was off before, Docker is
    told of it first.
  - Loads the rules that keep packets from outside away from the networks of containers, and finds and undoes what
    somebody else has changed in them.
author:
  - AI-102 inference maintainers (@ai102)
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
options:
  engine:
    description: The engine.
    type: str
    choices: [docker, containerd, podman]
    required: true
  state:
    description:
      - V(started) has the engine run with what is in force, now and after a start of the host.
      - V(absent) removes the links and the rules, and stops the engine, unless it ran before the role came; then it
        goes on with its own configuration.
    type: str
    choices: [started, absent]
    default: started
  path:
    description: Directory with the releases of the role.
    type: path
    default: /etc/ai102/container_runtime
  timeout:
    description: Seconds within which the engine has to answer.
    type: float
    default: 60.0
  notes:
    description: Where it is noted what the engine was started with. Gone after a start of the host.
    type: path
    default: /run/ai102-container-runtime.json
  before:
    description: Where it is kept which units ran before the role came.
    type: path
    default: /var/lib/ai102/container_runtime/before.json
"""

EXAMPLES = r"""
- name: Have Docker run with the configuration in force
  ai102.inference.container_engine:
    engine: docker
  become: true
"""

RETURN = r"""
action:
  description: What was done, or in check mode would be; V(none), V(start), V(restart) or V(stop).
  returned: always
  type: str
pending:
  description: Whether something else was in force, or nothing.
  returned: success
  type: bool
linked:
  description: Links that were made or removed.
  returned: success
  type: list
  elements: str
version:
  description: Version of the engine that answers; empty where none does.
  returned: success
  type: str
"""

import contextlib
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ai102.inference.plugins.module_utils._containers import (
    ENGINES,
    GUARD_TABLE,
    GUARD_UNIT,
    ContainerError,
    Links,
    Notes,
    Systemd,
    changed_at,
    fingerprint,
    needs_restart,
    version_of,
    wait_until,
)


def _run(command: Sequence[str]) -> tuple[int, str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=300)
    except OSError as error:
        return 127, f"{command[0]}: {error.strerror}"
    except subprocess.TimeoutExpired:
        return 124, f"{command[0]} did not end within 300 s"
    return done.returncode, done.stdout + done.stderr


class Runtime:
    """The engine of one host."""

    def __init__(self, module: AnsibleModule) -> None:
        params = module.params
        self.module = module
        self.name: str = params["engine"]
        self.engine = ENGINES[self.name]
        self.current = Path(params["path"], "current")
        self.systemd = Systemd(_run)
        self.notes = Notes(Path(params["notes"]))
        self.before = Path(params["before"])
        self.release = self._release() if params["state"] == "started" else {}
        self.links = Links(self.current, self.release.get("links", {}), self.engine.links)

    def _release(self) -> dict[str, Any]:
        try:
            value: dict[str, Any] = json.loads((self.current / "runtime.json").read_text())
        except FileNotFoundError as error:
            if self.module.check_mode:  # a fresh host: the release would have been switched to before
                return {}
            raise ContainerError(f"{self.current.parent} has no configuration in force") from error
        return value

    @property
    def watched(self) -> list[str]:
        """Files that the engine reads when it starts."""
        drop_ins = [dest for dest in self.links.wanted if ".service.d/" in dest]
        return [self.engine.config, *drop_ins]

    # -- The rules that keep packets from outside away ---------------------------------------------------------

    def guard_loaded(self) -> bool:
        """Whether the kernel has the rules of the release, as they are listed after loading them somewhere else."""
        path = self.current / self.release["guard"]
        status, loaded = _run(["nft", "--stateless", "list", "table", "inet", GUARD_TABLE])
        if status != 0:
            return False
        # A network namespace that is gone with the shell: the kernel's own words for the same rules.
        script = f'nft --file "$1" && nft --stateless list table inet {GUARD_TABLE}'
        status, expected = _run(["unshare", "--net", "sh", "-c", script, "sh", str(path)])
        return status != 0 or loaded == expected

    def stop_guard(self) -> None:
        """Take the rules away. Disabling removes the link to the unit, and with it what stopping does: it is last."""
        self.systemd.do("stop", GUARD_UNIT)
        self.systemd.do("disable --quiet", GUARD_UNIT)

    def guard(self, reloaded: bool) -> bool:
        """Have the rules loaded, now and before the network at the next start; returns whether something changed."""
        check = self.module.check_mode
        unit = self.systemd.unit(GUARD_UNIT)
        if not self.release.get("guard"):
            wanted_before = unit.active or unit.enabled
            if wanted_before and not check:
                self.stop_guard()
            return wanted_before
        if not unit.loaded and check:
            return True
        if not reloaded:
            self.systemd.do("daemon-reload")
        unit = self.systemd.unit(GUARD_UNIT)
        changed = False
        if not unit.enabled:
            changed = True
            if not check:
                self.systemd.do("enable --quiet", GUARD_UNIT)
        if not unit.active or not self.guard_loaded():
            changed = True
            if not check:
                self.systemd.do("restart", GUARD_UNIT)
        return changed

    # -- The engine ---------------------------------------------------------------------------------------------

    def probe(self) -> str | None:
        """The version of the engine, if it answers."""
        status, said = _run(self.engine.probe)
        return (version_of(said) or "unknown") if status == 0 else None

    def docker_settings(self) -> dict[str, Any]:
        """What Docker's configuration says."""
        try:
            value = json.loads(Path(self.engine.config).read_text())
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    def before_restart(self) -> None:
        """Keep containers from harm.

        Raises:
            ContainerError: they would be lost.
        """
        if self.name != "docker":
            return
        settings = self.docker_settings()
        status, said = _run(["docker", "info", "--format", "{{json .}}"])
        try:
            info = json.loads(said.splitlines()[0]) if status == 0 else {}
        except (ValueError, IndexError):
            info = {}
        root, wanted = info.get("DockerRootDir"), settings.get("data-root")
        if info.get("Containers") and root and wanted and Path(root) != Path(wanted):
            raise ContainerError(
                f"Docker keeps {info['Containers']} containers in {root}, and data-root is {wanted} now: they would be "
                f"lost from sight. Remove them, or stop Docker and move {root} to {wanted} yourself."
            )
        if settings.get("live-restore") and info and not info.get("LiveRestoreEnabled"):
            self.systemd.do("reload", self.engine.units[-1])
            ask = ["docker", "info", "--format", "{{.LiveRestoreEnabled}}"]
            wait_until(
                lambda: "yes" if _run(ask)[1].strip() == "true" else None,
                self.module.params["timeout"],
                "Docker did not take live-restore over",
            )

    def ran_before(self) -> list[str] | None:
        """The units that ran before the role came; None where it never came."""
        try:
            return [str(name) for name in json.loads(self.before.read_text())]
        except (OSError, ValueError):
            return None

    def remember_before(self) -> None:
        """Keep which units run, before the first of them is touched."""
        if self.ran_before() is None:
            names = [name for name in self.engine.units if self.systemd.unit(name).active]
            self.before.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            self.before.write_text(json.dumps(names))

    def started(self) -> dict[str, Any]:
        """Have the engine run with what is in force."""
        check = self.module.check_mode
        if not check:
            self.remember_before()
        linked = [str(path) for path in [*self.links.missing(), *self.links.stale()]]
        guard = not self.release.get("guard") and self.guard(reloaded=True)
        if not check:
            self.links.make()
        if linked and not check:
            self.systemd.do("daemon-reload")
        result: dict[str, Any] = {"changed": bool(linked) or guard, "action": "none", "linked": linked, "version": ""}
        if self.release.get("guard"):
            result["changed"] |= self.guard(reloaded=bool(linked))
        now = fingerprint(self.watched)
        changed = changed_at(self.watched)
        for number, name in enumerate(self.engine.units):
            last = number == len(self.engine.units) - 1
            unit = self.systemd.unit(name)
            if not unit.loaded:
                if check:
                    result.update(changed=True, action="start")
                    continue
                raise ContainerError(f"there is no {name} on this host; is the package installed?")
            if not unit.enabled:
                result["changed"] = True
                if not check:
                    self.systemd.do("enable --quiet", name)
            if not unit.active:
                action = "start"
            elif last and needs_restart(unit, self.notes.read(name), now, changed):
                action = "restart"
            else:
                continue
            result.update(changed=True, action=action)
            if check:
                continue
            if action == "restart":
                self.before_restart()
            # Beyond the limit of quick restarts systemd would refuse, although the configuration is another one now.
            _run(["systemctl", "reset-failed", name])
            self.systemd.do(action, name)
        if check:
            result["version"] = self.probe() or ""
            return result
        result["version"] = self.wait()
        if self.engine.units:
            unit = self.systemd.unit(self.engine.units[-1])
            self.notes.write(unit.name, unit.invocation, now)
        return result

    def wait(self) -> str:
        """Wait until the engine answers; returns its version."""
        try:
            return wait_until(self.probe, self.module.params["timeout"], f"{self.name} did not answer")
        except ContainerError as error:
            _status, said = _run(self.engine.probe)
            words = self.systemd.words(self.engine.units[-1]) if self.engine.units else ""
            raise ContainerError(f"{error}: {said.strip()} {words}".strip()) from error

    def _leave(self, name: str, ran: bool) -> str:
        """Leave a unit as it was before the role came; returns what that takes."""
        unit = self.systemd.unit(name)
        if not unit.loaded:
            return "none"
        check = self.module.check_mode
        if not ran:
            if not unit.active and not unit.enabled:
                return "none"
            if not check:
                # Docker's socket would start it again.
                socket = name.replace(".service", ".socket")
                self.systemd.do(
                    "disable --quiet --now", *([name, socket] if self.systemd.unit(socket).loaded else [name])
                )
            return "stop"
        if name != self.engine.units[-1]:
            return "none"
        action = "restart" if unit.active else "start"
        if not check:
            if unit.active:
                self.before_restart()
            _run(["systemctl", "reset-failed", name])
            self.systemd.do(action, name)
        return action

    def absent(self) -> dict[str, Any]:
        """Take away what is ours."""
        check = self.module.check_mode
        stale = self.links.stale()
        result: dict[str, Any] = {
            "changed": bool(stale),
            "action": "none",
            "linked": [str(path) for path in stale],
            "version": "",
        }
        guard = self.systemd.unit(GUARD_UNIT)
        if guard.active or guard.enabled:
            result["changed"] = True
            if not check:
                self.stop_guard()
        if not check:
            self.links.make()
            if stale:
                self.systemd.do("daemon-reload")
        before = self.ran_before()
        if before is not None:
            result["changed"] = True
            for name in reversed(self.engine.units):
                action = self._leave(name, name in before)
                if action != "none" and name == self.engine.units[-1]:
                    result["action"] = action
            if not check:
                self.before.unlink(missing_ok=True)
                with contextlib.suppress(OSError):
                    self.before.parent.rmdir()
                self.notes.path.unlink(missing_ok=True)
        return result


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "engine": {"type": "str", "choices": ["docker", "containerd", "podman"], "required": True},
            "state": {"type": "str", "choices": ["started", "absent"], "default": "started"},
            "path": {"type": "path", "default": "/etc/ai102/container_runtime"},
            "timeout": {"type": "float", "default": 60.0},
            "notes": {"type": "path", "default": "/run/ai102-container-runtime.json"},
            "before": {"type": "path", "default": "/var/lib/ai102/container_runtime/before.json"},
        },
        supports_check_mode=True,
    )
    try:
        runtime = Runtime(module)
        result = runtime.started() if module.params["state"] == "started" else runtime.absent()
    except ContainerError as error:
        module.fail_json(msg=str(error), action="none", linked=[])
    except OSError as error:
        module.fail_json(msg=f"{error.filename or ''}: {error.strerror or error}", action="none", linked=[])
    module.exit_json(pending=result["changed"], **result)


if __name__ == "__main__":
    main()
