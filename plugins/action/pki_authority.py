# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks at the certificate authorities on the control node, within its own process."""

from __future__ import annotations

import datetime
import os
import typing as t

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.ai102.inference.plugins.module_utils import _certificate as lib

_ARGUMENTS: dict[str, t.Any] = {
    "path": {"type": "path", "required": True},
    "passphrase": {"type": "str", "required": True, "no_log": True},
    "renew_before": {"type": "int", "required": True},
    "authorities": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {
            "name": {"type": "str", "required": True},
            "common_name": {"type": "str", "required": True},
            "issuer": {"type": "str", "required": True},
            "usages": {"type": "list", "elements": "str", "choices": ["server", "client"], "default": []},
            "path_length": {"type": "int", "default": 0},
            "permitted": {"type": "list", "elements": "str", "default": []},
        },
    },
}


class ActionModule(ActionBase):
    """Returns what is due and the certificates."""

    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Looks at every authority."""
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        if lib.CRYPTOGRAPHY_IMPORT_ERROR is not None:
            raise AnsibleActionFail("the control node needs the Python package `cryptography`")
        _checked, arguments = self.validate_argument_spec(argument_spec=_ARGUMENTS)
        if len(arguments["passphrase"]) < 4:  # OpenSSL's own limit; shorter ones fail half-way
            raise AnsibleActionFail("ai102_secrets_passphrase: at least 4 characters are needed")
        now = datetime.datetime.now(datetime.timezone.utc)
        due: dict[str, list[str]] = {}
        certificates: dict[str, str] = {}
        try:
            for item in arguments["authorities"]:
                authority = lib.Authority(
                    name=item["name"],
                    common_name=item["common_name"],
                    issuer=item["issuer"],
                    usages=tuple(item["usages"]),
                    path_length=item["path_length"],
                    permitted=tuple(item["permitted"]),
                )
                reasons = lib.authority_reasons(
                    authority, arguments["path"], arguments["passphrase"], arguments["renew_before"], now
                )
                if reasons:
                    due[authority.name] = reasons
                path = os.path.join(arguments["path"], f"{authority.name}-ca.pem")
                certificates[authority.name] = lib.read_file(path) or ""
        except (lib.CertificateError, OSError) as error:
            raise AnsibleActionFail(str(error)) from None  # the cause says nothing more
        result.update(changed=False, due=due, certificates=certificates)
        return result
