#!/usr/bin/python
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stages, validates and switches a versioned directory."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release
short_description: Stage, validate and atomically switch a set of files that belong together
version_added: "0.1.0"
author: AI-102 inference maintainers (@ai102)
description:
  - Keeps the files of one component as versioned directories C(releases/ID) behind the symlink C(current).
  - The id is a digest of everything in the release, so the same content is the same release and nothing changes.
  - A new release is written under a temporary name, validated by the program that will read it, and only then
    given its name and switched to. What was current stays as C(previous).
  - Templates are rendered on the control node, the way M(ansible.builtin.template) does it.
attributes:
  check_mode:
    description: Can run in C(check_mode) and predicts what would change. Validation runs on a temporary copy.
    support: full
  diff_mode:
    description: Returns what changes, file by file, unless O(secret) is set.
    support: full
  idempotent:
    description: Running it again with the same parameters changes nothing.
    support: full
options:
  path:
    description: Directory that holds C(releases/), C(current) and C(previous).
    type: path
    required: true
  state:
    description:
      - V(present) stages, validates and switches.
      - V(staged) stages and validates, without switching.
      - V(current) switches to the staged O(release).
      - V(previous) goes back to the release that was current before.
    type: str
    choices: [present, staged, current, previous]
    default: present
  release:
    description: Id of the staged release to switch to, with O(state=current).
    type: str
  templates:
    description: Templates, rendered on the control node and searched for like those of M(ansible.builtin.template).
    type: list
    elements: dict
    default: []
    suboptions:
      src:
        description: Template on the control node.
        type: str
        required: true
      dest:
        description: Path inside the release.
        type: str
        required: true
      mode:
        description: Permission bits, as an octal string.
        type: str
        default: "0644"
  files:
    description: Files given by their content.
    type: list
    elements: dict
    default: []
    suboptions:
      dest:
        description: Path inside the release.
        type: str
        required: true
      content:
        description: Text of the file.
        type: str
        required: true
      mode:
        description: Permission bits, as an octal string.
        type: str
        default: "0644"
  links:
    description: Symbolic links inside the release.
    type: list
    elements: dict
    default: []
    suboptions:
      dest:
        description: Path inside the release.
        type: str
        required: true
      src:
        description: What the link points to. It must exist, except in check mode.
        type: str
        required: true
  owner:
    description: Owner of everything in the release.
    type: str
    default: root
  group:
    description: Group of everything in the release.
    type: str
    default: root
  directory_mode:
    description: Permission bits of the directories, as an octal string.
    type: str
    default: "0755"
  validate:
    description:
      - Commands that must succeed before the release gets its name, each run without a shell.
      - "C({release}) stands for the staged directory."
      - In check mode a command whose program is not installed yet is left out, with a warning.
    type: list
    elements: str
    default: []
  remember:
    description: Whether the release that was current becomes the previous one. A switch that is no upgrade leaves it.
    type: bool
    default: true
  keep:
    description: How many releases stay on the host. The current and the previous one always do.
    type: int
    default: 3
  secret:
    description: Whether the content stays out of diffs.
    type: bool
    default: false
  unit:
    description:
      - Systemd unit that runs from this store and, before it starts, copies the link O(path)C(/current) to C(release)
        in its runtime directory, which has the unit's name.
      - The module then tells which release the unit was started from, so that an interrupted restart shows.
    type: str
"""

EXAMPLES = r"""
- name: Configure the web server
  ai102.inference.release:
    path: /etc/ai102/gateway
    templates:
      - {src: nginx.conf.j2, dest: nginx.conf}
      - {src: upstreams.conf.j2, dest: upstreams.conf}
    validate:
      - /usr/sbin/nginx -t -q -c {release}/nginx.conf
  become: true

- name: Return to the configuration before
  ai102.inference.release:
    path: /etc/ai102/gateway
    state: previous
  become: true
"""

RETURN = r"""
release:
  description: Id of the release that the parameters describe, or that was switched to.
  returned: success
  type: str
  sample: 4f0c2f6a9d1b7e35
