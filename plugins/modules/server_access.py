#!/usr/bin/python
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module ``server_access``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: server_access
short_description: Deliver the accounts of the inference servers and the key that signs their tokens
version_added: "0.1.0"
author: AI-102 inference maintainers (@ai102)
description:
  - Makes the file of accounts on the control node, with Argon2id hashes whose salts are derived from the site's key, so
    that a second run makes the same file.
  - Puts accounts, policy and key on the host, readable by root and one group. The server notices within a second.
  - Adds the accounts with which the site asks its hosts for golden answers, see P(ai102.inference.access_token#lookup).
attributes:
  check_mode:
    description: Predicts the change without writing anything, on the control node neither.
    support: full
  diff_mode:
    description: Shows accounts and policy, never hashes or keys.
    support: full
  idempotent:
    description: A second run changes nothing.
    support: full
  action:
    description: The control node makes what the host gets.
    support: full
options:
  path:
    description: Directory on the host, for C(accounts.yml), C(policy.yml) and C(keys/).
    type: path
    required: true
  group:
    description: Group that may read it.
    type: str
    required: true
  accounts:
    description: Who may log in.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Up to 64 letters, digits and C(. _ @ + -).
        type: str
        required: true
      password:
        description: 8 bytes or more, from a vault. Exactly one of this and C(hash) is needed.
        type: str
      hash:
        description: An Argon2id hash, as C(ai102-server account hash) prints it.
        type: str
      role:
        description: V(viewer), V(user), V(operator), V(admin), or a role of O(policy).
        type: str
        required: true
      tenant:
        description: Whose models it may use besides those of nobody.
        type: str
      disabled:
        description: Whether it may log in no longer, and its tokens end.
        type: bool
        default: false
      attributes:
        description: For rules of the policy.
        type: dict
  policy:
    description: Roles and rules besides the built-in ones, as the server's documentation describes them.
    type: dict
    default: {}
  tenants:
    description: Tenants that own models, besides those of the accounts.
    type: list
    elements: str
    default: []
  signing_key:
    description: The key on the control node, made when there is none. Without it all tokens end.
    type: path
    required: true
  passphrase:
    description: Encrypts the key on the control node.
    type: str
    required: true
  config:
    description: The server's configuration, whose C(access) names files below O(path).
    type: dict
    default: {}
  validate:
    description:
      - Command that looks at the new files before they are put in place, in a folder beside O(path). Its C({config})
        becomes a file with O(config), in which O(path) is that folder. When it fails, nothing is changed.
    type: str
    default: ""
  document:
    description: What the control node has made of the accounts. Not for playbooks.
    type: str
  key:
    description: The key as the server reads it. Not for playbooks.
    type: str
requirements:
  - cryptography and PyYAML in the interpreter that runs Ansible
"""

EXAMPLES = r"""
- name: Deliver the accounts
  ai102.inference.server_access:
    path: /etc/ai102/access
    group: ai102
    accounts:
      - {name: alice, role: user, password: "{{ vault_alice_password }}"}
      - {name: batch, role: user, tenant: acme, hash: "{{ vault_batch_hash }}"}
    signing_key: "{{ ai102_secrets_dir }}/token_signing.key"
    passphrase: "{{ ai102_secrets_passphrase }}"
    config: "{{ configuration_of_the_server }}"
    validate: ai102-server check --access --config {config}
  become: true
"""

RETURN = r"""
files:
  description: Files that are or would be other than before.
  type: list
  elements: str
  returned: success
"""

import json
import os
import shlex
import shutil
import tempfile
import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ai102.inference.plugins.module_utils._access import describe

_KEY: t.Final = "keys/site.pem"
_ACCOUNTS: t.Final = "accounts.yml"
_POLICY: t.Final = "policy.yml"
_NOTE: t.Final = "# Managed by Ansible (ai102.inference).\n"


def _text(document: t.Any) -> str:
    # JSON is YAML, and hosts have no PyYAML of their own.
    return f"{_NOTE}{json.dumps(document, indent=1, sort_keys=True)}\n"


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def _shown(name: str, text: str | None) -> str:
    """What a diff may show of a file."""
    if text is None:
        return ""
    if name == _KEY:
        return "a key\n"
    if name == _POLICY:
        return text
    try:
        return describe(json.loads("".join(line for line in text.splitlines(True) if not line.startswith("#"))))
    except (ValueError, AttributeError):
        return "what is not of this module\n"


def _write(module: AnsibleModule, path: Path, text: str) -> None:
    handle, staged = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as sink:
        sink.write(text)
    # Not AnsibleModule.atomic_move: that gives a new file the mode that the umask says, and this one holds a key.
    _own(module, staged, 0o640, False)
    os.replace(staged, path)


def _own(module: AnsibleModule, path: str, mode: int, changed: bool) -> bool:
    """Give a path to root and the group; tells whether that, or anything before, changed something."""
    changed = module.set_owner_if_different(path, "root" if os.geteuid() == 0 else None, changed)
    changed = module.set_group_if_different(path, module.params["group"], changed)
    return bool(module.set_mode_if_different(path, mode, changed))


def _validate(module: AnsibleModule, root: Path, wanted: t.Mapping[str, str]) -> None:
    """Have the server look at the files from another folder; fail when it would not start with them."""
    root.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(dir=root.parent, prefix=f".{root.name}."))
    try:
        (staged / "keys").mkdir()
        for folder in (staged, staged / "keys"):
            _own(module, str(folder), 0o750, False)
        for name, text in wanted.items():
            _write(module, staged / name, text)
        config = staged / "config.json"
        _write(module, config, json.dumps(module.params["config"]).replace(f"{root}/", f"{staged}/"))
        command = [part.replace("{config}", str(config)) for part in shlex.split(module.params["validate"])]
        status, output, errors = module.run_command(command)
        if status != 0:
            told = (errors.strip() or output.strip()).replace(str(staged), str(root))
            module.fail_json(msg=f"the server refuses the accounts or the policy, and nothing was changed: {told}")
    finally:
        shutil.rmtree(staged)


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """Put the files in place.

    :returns: the module's result.
    """
    root = Path(module.params["path"])
    wanted: dict[str, str] = {
        # The key first: whoever logs in with a new account needs one.
        _KEY: module.params["key"],
        _POLICY: _text(module.params["policy"]),
        _ACCOUNTS: _text(json.loads(module.params["document"])),
    }
    present = {name: _read(root / name) for name in wanted}
    differing = [name for name in wanted if wanted[name] != present[name]]
    changed = bool(differing)
    if not module.check_mode:
        if differing and module.params["validate"]:
            _validate(module, root, wanted)
        for folder in (root, root / "keys"):
            folder.mkdir(mode=0o750, parents=True, exist_ok=True)
            changed = _own(module, str(folder), 0o750, changed)
        for name in differing:
            _write(module, root / name, wanted[name])
    for name in wanted:
        if name not in differing:
            changed = _own(module, str(root / name), 0o640, changed)
    return {
        "changed": changed,
        "files": [str(root / name) for name in differing],
        "diff": [
            {
                "before_header": str(root / name),
                "after_header": str(root / name),
                "before": _shown(name, present[name]),
                "after": _shown(name, wanted[name]),
            }
            for name in differing
        ],
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "group": {"type": "str", "required": True},
            # The control node keeps its secrets to itself: instead of these three come `document` and `key`.
            "accounts": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "password": {"type": "str", "no_log": True},
                    "hash": {"type": "str", "no_log": True},
                    "role": {"type": "str", "required": True},
                    "tenant": {"type": "str"},
                    "disabled": {"type": "bool", "default": False},
                    "attributes": {"type": "dict"},
                },
            },
            "signing_key": {"type": "path", "required": True},
            "passphrase": {"type": "str", "required": True, "no_log": True},
            "policy": {"type": "dict", "default": {}},
            "tenants": {"type": "list", "elements": "str", "default": []},
            "config": {"type": "dict", "default": {}},
            "validate": {"type": "str", "default": ""},
            "document": {"type": "str", "no_log": True},
            "key": {"type": "str", "no_log": True},
        },
        supports_check_mode=True,
    )
    if not module.params["document"] or not module.params["key"]:
        module.fail_json(msg="server_access needs its action plugin: call it as ai102.inference.server_access")
    try:
        module.exit_json(**run(module))
    except OSError as error:
        module.fail_json(msg=f"{error.filename}: {error.strerror}")


if __name__ == "__main__":
    main()
