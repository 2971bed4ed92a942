#!/usr/bin/python
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module ``gateway_upstream``."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: gateway_upstream
short_description: Take an inference host out of a gateway's rotation, and back
version_added: "0.1.0"
description:
  - Runs on a gateway. Marks an inference host in the gateway's configuration, has Nginx validate and take it, and
    waits until no request to that host is in flight any more.
  - A drained host stays drained over later runs of the role C(gateway), until it is returned.
  - Draining is no upgrade, so the configuration to go back to (C(previous)) stays the same.
  - The last host that gets requests is not drained.
options:
  name:
    description: Name of the inference host in the inventory. Required with V(drained) and V(active).
    type: str
  state:
    description:
      - V(drained) stops new requests to the host, and waits for those in flight.
      - V(active) sends requests to it again.
      - V(applied) marks the hosts that are remembered as drained in the configuration in force, and no others. Used
        after another configuration has been put in force.
      - V(listed) only returns what there is.
    type: str
    choices: [drained, active, applied, listed]
    default: listed
  wait:
    description: Whether to wait, with V(drained), until no connection to the host is left.
    type: bool
    default: true
  timeout:
    description: Seconds to wait for the requests in flight. When some are left the task fails; the host stays drained.
    type: float
    default: 60.0
  reload_timeout:
    description: Seconds within which Nginx must have taken the configuration.
    type: float
    default: 30.0
  force:
    description: Whether the last host that gets requests may be drained too. Clients then get errors.
    type: bool
    default: false
  path:
    description: Directory with the gateway's releases.
    type: path
    default: /etc/ai102/gateway
attributes:
  check_mode:
    description: Predicts the change, changes nothing and waits for nothing.
    support: full
  diff_mode:
    description: Returns the change of the configuration.
    support: full
  idempotent:
    description: Running it again with the same parameters changes nothing.
    support: full
author: AI-102 inference maintainers (@ai102)
"""

EXAMPLES = r"""
- name: Stop new requests to a host that is to be changed, and wait for those in flight
  ai102.inference.gateway_upstream:
    name: "{{ inventory_hostname }}"
    state: drained
    timeout: 60
  delegate_to: gateway1
  become: true

- name: Send requests to it again
  ai102.inference.gateway_upstream:
    name: "{{ inventory_hostname }}"
    state: active
  delegate_to: gateway1
  become: true
"""

RETURN = r"""
present:
  description: Whether the host has a gateway. Without one there is nothing to do.
  returned: always
  type: bool
known:
  description: Whether the gateway's configuration has the host at all.
  returned: when O(name) is given
  type: bool
drained:
  description: Names of the hosts that are remembered as drained.
  returned: always
  type: list
  elements: str
upstreams:
  description: The hosts in the configuration in force.
  returned: always
  type: list
  elements: dict
  contains:
    name: {description: Name in the inventory., type: str}
    address: {description: Address or host name., type: str}
    port: {description: Port., type: int}
    down: {description: Whether it gets no requests., type: bool}
reloaded:
  description: Whether Nginx has taken another configuration.
  returned: always
  type: bool
waited_s:
  description: Seconds until no connection to the host was left.
  returned: when waited
  type: float
nginx_version:
  description: Version of Nginx on the host; null where it is not installed.
  returned: with O(state=listed)
  type: str
ipv6:
  description: Whether the host has IPv6.
  returned: with O(state=listed)
  type: bool