path:
  description: Directory of that release.
  returned: success
  type: str
  sample: /etc/ai102/gateway/releases/4f0c2f6a9d1b7e35
current:
  description: Id of the release in force after the module ran, or null.
  returned: success
  type: str
previous:
  description: Id of the release to go back to, or null.
  returned: success
  type: str
pending:
  description:
    - Whether the release is staged (or would be) but not in force.
    - With O(unit), also whether the unit does not run from it yet.
  returned: success
  type: bool
running:
  description: Id of the release that O(unit) was started from; null when it does not run.
  returned: with O(unit)
  type: str
pruned:
  description: Ids of releases that were removed.
  returned: success
  type: list
  elements: str
"""

import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ai102.inference.plugins.module_utils._release import (
    Release,
    ReleaseError,
    ReleaseFile,
    ReleaseLink,
    ReleaseStore,
    diff_entries,
    read_release,
    text_for_diff,
)


def _octal(value: str, name: str) -> int:
    try:
        return int(value, 8)
    except ValueError as error:
        raise ReleaseError(f"{name}: '{value}' is not an octal mode such as \"0644\"") from error


def _chown(path: Path, owner: str, group: str) -> None:
    if os.geteuid() == 0:
        try:
            shutil.chown(path, owner, group)
        except LookupError as error:
            raise ReleaseError(f"cannot give {path} to {owner}:{group}: {error}") from error


def _describe(params: dict[str, Any]) -> Release:
    return Release(
        files=tuple(
            ReleaseFile(item["dest"], item["content"].encode(), _octal(item["mode"], f"mode of {item['dest']}"))
            for item in params["files"]
        ),
        links=tuple(ReleaseLink(item["dest"], item["src"]) for item in params["links"]),
        owner=params["owner"],
        group=params["group"],
        directory_mode=_octal(params["directory_mode"], "directory_mode"),
    )


def _validator(module: AnsibleModule, release: Release) -> Any:
    def validate(directory: Path) -> None:
        for link in release.links:
            target = Path(link.src) if Path(link.src).is_absolute() else (directory / link.dest).parent / link.src
            if not target.exists() and not module.check_mode:
                raise ReleaseError(f"link {link.dest} points to {link.src}, which does not exist")
        for template in module.params["validate"]:
            command = [part.replace("{release}", str(directory)) for part in shlex.split(template)]
            if shutil.which(command[0]) is None:
                if module.check_mode:
                    module.warn(f"not validated: {command[0]} is not installed yet")
                    continue
                raise ReleaseError(f"cannot validate: {command[0]} is not installed")
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=120)
            if done.returncode != 0:
                said = "" if module.params["secret"] else (done.stderr.strip() or done.stdout.strip())
                final = ReleaseStore(Path(module.params["path"])).directory(release.id)
                said = said.replace(str(directory), str(final))
                raise ReleaseError(
                    f"'{template}' refused the new release (exit {done.returncode}): {said or 'it printed nothing'}. "
                    "Nothing was switched; what was in force still is."
                )

    return validate


def _check_in_copy(module: AnsibleModule, release: Release) -> None:
    """In check mode: stage below a temporary directory, so that the validators see the real files."""
    with tempfile.TemporaryDirectory(prefix="ai102-check-") as temporary:
        ReleaseStore(Path(temporary)).stage(release, _validator(module, release))


def _running(unit: str) -> str | None:
    """Id of the release that the unit noted when it started, or ``None`` when it does not run."""
    if shutil.which("systemctl") is None:
        return None
    done = subprocess.run(
        ["systemctl", "show", "--property=ActiveState", unit], capture_output=True, text=True, check=False
    )
    shown = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    if shown.get("ActiveState") not in {"active", "reloading"}:
        return None
    try:
        return Path(os.readlink(Path("/run", unit.rpartition(".")[0], "release"))).name
    except OSError:
        return None


def _put(module: AnsibleModule, store: ReleaseStore) -> dict[str, Any]:
    params = module.params
    release = _describe(params)
    before_id = store.current()
    switching = params["state"] == "present"
    staged = store.staged(release.id) and store.intact(release)
    changed = not staged or (switching and before_id != release.id)
    result: dict[str, Any] = {"changed": changed, "release": release.id, "path": str(store.directory(release.id))}
    if changed:
        before = read_release(store.directory(before_id)) if before_id else {}
        after = {item.dest: text_for_diff(item.content) for item in release.files}
        after.update({link.dest: f"-> {link.src}\n" for link in release.links})
        result["diff"] = diff_entries(before, after, str(store.path / "current"), params["secret"])
    if module.check_mode:
        if not staged:
            _check_in_copy(module, release)
        result["pruned"] = []
    else:
        store.stage(release, _validator(module, release))
        if switching:
            store.switch(release.id, remember=params["remember"])
        result["pruned"] = store.prune(params["keep"]) if changed and switching else []
    result["pending"] = before_id != release.id if module.check_mode or not switching else False
    return result


def _move(module: AnsibleModule, store: ReleaseStore) -> dict[str, Any]:
    params = module.params
    before_id = store.current()
    target = params["release"] if params["state"] == "current" else store.previous()
    if target is None:
        raise ReleaseError(f"{store.path} has no previous release to go back to")
    if not store.staged(target) and not module.check_mode:
        store.switch(target)  # raises, naming what there is
    changed = before_id != target
    result: dict[str, Any] = {
        "changed": changed,
        "release": target,
        "path": str(store.directory(target)),
        "pending": False,
        "pruned": [],
    }
    if changed and store.staged(target):
        before = read_release(store.directory(before_id)) if before_id else {}
        after = read_release(store.directory(target))
        result["diff"] = diff_entries(before, after, str(store.path / "current"), params["secret"])
    if changed and not module.check_mode:
        if params["state"] == "current":
            store.switch(target, remember=params["remember"])
            result["pruned"] = store.prune(params["keep"])
        else:
            store.back()
    return result


def main() -> None:
    """Entry point."""
    entry = {
        "dest": {"type": "str", "required": True},
        "content": {"type": "str", "required": True},
        "mode": {"type": "str", "default": "0644"},
    }
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["present", "staged", "current", "previous"], "default": "present"},
            "release": {"type": "str"},
            "templates": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "src": {"type": "str", "required": True},
                    "dest": {"type": "str", "required": True},
                    "mode": {"type": "str", "default": "0644"},
                },
            },
            "files": {"type": "list", "elements": "dict", "default": [], "options": entry},
            "links": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {"dest": {"type": "str", "required": True}, "src": {"type": "str", "required": True}},
            },
            "owner": {"type": "str", "default": "root"},
            "group": {"type": "str", "default": "root"},
            "directory_mode": {"type": "str", "default": "0755"},
            "validate": {"type": "list", "elements": "str", "default": []},
            "remember": {"type": "bool", "default": True},
            "keep": {"type": "int", "default": 3},
            "secret": {"type": "bool", "default": False},
            "unit": {"type": "str"},
        },
        required_if=[("state", "current", ["release"])],
        supports_check_mode=True,
    )
    if module.params["templates"]:
        module.fail_json(msg="templates are rendered by the action plugin; call the module as ai102.inference.release")
    store = ReleaseStore(Path(module.params["path"]), chown=_chown)
    try:
        act = _put if module.params["state"] in {"present", "staged"} else _move
        result = act(module, store)
    except (ReleaseError, subprocess.TimeoutExpired) as error:
        module.fail_json(msg=str(error), release=None, current=store.current(), previous=store.previous())
    result["current"] = store.current()
    result["previous"] = store.previous()
    if module.params["unit"]:
        result["running"] = _running(module.params["unit"])
        result["pending"] = result["pending"] or result["running"] != result["release"]
    module.exit_json(**result)


if __name__ == "__main__":
    main()
