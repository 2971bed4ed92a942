#!/usr/bin/python
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Has files and models of the lock on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: artifact
short_description: Have files and models of the lock on the control node
version_added: "0.1.0"
description:
  - Fetches what the lock names to the control node's cache, verifies its sha256, and tells where it lies.
  - What is in the cache or the bundle already is not fetched. Hosts that run in parallel fetch once.
  - The cache is not a managed state, so the task never reports a change. In check mode nothing is fetched; the path of
    what is not there is empty.
author:
  - AI-102 inference maintainers (@ai102)
extends_documentation_fragment:
  - ai102.inference.cache
attributes:
  check_mode:
    description: Fetches nothing.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
  idempotent:
    description: What is there is not fetched again.
    support: full
  action:
    description: Runs on the control node only.
    support: full
options:
  lock:
    description: The lock, with C(files) and C(models).
    type: dict
    required: true
  files:
    description: Names of files of the lock.
    type: list
    elements: str
    default: []
  models:
    description: Names of models of the lock.
    type: list
    elements: str
    default: []
  url_rewrites:
    description: Prefixes of addresses and what replaces them, for sites with mirrors.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Fetch the demonstration models
  ai102.inference.artifact:
    lock: "{{ lookup('ansible.builtin.file', 'lock.yml') | from_yaml }}"
    models: [file-type]
    cache_dir: "{{ ai102_cache_dir }}"
  register: fetched
"""

RETURN = r"""
files:
  description: Each file with C(path), C(sha256), C(size) in bytes (-1 when the lock does not say) and C(filename).
  type: dict
  returned: success
models:
  description: Each model with C(path), C(sha256), C(licence) and C(origin).
  type: dict
  returned: success
"""
