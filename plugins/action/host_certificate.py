# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Control node's half of `host_certificate`: reads provided certificates, and checks what a host asks for."""

from __future__ import annotations

import datetime
import os
import typing as t

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.ai102.inference.plugins.module_utils import _certificate as lib


class ActionModule(ActionBase):
    """Runs the module once, with paths of the control node exchanged for what they hold."""

    TRANSFERS_FILES = False
    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Runs the module and returns its result."""
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        if lib.CRYPTOGRAPHY_IMPORT_ERROR is not None:
            raise AnsibleActionFail("the control node needs the Python package `cryptography`")
        arguments: dict[str, t.Any] = dict(self._task.args)
        state = arguments.get("state", "requested")
        now = datetime.datetime.now(datetime.timezone.utc)
        certificates = arguments.get("certificates") or []
        if not isinstance(certificates, list) or not all(isinstance(item, dict) for item in certificates):
            raise AnsibleActionFail("certificates: a list of dictionaries is needed")
        try:
            arguments["certificates"] = [self._with_content(dict(item), state, now) for item in certificates]
        except lib.CertificateError as error:
            raise AnsibleActionFail(str(error)) from None  # the cause says nothing more
        result.update(
            self._execute_module(
                module_name="ai102.inference.host_certificate", module_args=arguments, task_vars=task_vars
            )
        )
        if not result.get("failed"):
            self._check_requests(result.get("requests") or [], certificates)
        return result

    def _with_content(self, item: dict[str, t.Any], state: str, now: datetime.datetime) -> dict[str, t.Any]:
        """Exchanges the paths of a provided certificate for their content, after checking it."""
        provided = item.get("provided")
        if not provided:
            item.pop("provided", None)
            return item
        what = f"provided certificate {item.get('name')}"
        certificate = self._read(provided.get("certificate"), f"{what}: certificate")
        key_pem = self._read(provided.get("private_key"), f"{what}: private_key")
        chain = lib.split_certificates(certificate)[1:]
        if provided.get("chain"):
            chain += lib.split_certificates(self._read(provided["chain"], f"{what}: chain"))
        passphrase = provided.get("passphrase") or None
        errors = lib.provided_errors(certificate, key_pem, chain, item.get("names") or [], now, passphrase=passphrase)
        if errors:
            raise lib.CertificateError(f"{what} ({provided['certificate']}) cannot be used: {'; '.join(errors)}")
        # The private key travels only when the certificate is put in place.
        key = lib.plain_key(lib.load_key(key_pem, passphrase=passphrase)) if state == "installed" else ""
        item["provided"] = {"certificate": lib.split_certificates(certificate)[0], "private_key": key}
        item["issuer"] = "".join(chain)
        return item

    def _read(self, path: t.Any, what: str) -> str:
        if not path:
            raise lib.CertificateError(f"{what}: a path on the control node is needed")
        content = lib.read_file(os.path.expanduser(str(path)))
        if content is None:
            raise lib.CertificateError(f"{what}: there is no file {path} on the control node")
        return content

    def _check_requests(self, requests: list[dict[str, str]], certificates: list[dict[str, t.Any]]) -> None:
        """Fails where a host asks for something else than it was told to ask for."""
        wanted = {item["name"]: item for item in certificates}
        for request in requests:
            item = wanted.get(request["name"])
            if item is None:
                raise AnsibleActionFail(f"the host asks for a certificate {request['name']!r} that nobody wants")
            errors = lib.request_errors(
                request["csr"],
                lib.Wanted(
                    name=item["name"],
                    common_name=item.get("common_name") or item["names"][0],
                    names=tuple(item["names"]),
                    usages=tuple(item.get("usages") or ["server"]),
                ),
            )
            if errors:
                raise AnsibleActionFail(
                    f"the host's request for certificate {request['name']!r} is not what it was told to ask for "
                    f"and was not signed: {'; '.join(errors)}. If nobody is working on that host, look for an intruder."
                )
