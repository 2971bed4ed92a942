#!/usr/bin/python
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Says which NVIDIA driver a host would get, and whether the locked ONNX Runtime will run on it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_compatibility
short_description: Which NVIDIA driver a host would get, and what stands in its way
version_added: "0.1.0"
description:
  - Looks at a host without changing anything (GPUs on the PCI bus, installed and next kernel, headers, Secure Boot,
    held packages, package sources, free space, who uses the GPUs) and compares it with the compatibility table
    C(roles/artifacts/files/gpu.yml) and with the locks of ONNX Runtime.
  - Says which driver branch, kernel modules, packages and which lock of ONNX Runtime the host would get, and gives
    each thing that stands in the way as a check of the verdict, with what to do about it.
  - Never fails because of what it finds; look at RV(ok) or hand RV(checks) to M(ai102.inference.verdict).
author:
  - AI-102 inference maintainers (@ai102)
options:
  host:
    description: Name of the host in the checks, its name in the inventory when not given.
    type: str
  source:
    description:
      - Where driver packages come from. V(nvidia) is NVIDIA's package repository, V(distribution) the one of Debian
        or Ubuntu, V(bundle) an offline bundle that was made of NVIDIA's. With V(provided) somebody else installs the
        driver; then only what is there is compared with the GPUs and the locks.
    type: str
    choices: [nvidia, distribution, bundle, provided]
    default: nvidia
  branch:
    description:
      - Driver branch, such as V(580). V(auto) takes the branch in long-term support that fits GPUs, kernels and the
        lock of ONNX Runtime, or with O(source=distribution) the one that the release of the distribution has.
    type: str
    default: auto
  kernel_modules:
    description: Open or proprietary kernel modules. V(auto) takes what the generation of the GPUs asks for, open
      where both would do.
    type: str
    choices: [auto, open, proprietary]
    default: auto
  flavour:
    description:
      - Which lock of ONNX Runtime must run. V(gpu) is the newest one, V(gpu_cuda12) the newest one that needs CUDA 12
        only and so an older driver, V(cpu) needs no driver. V(auto) takes the newest one that the driver can run.
    type: str
    choices: [auto, cpu, gpu, gpu_cuda12]
    default: auto
  gpus:
    description: How many NVIDIA GPUs the host must have at least. With V(0), a host without GPUs is in order.
    type: int
    default: 0
  reboot:
    description: Whether the host may be restarted when the driver needs it.
    type: str
    choices: [never, when_needed]
    default: never
  allow_in_use:
    description: Whether the driver may be changed though processes that are not ours use the GPUs.
    type: bool
    default: false
  own_units:
    description: Patterns of systemd units that may use the GPUs, because the caller stops them before the driver
      changes.
    type: list
    elements: str
    default: ["ai102-*", "nvidia-persistenced.service", "nvidia-fabricmanager.service", "nvidia-dcgm*.service"]
  own_holds:
    description: Held packages that the caller holds itself and will release.
    type: list
    elements: str
    default: []
  held_record:
    description: A JSON file on the host with the names of further packages that the caller holds itself, if there is
      one.
    type: path
  enrol_key:
    description: Whether the caller prepares the enrolment of the key that signs kernel modules, where Secure Boot is
      on and does not know it yet. Somebody must confirm it on the host's console at the next start.
    type: bool
    default: false
  interpreter:
    description: The host's Python, which decides which lock of ONNX Runtime fits.
    type: path
    default: /usr/bin/python3
  executable:
    description: Name or path of C(nvidia-smi).
    type: str
    default: nvidia-smi
  timeout:
    description: Seconds to wait for C(nvidia-smi).
    type: int
    default: 60
  table:
    description: The compatibility table on the control node; by default the one of the role C(artifacts).
    type: path
  locks:
    description: The summary of the locks of ONNX Runtime on the control node; by default the one of the role
      C(artifacts).
    type: path
  severity:
    description: What a shortfall means, by name of a check or of a family of checks, V(fail), V(warn) or V(skip).
    type: dict
    default: {}
  simulate:
    description:
      - For tests and rehearsals without the hardware, the path of a JSON file B(on the host) with facts that replace
        what the host says. What concerns packages, kernels, headers and free space is never replaced. Any key may be
        missing; then the host's own fact is used.
      - V(pci), a list of PCI devices of NVIDIA, each with C(pci_id) (C(0000:1b:00.0)), C(device) (C(0x2330)), and if
        wanted C(class) (C(0x030200) when missing; C(0x068000) for an NVSwitch) and C(kernel_driver) (empty when
        missing).
      - V(nvidia_smi), C(null) (no such program) or a dictionary with C(rc) and C(output), what C(nvidia-smi -q -x)
        printed (both streams). In place of C(output), C(output_file) names a file on the host.
      - V(secure_boot), a dictionary with C(state) (C(enabled), C(disabled), C(unsupported)), C(key) (whether there is
        a key that signs modules) and C(enrolled) (whether the firmware knows it).
      - V(modules), a dictionary with C(nouveau) (bool, loaded or not) and C(nvidia) (version of the loaded module or
        C(null)).
      - V(users), a list of processes that have a GPU open, each with C(pid), C(command) and C(unit).
      - V(running_kernel), the release that runs, for containers, which show the kernel of the machine beneath.
    type: path
  patterns:
    description: Set by the action from the table, patterns of packages whose versions are asked for.
    type: list
    elements: str
    default: []
  names:
    description: Set by the action from the table, packages whose candidates are asked for.
    type: list
    elements: str
    default: []
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
  action:
    description: The host's facts are compared with the table on the control node.
    support: full
