# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Facts of the NVIDIA GPUs of a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_info
short_description: State and facts of the NVIDIA GPUs of a host
version_added: "0.1.0"
description:
  - Reads C(nvidia-smi -q -x) and compares it with the NVIDIA GPUs that the kernel sees on the PCI bus.
  - Says plainly in which state the GPUs are, so that a missing driver, a driver that does not match its libraries and
    a GPU that has fallen off the bus are told apart from a host without GPUs.
  - Understands the schemas v11, v12 and v13 of C(nvidia-smi), drivers 450 to 595.
author:
  - AI-102 inference maintainers (@ai102)
options:
  executable:
    description: Name or path of C(nvidia-smi).
    type: str
    default: nvidia-smi
  timeout:
    description:
      - Seconds to wait for C(nvidia-smi). Without the persistence daemon it initialises every GPU first, which takes
        many seconds on a host with eight of them.
    type: int
    default: 60
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
- name: Read the GPUs
  ai102.inference.gpu_info:
  register: gpu

- name: Refuse a host whose GPUs are not well
  ansible.builtin.assert:
    that: gpu.state == 'ok'
    fail_msg: "{{ gpu.problems | join('; ') }}"
"""

RETURN = r"""
state:
  description:
    - V(none), there is no NVIDIA GPU.
    - V(no_driver), there is one on the PCI bus, but no driver answers for it.
    - V(mismatch), the kernel module and the libraries of the driver have different versions.
    - V(degraded), the driver answers, but something is wrong with a GPU; see RV(problems).
    - V(ok), every GPU answers and nothing is known against one.
  returned: always
  type: str
  sample: ok
driver:
  description: Version of the driver, null when none answers.
  returned: always
  type: str
  sample: 580.95.05
cuda:
  description: Highest CUDA version that the driver supports, null when none answers.
  returned: always
  type: str
  sample: "13.0"
gpus:
  description: The GPUs that answer. A value that a GPU does not tell is null.
  returned: always
  type: list
  elements: dict
  contains:
    index:
      description: Number of the device.
      type: int
      returned: always
    name:
      description: Name of the product.
      type: str
      returned: always
    uuid:
      description: Identifier of the GPU.
      type: str
      returned: always
    architecture:
      description: Architecture, for example V(Hopper).
      type: str
      returned: always
    pci_id:
      description: Address on the PCI bus, as the kernel writes it.
      type: str
      returned: always
    pci_device:
      description: PCI device number.
      type: str
      returned: always
    memory_mib:
      description: Memory in MiB.
      type: int
      returned: always
    memory_used_mib:
      description: Used memory in MiB.
      type: int
      returned: always
    mig:
      description: Whether the GPU is divided, V(enabled), V(disabled) or V(unsupported).
      type: str
      returned: always
    mig_pending:
      description: The same after the next reset.
      type: str
      returned: always
    mig_devices:
      description: Number of its parts.
      type: int
      returned: always
    ecc:
      description: Error correction, V(enabled), V(disabled) or V(unsupported).
      type: str
      returned: always
    ecc_uncorrected:
      description: Uncorrected memory errors since the last reset.
      type: int
      returned: always
    persistence:
      description: Whether the driver stays loaded when nothing uses the GPU.
      type: bool
      returned: always
    temperature_c:
      description: Temperature in °C.
      type: int
      returned: always
    memory_temperature_c:
      description: Temperature of the memory in °C.
      type: int
      returned: always
    power_w:
      description: Power in W.
      type: float
      returned: always
    power_limit_w:
      description: Limit of the power in W.
      type: float
      returned: always
    pcie_generation:
      description: Highest PCIe generation of the link.
      type: int
      returned: always
    pcie_width:
      description: Lanes of the link in use.
      type: int
      returned: always
    fabric:
      description: State of the NVLink fabric, empty where there is none.
      type: str
      returned: always
    serial:
      description: Serial number.
      type: str
      returned: always
    vbios:
      description: Version of the firmware.
      type: str
      returned: always
    problems:
      description: What is known against it.
      type: list
      elements: str
      returned: always
    healthy:
      description: Whether nothing is known against it.
      type: bool
      returned: always
pci:
  description: The NVIDIA GPUs that the kernel sees, with the kernel driver that is bound to each.
  returned: always
  type: list
  elements: dict
problems:
  description: What is wrong, of all GPUs.
  returned: always
  type: list
  elements: str
"""

import shutil
import subprocess

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ai102.inference.plugins.module_utils._gpu import parse_report, pci_gpus


def read_gpus(executable: str, timeout: int) -> tuple[str | None, int]:
    """Run nvidia-smi; None when there is no such program. Raises `TimeoutExpired`, `OSError`."""
    program = shutil.which(executable)
    if program is None:
        return None, 127
    done = subprocess.run(
        [program, "-q", "-x"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout, check=False
    )
    return done.stdout.decode("utf-8", "replace"), done.returncode


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "executable": {"type": "str", "default": "nvidia-smi"},
            "timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    pci = pci_gpus()
    try:
        output, code = read_gpus(module.params["executable"], module.params["timeout"])
    except subprocess.TimeoutExpired:
        report = parse_report(None, pci=pci)
        report.state = "degraded"
        report.problems = [f"nvidia-smi did not answer within {module.params['timeout']} s"]
    except OSError as error:
        module.fail_json(msg=f"{module.params['executable']} cannot be run: {error}")
    else:
        report = parse_report(output, code, pci)
    module.exit_json(changed=False, **report.to_dict())


if __name__ == "__main__":
    main()
