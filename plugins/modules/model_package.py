#!/usr/bin/python
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes and signs the packages of models on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: model_package
short_description: Make and sign the packages of models on the control node
version_added: "0.1.0"
description:
  - A package is one version of a model as a directory, with a manifest (sha256 of each file, inputs, outputs, golden
    answers, licence) and the manifest's Ed25519 signature.
  - Packages lie in the control node's cache and are made again only when something they are made of has changed. The
    same content makes the same manifest and signature.
  - The signing key is made when there is none, and encrypted with the passphrase.
  - The cache is not a managed state, so the task never reports a change. In check mode nothing is written; a package
    that would have to be made has no C(package).
author:
  - AI-102 inference maintainers (@ai102)
attributes:
  check_mode:
    description: Makes nothing, but finds the mistakes in what is there.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
  idempotent:
    description: What has not changed is not made again.
    support: full
  action:
    description: Runs on the control node only.
    support: full
options:
  models:
    description: The models, see C(ai102_models) of the role C(model_store).
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Lower-case letters, digits and C(. _ -) inside.
        type: str
        required: true
      version:
        description: Letters, digits and C(. _ -) inside. A version never changes its content.
        type: str
        required: true
      source:
        description:
          - Exactly one of C(lock) (a model of the artifacts lock), C(path) (an ONNX file, or a directory with
            C(model.onnx) and what belongs to it), C(package) (a package that was made and signed elsewhere).
        type: dict
        required: true
      golden:
        description: JSON file with the golden requests and answers. Models of the lock have theirs.
        type: path
      config:
        description: What clients may want to know, such as labels, as a dictionary or a JSON file.
        type: raw
      serving:
        description:
          - How the server serves the model - C(batching), C(instances), C(padding), C(tags), C(pipeline). It becomes
            part of the signed manifest; the server's README says what may stand there.
        type: dict
      encrypted:
        description:
          - Whether the hosts have the model's files in encrypted form only (AES-256-GCM), all but C(golden.json) and
            C(config.json). The server decrypts them in memory.
          - Packages that were made elsewhere are encrypted there, with C(ai102-server package encrypt).
        type: bool
        default: false
      licence:
        description: SPDX identifier of the model's licence.
        type: str
      description:
        description: For people.
        type: str
  cache_dir:
    description: The control node's cache.
    type: path
    required: true
  signing_key:
    description: The private key on the control node. The public key is written beside it with the suffix C(.pub).
    type: path
    required: true
  passphrase:
    description: Encrypts the private key.
    type: str
    required: true
  trusted_keys:
    description: Public keys (PEM, or the path of a file) that may have signed packages made elsewhere.
    type: list
    elements: str
    default: []
  encryption_key:
    description: The key on the control node from which the one that encrypts models is derived, made when a model is
      to be encrypted and there is none. By default C(model_encryption.key) beside the signing key.
    type: path
    default: ""
  decryption_keys:
    description: Keys of encrypted packages that were made elsewhere, 32 bytes each in hexadecimal or base64, or the
      path of a file as C(ai102-server package keys) makes it.
    type: list
    elements: str
    default: []
  fetched:
    description: Models of the lock as M(ai102.inference.artifact) returns them.
    type: dict
    default: {}
  shipped:
    description: Directory with C(golden/<model>.json) and C(config/<model>.json) for models of the lock.
    type: path
    required: true
requirements:
  - cryptography and onnx in the interpreter that runs Ansible
"""

EXAMPLES = r"""
- name: Package a model of ours
  ai102.inference.model_package:
    models:
      - name: defects
        version: "3"
        source: {path: /home/operator/defects.onnx}
        golden: /home/operator/defects.golden.json
        licence: LicenseRef-ours
    cache_dir: "{{ ai102_cache_dir }}"
    signing_key: "{{ ai102_secrets_dir }}/model_signing.key"
    passphrase: "{{ ai102_secrets_passphrase }}"
    shipped: "{{ role_path }}/files"
  register: packaged
"""

RETURN = r"""
models:
  description: Each with C(name), C(version), C(package) (path on the control node), C(manifest_sha256) and C(files).
  type: list
  elements: dict
  returned: success
public_keys:
  description: The public keys that packages are verified with, the site's first, as PEM.
  type: str
  returned: success
"""
