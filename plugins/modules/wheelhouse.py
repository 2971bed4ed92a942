#!/usr/bin/python
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Has the wheels of a Python lock on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: wheelhouse
short_description: Have the wheels of a Python lock on the control node
version_added: "0.1.0"
description:
  - Fetches the wheels that a lock of C(tools/lock.py) names to the control node's cache, with the C(pip) of the
    interpreter that runs Ansible, so its configuration (index, proxy) applies.
  - Builds the wheels of our own projects, once for each state of their sources.
  - When all are there, nothing is fetched or built, and no network is needed.
  - The cache is not a managed state, so the task never reports a change.
author:
  - AI-102 inference maintainers (@ai102)
extends_documentation_fragment:
  - ai102.inference.cache
attributes:
  check_mode:
    description: Fetches and builds nothing, and names what is absent.
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
  lock_file:
    description: The lock, a file on the control node.
    type: path
    required: true
  python:
    description: Version of the Python that the wheels are for, such as V(3.11).
    type: str
    required: true
  projects:
    description: Source trees on the control node of which a wheel is built.
    type: list
    elements: path
    default: []
requirements:
  - pip, and for O(projects) build and hatchling, in the interpreter that runs Ansible
"""

EXAMPLES = r"""
- name: Fetch what the inference server needs on Debian 12
  ai102.inference.wheelhouse:
    lock_file: roles/artifacts/files/python/server-cpu-cp311.txt
    python: "3.11"
    projects: [server]
    cache_dir: "{{ ai102_cache_dir }}"
  register: wheelhouse
"""

RETURN = r"""
wheels:
  description: The wheels as entries for M(ai102.inference.content), each with C(path), C(sha256), C(size), C(src).
  type: list
  elements: dict
  returned: success
absent:
  description: In check mode, the file names of the wheels that are not there yet.
  type: list
  elements: str
  returned: success
requirements:
  description: All wheels as a requirements file with hashes.
  type: str
  returned: success
"""
