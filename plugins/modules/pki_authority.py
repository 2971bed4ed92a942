# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the action plugin of the same name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pki_authority
short_description: Looks at the certificate authorities on the control node
version_added: "0.1.0"
author:
  - AI-102 inference maintainers (@ai102)
description:
  - Says which of the private authorities on the control node have to be made or issued anew, and why, and returns their
    certificates. Runs within the control node's process, so that a run where nothing is due costs next to nothing.
  - Opens every private key, so that a wrong passphrase is found before anything is changed.
requirements:
  - cryptography on the control node
attributes:
  check_mode:
    description: Only looks.
    support: full
  diff_mode:
    description: Changes nothing, so there is nothing to show.
    support: none
  idempotent:
    description: Only looks.
    support: full
  action:
    description: Runs on the control node.
    support: full
options:
  path:
    description: Directory on the control node that holds C(<name>-ca.key) and C(<name>-ca.pem).
    type: path
    required: true
  passphrase:
    description: Passphrase of the private keys.
    type: str
    required: true
  renew_before:
    description: Days before its end from which on an authority's certificate is due.
    type: int
    required: true
  authorities:
    description: The authorities, each after the one that signs it.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Begin of the file names.
        type: str
        required: true
      common_name:
        description: Common name of the subject.
        type: str
        required: true
      issuer:
        description: Name of the authority that signs it; its own for one that signs itself.
        type: str
        required: true
      usages:
        description: What its certificates may be used for; empty for anything.
        type: list
        elements: str
        choices: [server, client]
        default: []
      path_length:
        description: Authorities that may follow below it.
        type: int
        default: 0
      permitted:
        description: Name constraints such as V(DNS:example.internal) and V(IP:10.0.0.0/8); empty for none.
        type: list
        elements: str
        default: []
"""

EXAMPLES = r"""
- name: Look at the authorities
  ai102.inference.pki_authority:
    path: "{{ inventory_dir }}/secrets/pki"
    passphrase: "{{ ai102_secrets_passphrase }}"
    renew_before: 180
    authorities:
      - {name: root, common_name: Example root, issuer: root, path_length: 1}
  register: authorities
  run_once: true
  no_log: true
"""

RETURN = r"""
due:
  description: Reasons by name of authority.
  returned: always
  type: dict
certificates:
  description: Certificates in PEM form by name of authority; empty texts for those that do not exist yet.
  returned: always
  type: dict
"""
