# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Control node's half of `server_access`: checks the accounts, hashes their passwords, and reads the key."""

from __future__ import annotations

import json
import typing as t

from ansible.errors import AnsibleActionFail
from ansible_collections.ai102.inference.plugins.module_utils._access import AccessError, TokenKey, accounts_document
from ansible_collections.ai102.inference.plugins.plugin_utils._controller import ControllerAction


class ActionModule(ControllerAction):
    """Makes the files on the control node and has the module put them in place."""

    argument_spec: t.ClassVar[dict[str, dict[str, t.Any]]] = {
        "path": {"type": "path", "required": True},
        "group": {"type": "str", "required": True},
        "accounts": {"type": "list", "elements": "dict", "required": True},
        "policy": {"type": "dict", "default": {}},
        "tenants": {"type": "list", "elements": "str", "default": []},
        "signing_key": {"type": "path", "required": True},
        "passphrase": {"type": "str", "required": True, "no_log": True},
        "config": {"type": "dict", "default": {}},
        "validate": {"type": "str", "default": ""},
    }

    def work(self, options: dict[str, t.Any], task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        """Do the work; see ``ControllerAction``."""
        key = TokenKey(options["signing_key"], options["passphrase"])
        try:
            key.ensure(dry=self._task.check_mode)
            document = accounts_document(options["accounts"], options["tenants"], key)
            pem = key.pem()
        except AccessError as error:
            raise AnsibleActionFail(str(error)) from None
        return dict(
            self._execute_module(
                module_name="ai102.inference.server_access",
                module_args={
                    "path": options["path"],
                    "group": options["group"],
                    # The control node keeps these to itself.
                    "accounts": [],
                    "signing_key": options["signing_key"],
                    "passphrase": "",
                    "document": json.dumps(document),
                    "policy": options["policy"],
                    "config": options["config"],
                    "validate": options["validate"],
                    "key": pem,
                },
                task_vars=task_vars,
            )
        )
