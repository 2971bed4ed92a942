# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the action plugin `inventory_check`; nothing here runs on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: inventory_check
short_description: Compare the inventory with what the roles accept
version_added: "0.1.0"
description:
  - Reads C(meta/argument_specs.yml) of every role of the collection and finds, without contacting a host, variables
    that no role knows, values of the wrong type, secrets that are not set, mistyped groups, tiers without a host and
    hosts that share an address.
  - Looks at the control node too, when O(control_node) is given.
  - The same finding on many hosts is one check, which names the group they are in.
author:
  - AI-102 inference maintainers (@ai102)
options:
  tiers:
    description: Roles of each group; V(all) stands for every host.
    type: dict
    required: true
  required_tiers:
    description: Groups that must have a host.
    type: list
    elements: str
    default: [gateways, inference_hosts]
  hosts:
    description: Hosts whose variables are looked at. The hosts of the play when it is not given.
    type: list
    elements: str
  known:
    description: Further variables with a role's prefix that somebody reads.
    type: list
    elements: str
    default: []
  roles_path:
    description: Directory of the roles. The collection's own when it is not given.
    type: path
  severity:
    description:
      - What a shortfall means, by name of the check or of its family (V(inventory.variable), V(control)).
      - V(fail) turns warnings into failures, V(warn) failures into warnings, V(skip) takes the check out.
    type: dict
    default: {}
  control_node:
    description: What the control node must have.
    type: dict
    suboptions:
      ansible_core:
        description: Oldest ansible-core. That of C(meta/runtime.yml) when it is not given.
        type: str
      python:
        description: Oldest Python.
        type: str
        default: "3.11"
      collections:
        description: Oldest version of collections. The collection's own dependencies when it is not given.
        type: dict
      libraries:
        description: Python libraries that must be importable.
        type: list
        elements: str
        default: []
      directories:
        description: Directories that will be written to, each as a path or as a dictionary with C(path) and C(free_gb).
        type: list
        elements: raw
        default: []
      free_gb:
        description: Free space in decimal gigabytes that each of them needs.
        type: float
        default: 1
attributes:
  check_mode:
    description: Only reads, so it does the same in check mode.
    support: full
  diff_mode:
    description: There is nothing to compare.
    support: none
  idempotent:
    description: Changes nothing.
    support: full
"""

EXAMPLES = r"""
- name: Look at the inventory
  ai102.inference.inventory_check:
    tiers:
      all: [common, preflight]
      gateways: [gateway]
      inference_hosts: [inference_server]
  run_once: true
  register: inventory
"""

RETURN = r"""
checks:
  description: The checks, for M(ai102.inference.verdict).
  returned: always
  type: list
  elements: dict
ok:
  description: Whether no check failed.
  returned: always
  type: bool
"""
