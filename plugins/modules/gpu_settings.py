#!/usr/bin/python
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sets GPUs as it is declared."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_settings
short_description: Set MIG layout, ECC, power and clock limits of NVIDIA GPUs
version_added: "0.1.0"
author: AI-102 inference maintainers (@ai102)
description:
  - Compares what is declared with what C(nvidia-smi) says, and changes the difference only. What is not declared stays
    as it is.
  - MIG instances are made again only when other profiles are declared, since that ends what runs on them.
  - Locked clocks cannot be read from the driver; what was locked since the start of the host is kept in C(/run).
attributes:
  check_mode:
    description: Predicts the commands without running them.
    support: full
  diff_mode:
    description: Says what differs, GPU by GPU.
    support: full
  idempotent:
    description: A second run changes nothing.
    support: full
options:
  settings:
    description: Entries, each for some GPUs; later ones win.
    type: list
    elements: dict
    required: true
    suboptions:
      gpus:
        description: V(all), or a list of numbers or UUIDs.
        type: raw
        default: all
      power_limit_w:
        description: Limit of the power, in W.
        type: float
      graphics_clocks_mhz:
        description: Lowest and highest clock of the processors, in MHz; an empty list frees them.
        type: list
        elements: int
      memory_clocks_mhz:
        description: Lowest and highest clock of the memory, in MHz; an empty list frees them.
        type: list
        elements: int
      ecc:
        description: Whether memory errors are corrected. It takes effect after a restart.
        type: bool
      mig:
        description: Whether the GPU is divided.
        type: bool
      mig_instances:
        description: Profiles of the instances, in the order in which they are made, such as V(3g.40gb).
        type: list
        elements: str
requirements:
  - C(nvidia-smi)
"""

EXAMPLES = r"""
- name: Divide the first GPU, and limit the power of all
  ai102.inference.gpu_settings:
    settings:
      - {power_limit_w: 300}
      - {gpus: [0], mig: true, mig_instances: [3g.40gb, 2g.20gb, 1g.10gb]}
"""

RETURN = r"""
before:
  description: What differed.
  type: list
  elements: str
  returned: always
after:
  description: What it is set to.
  type: list
  elements: str
  returned: always
  sample: ["GPU 0: 300 W"]
commands:
  description: The commands that did it.
  type: list
  elements: str
  returned: always
reset_required:
  description: Whether something takes effect only after a restart of the host.
  type: bool
  returned: always
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ai102.inference.plugins.module_utils._gpu_settings import (
    SettingsError,
    apply,
    plan,
    read,
    read_applied,
    run_program,
    told,
)


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "settings": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "gpus": {"type": "raw", "default": "all"},
                    "power_limit_w": {"type": "float"},
                    "graphics_clocks_mhz": {"type": "list", "elements": "int"},
                    "memory_clocks_mhz": {"type": "list", "elements": "int"},
                    "ecc": {"type": "bool"},
                    "mig": {"type": "bool"},
                    "mig_instances": {"type": "list", "elements": "str"},
                },
            },
        },
        supports_check_mode=True,
    )
    settings = module.params["settings"]
    try:
        if module.check_mode:
            devices = read(run_program)
            answer = told(plan(settings, devices, read_applied()), devices, settings)
        else:
            answer = apply(settings, run_program)
    except (SettingsError, OSError) as error:
        module.fail_json(msg=str(error))
    diff = {"before": "".join(f"{line}\n" for line in answer["before"])}
    diff["after"] = "".join(f"{line}\n" for line in answer["after"])
    module.exit_json(**answer, diff=diff)


if __name__ == "__main__":
    main()
