# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lookup ``access_token``."""

from __future__ import annotations

DOCUMENTATION = r"""
name: access_token
author: AI-102 inference maintainers (@ai102)
version_added: "0.1.0"
short_description: A token with which the site asks its own inference servers
description:
  - Signs a token of the account C(ai102-verify), which may ask for predictions, with the site's key on the control
    node. It is good for 15 minutes.
  - The account, and one for each tenant, is among those that M(ai102.inference.server_access) delivers.
options:
  _terms:
    description: Path of the key that signs tokens.
    required: true
  passphrase:
    description: Opens the key.
    type: str
    required: true
  tenant:
    description: Tenant whose models are asked.
    type: str
    default: ""
  issuer:
    description: C(access.issuer) of the server's configuration.
    type: str
    default: ai102-server
  audience:
    description: C(access.audience) of the server's configuration.
    type: str
    default: ai102-inference
requirements:
  - cryptography in the interpreter that runs Ansible
"""

EXAMPLES = r"""
- name: Ask a server that asks for tokens
  ai102.inference.inference_request:
    url: https://192.0.2.11:8443
    model: fraud
    token: "{{ lookup('ai102.inference.access_token', key, passphrase=ai102_secrets_passphrase) }}"
  vars:
    key: "{{ ai102_secrets_dir }}/token_signing.key"
"""

RETURN = r"""
_raw:
  description: The token, a signed JWT.
  type: list
  elements: str
"""

import time
import typing as t

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from ansible_collections.ai102.inference.plugins.module_utils._access import AccessError, TokenKey


class LookupModule(LookupBase):
    """Signs a token with each key."""

    def run(self, terms: list[str], variables: dict[str, t.Any] | None = None, **kwargs: t.Any) -> list[str]:
        """Return a token for each key."""
        self.set_options(var_options=variables, direct=kwargs)
        try:
            return [
                TokenKey(term, self.get_option("passphrase")).token(
                    self.get_option("tenant"),
                    now=time.time(),
                    issuer=self.get_option("issuer"),
                    audience=self.get_option("audience"),
                )
                for term in terms
            ]
        except AccessError as error:
            raise AnsibleLookupError(str(error)) from None
