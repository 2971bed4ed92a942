# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the action plugin `verdict`; nothing here runs on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: verdict
short_description: Gather checks into one verdict
version_added: "0.1.0"
description:
  - Gathers the checks that other modules returned into one verdict, prints it as a table with the failures first,
    writes it as JSON, JUnit XML and HTML, and fails when a check failed.
  - A verdict without any check is not good, as nothing was proven.
  - Runs on the control node only and contacts no host; use it with C(run_once).
author:
  - AI-102 inference maintainers (@ai102)
options:
  kind:
    description: What the verdict is about, for example V(preflight) or V(verify). Names the files.
    type: str
    required: true
  checks:
    description: The checks of all hosts as one flat list.
    type: list
    elements: dict
    default: []
    suboptions:
      check:
        description: Short name of what was checked.
        type: str
        required: true
      host:
        description: The host it was checked on.
        type: str
        required: true
      status:
        description: How it went.
        type: str
        choices: [pass, warn, fail, skip]
        required: true
      expected:
        description: What was expected, with its unit.
        type: str
      actual:
        description: What was found, with its unit.
        type: str
      hint:
        description: What to do about it.
        type: str
  registered:
    description:
      - Names of variables that a task registered on each of O(hosts); their C(checks) are gathered too.
      - A host that was unreachable, whose task failed, or that has no such variable gets a failed check that says so.
    type: list
    elements: str
    default: []
  hosts:
    description: Hosts that must have O(registered). All hosts of the play when it is not given.
    type: list
    elements: str
  directory:
    description:
      - Directory on the control node that receives I(kind).json, I(kind).xml and I(kind).html.
      - Made when it does not exist. Nothing is written in check mode.
    type: path
  fail:
    description: Whether to fail when the verdict is not good.
    type: bool
    default: true
  show:
    description: Whether to print the table.
    type: bool
    default: true
  passes:
    description:
      - How much of what passed is listed in the table.
      - V(auto) is one line for each host up to 20 hosts and one line in all beyond.
    type: str
    choices: [auto, all, hosts, count, none]
    default: auto
attributes:
  check_mode:
    description: Gives the same verdict in check mode, but writes no files.
    support: full
  diff_mode:
    description: There is nothing to compare.
    support: none
  idempotent:
    description: Reports never count as a change.
    support: full
"""

EXAMPLES = r"""
- name: One verdict about all hosts
  ai102.inference.verdict:
    kind: preflight
    checks: "{{ preflight_checks }}"
    directory: "{{ ai102_reports_dir }}"
  run_once: true

- name: One verdict from what a task registered on every host
  ai102.inference.verdict:
    kind: verify
    registered: [verify_answers]
  run_once: true
"""

RETURN = r"""
ok:
  description: Whether something was checked and no check failed.
  returned: always
  type: bool
  sample: true
verdict:
  description: The verdict as it is written to the JSON file.
  returned: always
  type: dict
  contains:
    schema:
      description: Version of this form.
      type: int
      returned: always
    kind:
      description: What the verdict is about.
      type: str
      returned: always
    ok:
      description: Whether it is good.
      type: bool
      returned: always
    created:
      description: Time in ISO 8601.
      type: str
      returned: always
    summary:
      description: Number of checks for each status.
      type: dict
      returned: always
    checks:
      description: The checks, failures first.
      type: list
      elements: dict
      returned: always
files:
  description: Paths of the files that were written.
  returned: always
  type: list
  elements: str
msg:
  description: The verdict in one line, or the failures with their hints.
  returned: always
  type: str
"""
