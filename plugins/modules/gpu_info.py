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
  simulate:
    description:
      - For tests and rehearsals without the hardware, the path of a JSON file B(on the host) whose C(pci) and
        C(nvidia_smi) replace what the host says; M(ai102.inference.gpu_compatibility) describes it. Topology, kernel
        log and device files are then left out.
    type: path
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
    mig_instances:
      description: Its parts, each with C(index), C(gpu_instance), C(compute_instance), C(multiprocessors),
        C(memory_mib), C(memory_used_mib) and C(ecc_uncorrected).
      type: list
      elements: dict
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
switches:
  description: The NVSwitches that the kernel sees.
  returned: always
  type: list
  elements: dict
topology:
  description: How the GPUs are connected, by numbers of both, as C(nvidia-smi topo -m) says it (V(NV18) are 18 NVLinks,
    V(SYS) leads across processors). Empty with fewer than two GPUs.
  returned: always
  type: dict
  sample: {"0": {"1": NV18}, "1": {"0": NV18}}
xids:
  description: Faults of GPUs in the kernel log since the start of the host, null where the log cannot be read. Serious
    are those after which the GPU must be reset or the host restarted; they stand among the problems too.
  returned: always
  type: list
  elements: dict
  sample:
    - {pci_id: "0000:1b:00.0", xid: 79, text: GPU has fallen off the bus., count: 1, serious: true}
device_files:
  description: The device files that CUDA opens, and whether each is there. Empty where no GPU answers.
  returned: always
  type: dict
  sample: {/dev/nvidiactl: true, /dev/nvidia-uvm: true, /dev/nvidia0: true}
problems:
  description: What is wrong, of all GPUs.
  returned: always
  type: list
  elements: str
"""

import re
import shutil
import subprocess
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ai102.inference.plugins.module_utils._driver_facts import (
    read_simulation,
    simulated_devices,
    smi_output,
)
from ansible_collections.ai102.inference.plugins.module_utils._gpu import (
    device_files,
    is_gpu,
    is_switch,
    parse_report,
    parse_topology,
    parse_xids,
    pci_devices,
    xid_problems,
)


def run(executable: str, *arguments: str, timeout: int) -> tuple[int, str]:
    """Run a program; 127 when there is none of that name. Raises `TimeoutExpired`, `OSError`."""
    program = shutil.which(executable)
    if program is None:
        return 127, ""
    done = subprocess.run(
        [program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout, check=False
    )
    return done.returncode, done.stdout.decode("utf-8", "replace")


def kernel_log(timeout: int) -> str | None:
    """What the kernel says of the driver since the host was started; None where it cannot be read."""
    for command in (("journalctl", "--dmesg", "--boot", "--output=cat", "--no-pager", "--quiet"), ("dmesg",)):
        try:
            code, output = run(*command, timeout=timeout)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if code == 0 and output.strip():
            return "\n".join(line for line in output.splitlines() if re.search("NVRM", line))
    return None


def look(params: t.Mapping[str, t.Any], simulated: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Everything the module returns. Raises `OSError`, `ValueError`."""
    timeout = params["timeout"]
    devices = simulated_devices(simulated["pci"]) if "pci" in simulated else pci_devices()
    gpus = [device for device in devices if is_gpu(device)]
    try:
        report = parse_report(*smi_output(run, params["executable"], timeout, simulated), gpus)
    except subprocess.TimeoutExpired:
        report = parse_report(None, pci=gpus)
        report.state = "degraded"
        report.problems = [f"nvidia-smi did not answer within {timeout} s"]
    topology: dict[str, t.Any] = {}
    xids: list[dict[str, t.Any]] | None = []
    files: dict[str, bool] = {}
    if not simulated:
        log = kernel_log(timeout) if gpus else ""
        xids = None if log is None else parse_xids(log)
        serious = xid_problems(xids or ())
        if serious and report.state in ("ok", "degraded"):
            report.state = "degraded"
            report.problems += serious
        if len(report.gpus) > 1:
            try:
                topology = parse_topology(run(params["executable"], "topo", "-m", timeout=timeout)[1])
            except subprocess.TimeoutExpired:
                report.problems.append(f"nvidia-smi topo did not answer within {timeout} s")
        files = device_files(report.gpus) if report.gpus else {}
    return {
        **report.to_dict(),
        "switches": [device for device in devices if is_switch(device)],
        "topology": topology,
        "xids": xids,
        "device_files": files,
    }


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "executable": {"type": "str", "default": "nvidia-smi"},
            "simulate": {"type": "path"},
            "timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    try:
        found = look(module.params, read_simulation(module.params["simulate"]))
    except (OSError, ValueError) as error:
        module.fail_json(msg=f"the GPUs cannot be looked at: {error}")
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
