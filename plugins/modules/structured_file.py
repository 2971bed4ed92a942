#!/usr/bin/python
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sets values in a JSON or TOML file that has other authors too."""

from __future__ import annotations

DOCUMENTATION = r"""
module: structured_file
short_description: Set values in a JSON or TOML file that has other authors too
version_added: "0.1.0"
description:
  - Puts nested values into a JSON or TOML file and leaves everything else in it as it is; in TOML the comments and the
    order too.
  - Remembers on the host what it has set and what was there before. Only these values are ever changed again. A value
    that is not wanted any more becomes what it was before, unless somebody else has set it since.
  - A value that somebody else has set to something different is not overwritten unless O(conflict=replace).
  - A value that is as wanted already without having been set by the module stays its author's, and is never removed.
  - The file is validated under a temporary name and switched at once, so its reader never sees half of it.
author:
  - AI-102 inference maintainers (@ai102)
attributes:
  check_mode:
    description: Predicts the change. Validation runs on a temporary copy.
    support: full
  diff_mode:
    description: Shows the file before and after.
    support: full
  idempotent:
    description: A second run changes nothing.
    support: full
options:
  path:
    description: The file.
    type: path
    required: true
  format:
    description: What the file is written in; V(auto) goes by the end of its name (C(.json), C(.toml)).
    type: str
    choices: [auto, json, toml]
    default: auto
  values:
    description:
      - Everything that is wanted of O(owner), as nested dictionaries. A list is one value, unless it is among O(lists).
        What is null is left alone.
    type: dict
    default: {}
  lists:
    description:
      - Lists in O(values) whose items are added to what others have put in, each as the list of keys that leads to it.
    type: list
    elements: list
    default: []
  owner:
    description: Who sets the values. Each owner has values of its own in a file.
    type: str
    required: true
  state:
    description:
      - V(present) sets the values.
      - V(absent) takes back everything that O(owner) has set, and removes the file if that made it.
      - V(previous) undoes the last change of O(owner), if nobody has written the file since.
    type: str
    choices: [present, absent, previous]
    default: present
  conflict:
    description:
      - What to do where somebody else has set another value. V(refuse) fails before anything is changed, V(keep) leaves
        theirs, V(replace) sets ours and remembers theirs.
    type: str
    choices: [refuse, keep, replace]
    default: refuse
  validate:
    description:
      - Command that must succeed before the file is switched, run without a shell. C({file}) stands for the new file.
    type: str
    default: ""
  mode:
    description: Permission bits of a file that is not there yet, as an octal string.
    type: str
    default: "0644"
  records:
    description: Directory on the host where the module remembers what it has set.
    type: path
    default: /var/lib/ai102/structured_files
requirements:
  - tomlkit on the host, for TOML
"""

EXAMPLES = r"""
- name: Limit the logs of containers
  ai102.inference.structured_file:
    path: /etc/docker/daemon.json
    owner: container_runtime
    values:
      log-driver: json-file
      log-opts: {max-size: 50m, max-file: "5"}
  become: true

- name: Take everything back that was set
  ai102.inference.structured_file:
    path: /etc/docker/daemon.json
    owner: container_runtime
    state: absent
  become: true
"""

RETURN = r"""
owned:
  description: The values that belong to the owner, by their dotted path.
  returned: success
  type: list
  elements: str
  sample: [log-driver, log-opts.max-file, log-opts.max-size]
conflicts:
  description: Values of others that differ from what is wanted.
  returned: always
  type: list
  elements: dict
  contains:
    path:
      description: Dotted path.
      type: str
    theirs:
      description: The value in the file.
      type: raw
    wanted:
      description: The value that was wanted.
      type: raw
document:
  description: What the file says after the module ran.
  returned: success
  type: dict