notes:
  - Run it as root, otherwise processes of other users that use the GPUs stay unseen.
seealso:
  - module: ai102.inference.gpu_info
"""

EXAMPLES = r"""
- name: See which driver the host would get
  ai102.inference.gpu_compatibility:
    flavour: "{{ inference_server_flavour }}"
  become: true
  register: gpu

- name: Stop before anything is changed
  ai102.inference.verdict:
    kind: gpu
    registered: [gpu]

- name: Rehearse a host with eight H100 and their NVSwitches on one that has none
  ai102.inference.gpu_compatibility:
    source: distribution
    simulate: /etc/ai102/rehearsal.json
  become: true
"""

RETURN = r"""
state:
  description:
    - V(none), there is no NVIDIA GPU.
    - V(supported), there are GPUs, and a driver and an ONNX Runtime for them.
    - V(unsupported), there are GPUs, but what was asked for cannot drive all of them. Checks say why.
  returned: success
  type: str
  sample: supported
ok:
  description: Whether no check failed.
  returned: success
  type: bool
checks:
  description: What was compared, in the form of M(ai102.inference.verdict). All names begin with C(gpu).
  returned: success
  type: list
  elements: dict
  sample:
    - check: gpu.headers
      host: gpu1
      status: fail
      expected: headers of 6.1.0-37-amd64, which starts next
      actual: not installed, and no package source has linux-headers-6.1.0-37-amd64
      hint: Install the newest kernel with its headers and start the host with it, then try again.
branch:
  description: Driver branch that the host would get, null where there is none.
  returned: success
  type: str
  sample: "580"
candidate:
  description: Version of the driver's kernel module package that the package sources would install, null when
    unknown.
  returned: success
  type: str
  sample: 535.309.01-0+deb12u1
installed:
  description: The driver that is installed, null when there is none.
  returned: success
  type: dict
  contains:
    version:
      description: Its upstream version.
      type: str
      returned: always
    branch:
      description: Its branch.
      type: str
      returned: always
    kernel_modules:
      description: V(open) or V(proprietary).
      type: str
      returned: always
    packages:
      description: Its packages with their versions, as far as the table knows them.
      type: dict
      returned: always
change:
  description: What would be done with the driver, V(none), V(install), V(upgrade), V(downgrade) or V(switch) (to the
    other kind of kernel modules, or the same branch from packages that are missing).
  returned: success
  type: str
  sample: install
kernel_modules:
  description: V(open) or V(proprietary), null where there is no driver.
  returned: success
  type: str
packages:
  description: Packages to install, headers of the kernels among them; empty where no driver is wanted.
  returned: success
  type: list
  elements: str
  sample: [linux-headers-6.1.0-37-amd64, linux-headers-amd64, nvidia-kernel-dkms, nvidia-smi]
pin_packages:
  description: Packages of the source that keep apt to the branch, to be installed first. Empty where there are none.
  returned: success
  type: list
  elements: str
  sample: [nvidia-driver-pinning-580]
known_packages:
  description: Names of all packages that may carry a driver of any branch, as patterns; what a removal looks for.
  returned: success
  type: list
  elements: str
fabric_manager:
  description: Whether the GPUs are connected by NVSwitch and do not work without the fabric manager.
  returned: success
  type: bool
fabric_manager_packages:
  description: Packages of the fabric manager, of exactly the driver's version. They are part of RV(packages).
  returned: success
  type: list
  elements: str
onnxruntime_flavour:
  description: The lock that will run, V(gpu), V(gpu_cuda12) or V(cpu).
  returned: success
  type: str
  sample: gpu
onnxruntime:
  description: Version of ONNX Runtime in that lock, null when there is none for the host's Python.
  returned: success
  type: str
  sample: 1.31.1