"""

import re
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ai102.inference.plugins.module_utils._gateway import (
    UPSTREAMS,
    Gateway,
    GatewayError,
    Nginx,
    locked,
    mark_down,
    parse_upstreams,
    read_drained,
    wait_until_unused,
    without_last_active,
    write_drained,
)
from ansible_collections.ai102.inference.plugins.module_utils._release import (
    Release,
    ReleaseError,
    ReleaseFile,
    ReleaseStore,
    diff_entries,
)

_NGINX = "/usr/sbin/nginx"


def _run(command: Sequence[str]) -> tuple[int, str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=120)
    except OSError as e:
        return 127, f"{command[0]}: {e.strerror}"
    except subprocess.TimeoutExpired:
        return 124, f"{command[0]} did not end within 120 s"
    return done.returncode, done.stdout + done.stderr


def _listed() -> dict[str, Any]:
    status, said = _run([_NGINX, "-v"])
    version = re.search(r"nginx/(\d+(?:\.\d+)+)", said) if status == 0 else None
    return {
        "nginx_version": version[1] if version else None,
        "ipv6": Path("/proc/net/if_inet6").exists(),
    }


def _remarked(current: Path, text: str) -> Release:
    """The release in force with another list of hosts, everything else as it is."""
    files = []
    for path in sorted(p for p in current.rglob("*") if p.is_file()):
        dest = str(path.relative_to(current))
        content = text.encode() if dest == UPSTREAMS else path.read_bytes()
        files.append(ReleaseFile(dest, content, path.stat().st_mode & 0o7777))
    return Release(tuple(files))


def _validate(directory: Path) -> None:
    status, said = _run([_NGINX, "-t", "-q", "-c", str(directory / "nginx.conf")])
    if status != 0:
        raise ReleaseError(f"Nginx refused the configuration, nothing was changed: {said.strip()}")


class Change:
    """One run of the module on a host that has a gateway."""

    def __init__(self, module: AnsibleModule, store: ReleaseStore, gateway: Gateway) -> None:
        self.module = module
        self.store = store
        self.gateway = gateway
        self.drained = read_drained(store.path)
        self.text = (gateway.current / UPSTREAMS).read_text(encoding="utf-8")
        self.result: dict[str, Any] = {"changed": False, "present": True, "reloaded": False}

    def target(self) -> list[str]:
        """Who is to be drained after this run."""
        name, state = self.module.params["name"], self.module.params["state"]
        if state in {"listed", "applied"}:
            return self.drained
        upstreams = parse_upstreams(self.text)
        self.result["known"] = any(u.name == name for u in upstreams)
        if state == "active":
            return [n for n in self.drained if n != name]
        if not self.result["known"]:
            # It gets no requests from here, so there is nothing to drain: a host that is about to be added.
            there = ", ".join(u.name for u in upstreams)
            self.module.warn(
                f"the gateway sends no requests to '{name}', so there is nothing to drain (there: {there})"
            )
            return self.drained
        if (
            name not in self.drained
            and not self.module.params["force"]
            and without_last_active(upstreams, self.drained, name)
        ):
            others = ", ".join(n for n in self.drained if n != name) or "none"
            raise GatewayError(
                f"{name} is the last inference host that gets requests (drained already: {others}), so it is not "
                "drained. Return another one first, or say force: true to have clients see errors."
            )
        return sorted({*self.drained, name})

    def run(self) -> dict[str, Any]:
        """Do it."""
        wanted = self.target()
        text = mark_down(self.text, wanted)
        if self.module.params["state"] == "listed":
            text = self.text
        if wanted != self.drained or text != self.text:
            self.result["changed"] = True
            label = str(self.gateway.current)
            self.result["diff"] = diff_entries({UPSTREAMS: self.text}, {UPSTREAMS: text}, label, False)
            if not self.module.check_mode:
                self._apply(wanted, text)
        self.result.update(drained=wanted, upstreams=[asdict(u) for u in parse_upstreams(text)])
        return self.result

    def _apply(self, wanted: list[str], text: str) -> None:
        before = self.store.current()
        if text != self.text:
            release = _remarked(self.gateway.current.resolve(), text)
            self.store.stage(release, _validate)
            write_drained(self.store.path, wanted)
            self.store.switch(release.id, remember=False)
            self._reload(release.id, before)
        else:
            write_drained(self.store.path, wanted)

    def _reload(self, release_id: str, before: str | None) -> None:
        if self.gateway.nginx.master() is None:
            self.module.warn("Nginx does not run on this gateway; it will take the configuration when it is started")
            return
        try:
            self.gateway.reload(release_id, self.module.params["reload_timeout"])
        except GatewayError:
            # What runs is the configuration before, so that is what must be in force and remembered.
            if before is not None:
                self.store.switch(before, remember=False)
            write_drained(self.store.path, self.drained)
            raise
        self.result["reloaded"] = True

    def wait(self) -> None:
        """Wait for the requests in flight, also when the host had been drained before."""
        params = self.module.params
        if params["state"] != "drained" or not params["wait"] or self.module.check_mode:
            return
        for upstream in parse_upstreams(self.text):
            if upstream.name == params["name"]:
                seconds = wait_until_unused(self.gateway.nginx, upstream, params["timeout"])
                self.result["waited_s"] = round(seconds, 3)


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str"},
            "state": {"type": "str", "choices": ["drained", "active", "applied", "listed"], "default": "listed"},
            "wait": {"type": "bool", "default": True},
            "timeout": {"type": "float", "default": 60.0},
            "reload_timeout": {"type": "float", "default": 30.0},
            "force": {"type": "bool", "default": False},
            "path": {"type": "path", "default": "/etc/ai102/gateway"},
        },
        required_if=[("state", "drained", ["name"]), ("state", "active", ["name"])],
        supports_check_mode=True,
    )
    params = module.params
    store = ReleaseStore(Path(params["path"]))
    gateway = Gateway(store.path, Nginx(_run))
    facts = _listed() if params["state"] == "listed" else {}
    if store.current() is None:
        known = {"known": False} if params["name"] else {}
        module.exit_json(
            changed=False,
            present=False,
            reloaded=False,
            drained=read_drained(store.path),
            upstreams=[],
            **known,
            **facts,
        )
    try:
        if params["state"] == "listed" or module.check_mode:
            result = Change(module, store, gateway).run()
        else:
            with locked(store.path, params["reload_timeout"] * 2):
                change = Change(module, store, gateway)
                result = change.run()
            change.wait()  # without the lock: another host may be drained or returned meanwhile
    except (GatewayError, ReleaseError) as e:
        module.fail_json(msg=str(e))
    except OSError as e:
        module.fail_json(msg=f"{e.filename or store.path}: {e.strerror or e}")
    module.exit_json(**result, **facts)


if __name__ == "__main__":
    main()