"""

import contextlib
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ai102.inference.plugins.module_utils._structured import (
    Conflict,
    Format,
    LibraryError,
    Merge,
    Record,
    StructuredError,
    dotted,
    format_of,
    leaves,
    merge,
)


class Target:
    """The file, and what is remembered about it."""

    def __init__(self, module: AnsibleModule) -> None:
        params = module.params
        self.module = module
        self.path = Path(os.path.realpath(params["path"]))
        name = f"{params['path'].strip('/').replace('/', '-')}.json"
        self.record_path = Path(params["records"], params["owner"], name)
        self.undo_path = self.record_path.with_suffix(".previous")
        self.text = self._read(self.path)
        record = self._read(self.record_path)
        try:
            self.record = Record.from_json(json.loads(record)) if record is not None else Record()
        except ValueError as error:
            raise StructuredError(f"{self.record_path}: {error}") from error

    @property
    def format(self) -> Format:
        """How the file is written. Asked for late: where nothing is to be done, no library is needed for it."""
        return format_of(self.module.params["format"], self.module.params["path"])

    @staticmethod
    def _read(path: Path) -> str | None:
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except UnicodeDecodeError as error:
            raise StructuredError(f"{path} is not a text in UTF-8") from error

    @property
    def document(self) -> dict[str, Any]:
        """What the file says now."""
        try:
            return self.format.read(self.text or "")
        except StructuredError as error:
            raise type(error)(f"{self.path}: {error}") from error

    def _write(self, path: Path, text: str, mode: int, like: Path | None = None, validate: str = "") -> None:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
        staged = Path(name)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            staged.chmod(mode)
            if like is not None and like.exists():
                there = like.stat()
                os.chown(staged, there.st_uid, there.st_gid)
                staged.chmod(there.st_mode & 0o7777)
            if validate:
                self.validate(staged, validate)
            staged.replace(path)
        finally:
            staged.unlink(missing_ok=True)

    def validate(self, file: Path, template: str) -> None:
        """Have the program that reads the file check it.

        Raises:
            StructuredError: it refuses the file.
        """
        command = [part.replace("{file}", str(file)) for part in shlex.split(template)]
        if shutil.which(command[0]) is None:
            if self.module.check_mode:
                self.module.warn(f"not validated: {command[0]} is not installed yet")
                return
            raise StructuredError(f"cannot validate: {command[0]} is not installed")
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=120)
        if done.returncode != 0:
            said = (done.stderr.strip() or done.stdout.strip() or "it printed nothing").replace(
                str(file), str(self.path)
            )
            raise StructuredError(
                f"'{template}' refused the new {self.path} (exit {done.returncode}): {said}. Nothing was changed."
            )

    def check(self, text: str, validate: str) -> None:
        """In check mode: have a temporary copy validated."""
        if validate:
            with tempfile.TemporaryDirectory(prefix="ai102-check-") as temporary:
                copy = Path(temporary, self.path.name)
                copy.write_text(text, encoding="utf-8")
                self.validate(copy, validate)

    def remember(self, record: Record) -> None:
        """Keep what is ours; a record of nothing is no record."""
        if record == Record():
            self.record_path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.record_path.parent.rmdir()
        else:
            self._write(self.record_path, f"{json.dumps(record.to_json(), indent=1)}\n", 0o600)

    def put(self, text: str | None, record: Record, validate: str = "", mode: int = 0o644) -> None:
        """Switch the file and what is remembered of it.

        What was ours and what becomes ours are both remembered while the file is written: an interruption never makes
        our value look like somebody else's.
        """
        undo = {
            "text": self.text,
            "record": self.record.to_json(),
            "sha256": None if text is None else _sha256(text),
        }
        joined = self.record.joined(record)
        if joined != self.record:
            self.remember(joined)
        try:
            if text is None:
                self.path.unlink(missing_ok=True)
            else:
                self._write(self.path, text, mode, like=self.path, validate=validate)
        except BaseException:
            self.remember(self.record)
            raise
        self.remember(record)
        if record == Record():
            self.undo_path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.undo_path.parent.rmdir()
        else:
            self._write(self.undo_path, json.dumps(undo), 0o600)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _result(target: Target, text: str | None, record: Record, document: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {
        "changed": text != target.text,
        "owned": sorted(dotted(path) for path in record.entries.keys() | record.items.keys()),
        "conflicts": [],
        "document": document,
    }
    if result["changed"]:
        header = str(target.path)
        result["diff"] = {
            "before": target.text or "",
            "after": text or "",
            "before_header": header,
            "after_header": header,
        }
    return result


def _shown(conflicts: list[Conflict]) -> list[dict[str, Any]]:
    # A value of TOML may be a date, which JSON has not.
    return [
        {
            "path": dotted(conflict.path),
            "theirs": json.loads(json.dumps(conflict.theirs, default=str)),
            "wanted": conflict.wanted,
        }
        for conflict in conflicts
    ]


def _merged(target: Target, values: dict[str, Any]) -> tuple[str | None, Merge]:
    params = target.module.params
    lists = {tuple(str(key) for key in path) for path in params["lists"]}
    before = target.document
    result = merge(before, values, target.record, lists, params["conflict"] == "replace")
    if target.text is None and result.document:
        result.record.created = True
    if not result.document and (target.text is None or result.record.created):
        result.record.created = False
        return None, result
    if result.document == before and target.text is not None:
        return target.text, result
    return target.format.write(target.text or "", result), result


def run(module: AnsibleModule) -> dict[str, Any]:
    """Do what the options say.

    Returns:
        The module's result.

    Raises:
        StructuredError: the file or what is wanted of it cannot be used.
    """
    params = module.params
    target = Target(module)
    wanted = params["values"] if params["state"] == "present" else {}
    if params["state"] != "previous" and target.record == Record() and not leaves(wanted):
        return {"changed": False, "owned": [], "conflicts": [], "document": {}}
    if params["state"] == "previous":
        return _undo(module, target)
    try:
        text, result = _merged(target, wanted)
    except LibraryError as error:
        if not module.check_mode:
            raise
        # A fresh host: the package would have been installed before.
        module.warn(f"{params['path']} was not compared: {error}")
        return {"changed": True, "owned": [], "conflicts": [], "document": wanted}
    if result.conflicts and params["conflict"] == "refuse":
        listed = "; ".join(map(str, result.conflicts))
        module.fail_json(
            msg=f"{params['path']}: somebody else has set other values: {listed}. Nothing was changed.",
            conflicts=_shown(result.conflicts),
        )
    answer = _result(target, text, result.record, result.document)
    answer["conflicts"] = _shown(result.conflicts)
    answer["document"] = json.loads(json.dumps(result.document, default=str))
    if module.check_mode:
        if answer["changed"] and text is not None:
            target.check(text, params["validate"])
        answer["changed"] = answer["changed"] or result.record != target.record
        return answer
    if answer["changed"]:
        target.put(text, result.record, params["validate"], int(params["mode"], 8))
    elif result.record != target.record:
        target.remember(result.record)
        answer["changed"] = True
    return answer


def _undo(module: AnsibleModule, target: Target) -> dict[str, Any]:
    saved = Target._read(target.undo_path)
    if saved is None:
        raise StructuredError(f"there is no change of {target.path} to undo")
    undo = json.loads(saved)
    if undo["sha256"] != (None if target.text is None else _sha256(target.text)):
        raise StructuredError(f"{target.path} was written by somebody else since; it is left as it is")
    record = Record.from_json(undo["record"])
    document = target.format.read(undo["text"] or "")
    answer = _result(target, undo["text"], record, document)
    if not module.check_mode:
        target.put(undo["text"], record)
        target.undo_path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            target.undo_path.parent.rmdir()
    return answer


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "format": {"type": "str", "choices": ["auto", "json", "toml"], "default": "auto"},
            "values": {"type": "dict", "default": {}},
            "lists": {"type": "list", "elements": "list", "default": []},
            "owner": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent", "previous"], "default": "present"},
            "conflict": {"type": "str", "choices": ["refuse", "keep", "replace"], "default": "refuse"},
            "validate": {"type": "str", "default": ""},
            "mode": {"type": "str", "default": "0644"},
            "records": {"type": "path", "default": "/var/lib/ai102/structured_files"},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except (StructuredError, OSError, subprocess.TimeoutExpired) as error:
        module.fail_json(msg=str(error), conflicts=[])


if __name__ == "__main__":
    main()
