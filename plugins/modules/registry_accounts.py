#!/usr/bin/python
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes the accounts of a container registry."""

from __future__ import annotations

DOCUMENTATION = r"""
module: registry_accounts
short_description: Write the accounts of a container registry
version_added: "0.1.0"
author: AI-102 inference maintainers (@ai102)
description:
  - Keeps a file of names and bcrypt hashes, the only form that C(docker-registry) accepts.
  - A hash that fits its password stays as it is, so a second run changes nothing. Accounts that are not listed are
    removed.
attributes:
  check_mode:
    description: Predicts the change without writing anything.
    support: full
  diff_mode:
    description: Names the accounts that come, change and go. Hashes are never shown.
    support: full
  idempotent:
    description: A second run changes nothing.
    support: full
options:
  path:
    description: The file.
    type: path
    required: true
  accounts:
    description: Who may log in.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the account.
        type: str
        required: true
      password:
        description: Its password, 72 bytes at most.
        type: str
        required: true
  group:
    description: Group that may read the file; it belongs to root.
    type: str
    required: true
  cost:
    description: Cost of the hashes, a power of two from 4 to 31.
    type: int
    default: 10
requirements:
  - python3-bcrypt on the host
"""

EXAMPLES = r"""
- name: Write the accounts of the registry
  ai102.inference.registry_accounts:
    path: /etc/ai102/registry/htpasswd
    accounts:
      - {name: builder, password: "{{ vault_builder_password }}"}
    group: docker-registry
  become: true
  no_log: true
"""

RETURN = r"""
added:
  description: Accounts that were not there.
  type: list
  elements: str
  returned: success
updated:
  description: Accounts whose hash is another one.
  type: list
  elements: str
  returned: success
removed:
  description: Accounts that are gone.
  type: list
  elements: str
  returned: success
"""

import os
import tempfile
import traceback
import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.ai102.inference.plugins.module_utils._registry_accounts import (
    AccountError,
    check,
    merge,
    parse,
    render,
)

try:
    import bcrypt
except ImportError:
    bcrypt = None
    BCRYPT_ERROR: str | None = traceback.format_exc()
else:
    BCRYPT_ERROR = None

_MODE: t.Final = 0o640


def _listing(names: t.Iterable[str], changed: t.Container[str]) -> str:
    return "".join(f"{name}{' (another hash)' if name in changed else ''}\n" for name in sorted(names))


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """Do what the options say.

    :returns: the module's result.
    :raises AccountError: accounts that cannot be written.
    """
    params = module.params
    path = Path(params["path"])
    wanted = check(params["accounts"])
    if not 4 <= params["cost"] <= 31:
        raise AccountError(f"cost: {params['cost']} is not between 4 and 31")
    present = parse(path.read_text(encoding="utf-8")) if path.exists() else {}
    if bcrypt is None:
        if not module.check_mode or present:
            module.fail_json(msg=missing_required_lib("bcrypt"), exception=BCRYPT_ERROR)
        merged = dict.fromkeys(wanted, "")  # a fresh host: every account is new
    else:
        merged = merge(present, wanted, params["cost"], bcrypt)
    updated = sorted(name for name in merged if name in present and merged[name] != present[name])
    result: dict[str, t.Any] = {
        "changed": merged != present or not path.exists(),
        "added": sorted(set(merged) - set(present)),
        "updated": updated,
        "removed": sorted(set(present) - set(merged)),
    }
    if result["changed"]:
        before = _listing(present, ()) if path.exists() else ""
        result["diff"] = {
            "before_header": str(path),
            "after_header": str(path),
            "before": before,
            "after": _listing(merged, updated),
        }
        if not module.check_mode:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            handle, staged = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            with os.fdopen(handle, "w", encoding="utf-8") as sink:
                sink.write(render(merged))
            _own(module, staged, False)
            module.atomic_move(staged, str(path))
    if path.exists() and bcrypt is not None:
        result["changed"] = _own(module, str(path), result["changed"])
    return result


def _own(module: AnsibleModule, path: str, changed: bool) -> bool:
    """Give the file to root and the group; tells whether that, or anything before, changed something."""
    changed = module.set_owner_if_different(path, "root" if os.geteuid() == 0 else None, changed)
    changed = module.set_group_if_different(path, module.params["group"], changed)
    return bool(module.set_mode_if_different(path, _MODE, changed))


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "accounts": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "password": {"type": "str", "required": True, "no_log": True},
                },
            },
            "group": {"type": "str", "required": True},
            "cost": {"type": "int", "default": 10},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except (AccountError, OSError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