cuda:
  description: Version of CUDA in that lock, null for V(cpu).
  returned: success
  type: str
  sample: 13.5.37
minimum_driver:
  description: Oldest driver branch that runs it, null for V(cpu).
  returned: success
  type: str
  sample: "580"
kernels:
  description: Installed kernels.
  returned: success
  type: list
  elements: dict
  contains:
    release:
      description: Release of the kernel.
      type: str
      returned: always
    running:
      description: Whether it runs.
      type: bool
      returned: always
    next:
      description: Whether the host starts with it next.
      type: bool
      returned: always
    headers:
      description: Whether its headers are installed.
      type: bool
      returned: always
    headers_package:
      description: Name of the package of its headers.
      type: str
      returned: always
    headers_available:
      description: Whether a package source has them, null when package lists were never fetched.
      type: bool
      returned: always
    dkms:
      description: State of the driver's modules in DKMS, by version of the driver.
      type: dict
      returned: always
next_kernel:
  description: Release of the kernel that starts next, null when no kernel is installed (containers).
  returned: success
  type: str
  sample: 6.1.0-37-amd64
reboot_required:
  description: Whether the driver would work only after a restart.
  returned: success
  type: bool
enrol_key:
  description: Whether the key that signs modules must be enrolled for Secure Boot first.
  returned: success
  type: bool
gpu:
  description: The state of the GPUs, as M(ai102.inference.gpu_info) returns it.
  returned: success
  type: dict
facts:
  description: What the host said.
  returned: success
  type: dict
"""

import re
import subprocess
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ai102.inference.plugins.module_utils import _driver_facts as df


def run(*command: str, timeout: int = 60) -> tuple[int, str]:
    """Run a program in the C locale; the exit status is 127 when there is no such program. Raises nothing."""
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=False,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
        )
    except FileNotFoundError:
        return 127, ""
    except (OSError, subprocess.TimeoutExpired) as error:
        return 126, str(error)
    return done.returncode, done.stdout.decode("utf-8", "replace")


def interpreter_version(path: str) -> str | None:
    """The `3.11` of a Python, None when it cannot be run."""
    code, output = run(path, "-c", "import sys; print('%d.%d' % sys.version_info[:2])")
    match = re.fullmatch(r"\d+\.\d+", output.strip())
    return match.group() if code == 0 and match else None


def main() -> None:
    """Collect the facts; the action plugin compares them with the table."""
    module = AnsibleModule(
        argument_spec={
            "host": {"type": "str"},
            "source": {"type": "str", "choices": ["nvidia", "distribution", "bundle", "provided"], "default": "nvidia"},
            "branch": {"type": "str", "default": "auto"},
            "kernel_modules": {"type": "str", "choices": ["auto", "open", "proprietary"], "default": "auto"},
            "flavour": {"type": "str", "choices": ["auto", "cpu", "gpu", "gpu_cuda12"], "default": "auto"},
            "gpus": {"type": "int", "default": 0},
            "reboot": {"type": "str", "choices": ["never", "when_needed"], "default": "never"},
            "allow_in_use": {"type": "bool", "default": False},
            "own_units": {
                "type": "list",
                "elements": "str",
                "default": [
                    "ai102-*",
                    "nvidia-persistenced.service",
                    "nvidia-fabricmanager.service",
                    "nvidia-dcgm*.service",
                ],
            },
            "own_holds": {"type": "list", "elements": "str", "default": []},
            "held_record": {"type": "path"},
            "enrol_key": {"type": "bool", "default": False, "no_log": False},
            "interpreter": {"type": "path", "default": "/usr/bin/python3"},
            "executable": {"type": "str", "default": "nvidia-smi"},
            "timeout": {"type": "int", "default": 60},
            "table": {"type": "path"},
            "locks": {"type": "path"},
            "severity": {"type": "dict", "default": {}},
            "simulate": {"type": "path"},
            "patterns": {"type": "list", "elements": "str", "default": []},
            "names": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    params: dict[str, t.Any] = module.params
    try:
        simulated = df.read_simulation(params["simulate"])
        facts = df.gather(
            run,
            patterns=params["patterns"],
            names=params["names"],
            executable=params["executable"],
            timeout=params["timeout"],
            simulated=simulated,
        )
    except (OSError, ValueError) as error:
        module.fail_json(msg=f"the host cannot be looked at: {error}")
    facts["own_holds"] = df.read_names(params["held_record"])
    facts["python"] = interpreter_version(params["interpreter"])
    module.exit_json(changed=False, facts=facts)


if __name__ == "__main__":
    main()
