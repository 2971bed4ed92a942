#!/usr/bin/python
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Facts of a driver's modules for every installed kernel."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kernel_module_info
short_description: Whether every installed kernel has a driver's modules
version_added: "0.1.0"
author: AI-102 inference maintainers (@ai102)
description:
  - Looks for the modules of a driver in the directory of every kernel that can be booted, reads their version, the
    kernel they were built for and their signature, and verifies the signature with the key of the host.
  - The success of a package manager proves none of this; the files that the kernel will load do.
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
options:
  modules:
    description:
      - The modules that a kernel must have. Names that mean the same module are separated by C(|), since distributions
        rename the modules of drivers of which several versions can be installed.
    type: list
    elements: str
    default:
      - nvidia|nvidia-current|nvidia-current-open
      - nvidia-uvm|nvidia-current-uvm|nvidia-current-open-uvm
  version:
    description: The version that the modules must have. Without it, all kernels must have the same.
    type: str
    default: ""
  kernels:
    description: Releases of the kernels to look at. Without it, all that can be booted.
    type: list
    elements: str
    default: []
  next_kernel:
    description: Release of the kernel that will boot next. Without it, the newest.
    type: str
    default: ""
  dkms:
    description: Beginning of the names under which DKMS knows the driver.
    type: str
    default: nvidia
  certificates:
    description: Certificates (DER) of the keys that modules of this host are signed with; those that exist are used.
    type: list
    elements: path
    default: [/var/lib/dkms/mok.pub, /var/lib/shim-signed/mok/MOK.der]
  signed:
    description: Whether the modules must be signed, because the host boots with Secure Boot.
    type: bool
    default: false
requirements:
  - C(modinfo); C(openssl) to verify signatures
"""

EXAMPLES = r"""
- name: See whether every kernel has the driver's modules
  ai102.inference.kernel_module_info:
    version: 535.309.01
  register: driver_modules

- name: Refuse a reboot into a kernel without a driver
  ansible.builtin.assert:
    that: driver_modules.ok
    fail_msg: "{{ driver_modules.problems | join('; ') }}"
"""

RETURN = r"""
ok:
  description: Whether there is a kernel, and every kernel has all modules as they must be.
  type: bool
  returned: always
problems:
  description: What is wrong, of all kernels.
  type: list
  elements: str
  returned: always
version:
  description: The version of the modules for the next kernel, empty where there are none.
  type: str
  returned: always
  sample: 535.309.01
loaded:
  description: The version of the driver that is loaded now, empty where none is.
  type: str
  returned: always
kernels:
  description: What was found for each kernel.
  type: list
  elements: dict
  returned: always
  contains:
    kernel:
      description: Release of the kernel.
      type: str
      returned: always
    next:
      description: Whether it will boot next.
      type: bool
      returned: always
    ok:
      description: Whether nothing is wrong with it.
      type: bool
      returned: always
    dkms:
      description: State that DKMS reports, V(installed), V(built), V(added) or empty.
      type: str
      returned: always
    modules:
      description: The module files, each with path, version, vermagic, signer, hash and signature.
      type: list
      elements: dict
      returned: always
    missing:
      description: Modules that are not there.
      type: list
      elements: str
      returned: always
    problems:
      description: What is wrong.
      type: list
      elements: str
      returned: always
errors:
  description: What went wrong first in the builds that failed, from the logs of DKMS.
  type: list
  elements: str
  returned: always
"""

import os
import tempfile
import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ai102.inference.plugins.module_utils._kernel_modules import (
    Kernel,
    KernelModule,
    ModuleFileError,
    Signature,
    find_module,
    first_errors,
    installed_kernels,
    judge,
    parse_dkms,
    parse_modinfo,
    read_module,
    split_signature,
)

LIB_MODULES = Path("/lib/modules")
BOOT = Path("/boot")
DKMS = Path("/var/lib/dkms")
LOADED = Path("/sys/module")


def run(module: AnsibleModule, *command: str, **options: t.Any) -> tuple[int, t.Any]:
    """Run a program: its exit status (127 when there is none of that name) and what it printed."""
    program = module.get_bin_path(command[0])
    if program is None:
        return 127, ""
    status, output, _errors = module.run_command([program, *command[1:]], **options)
    return status, output


def read_driver(module: AnsibleModule, name: str, path: Path, certificates: list[Path]) -> KernelModule:
    """Read one module file."""
    _status, output = run(module, "modinfo", str(path))
    told = parse_modinfo(output)
    return KernelModule(
        name=name,
        path=str(path),
        version=told.get("version", ""),
        vermagic=told.get("vermagic", ""),
        signer=told.get("signer", ""),
        hash=told.get("sig_hashalgo", ""),
        signature=verify(module, path, certificates),
    )


def verify(module: AnsibleModule, path: Path, certificates: list[Path]) -> Signature:
    """Verify the signature of a module file with the keys of the host."""
    try:
        content = read_module(path)
        if content is None:
            status, content = run(module, "zstd", "--quiet", "--decompress", "--stdout", str(path), encoding=None)
            if status != 0:
                return "unknown" if status == 127 else "invalid"
        parts = split_signature(content)
    except ModuleFileError:
        return "invalid"
    if parts is None:
        return "absent"
    openssl = module.get_bin_path("openssl")
    if openssl is None or not certificates:
        return "unknown"
    signed, signature = parts
    with tempfile.TemporaryDirectory(dir=module.tmpdir) as folder:
        Path(folder, "content").write_bytes(signed)
        Path(folder, "signature").write_bytes(signature)
        for certificate in certificates:
            pem = os.path.join(folder, "certificate")
            made = module.run_command([openssl, "x509", "-inform", "DER", "-in", str(certificate), "-out", pem])
            if made[0] != 0:
                continue
            arguments = ["cms", "-verify", "-binary", "-inform", "DER", "-noverify", "-nointern", "-certfile", pem]
            files = ["-in", f"{folder}/signature", "-content", f"{folder}/content", "-out", os.devnull]
            if module.run_command([openssl, *arguments, *files])[0] == 0:
                return "valid"
    return "invalid"


def build_errors(dkms: str, kernels: t.Iterable[str]) -> list[str]:
    """What the logs of builds of these kernels say went wrong."""
    found: list[str] = []
    for kernel in kernels:
        for pattern in (f"{dkms}*/*/{kernel}/*/log/make.log", f"{dkms}*/*/build/make.log"):
            for log in sorted(DKMS.glob(pattern)):
                text = log.read_text(encoding="utf-8", errors="replace")
                if "/build/" in pattern and kernel not in text:
                    continue  # the log of the build of another kernel
                found += [line for line in first_errors(text) if line not in found]
    return found[:6]


def look(module: AnsibleModule) -> dict[str, t.Any]:
    """Look at all kernels."""
    options = module.params
    releases: list[str] = options["kernels"] or installed_kernels(LIB_MODULES, BOOT)
    next_kernel: str = options["next_kernel"] or (releases[-1] if releases else "")
    if next_kernel and next_kernel not in releases:
        releases = [*releases, next_kernel]
    certificates = [path for path in map(Path, options["certificates"]) if path.is_file()]
    status, output = run(module, "dkms", "status")
    built = parse_dkms(output) if status == 0 else []
    kernels = []
    for release in releases:
        states = [
            entry["state"]
            for entry in built
            if entry["name"].startswith(options["dkms"]) and entry["kernel"] in (release, "")
        ]
        kernel = Kernel(release=release, next=release == next_kernel, dkms=states[0] if states else "")
        for alternatives in options["modules"]:
            names = alternatives.split("|")
            path = find_module(LIB_MODULES / release, names)
            if path is None:
                kernel.missing.append(names[0])
            else:
                kernel.modules.append(read_driver(module, names[0], path, certificates))
        kernel.problems = judge(kernel, options["version"], options["signed"])
        kernels.append(kernel)
    problems = [problem for kernel in kernels for problem in kernel.problems]
    versions = {entry.version for kernel in kernels for entry in kernel.modules}
    if not kernels:
        problems.append("no kernel of this host can be booted: none has both an image in /boot and its modules")
    if not options["version"] and len(versions) > 1:
        problems.append(f"kernels have modules of different versions: {', '.join(sorted(versions))}")
    loaded = LOADED / options["modules"][0].split("|")[0].replace("-", "_") / "version"
    return {
        "ok": not problems,
        "problems": problems,
        "version": next((entry.version for kernel in kernels if kernel.next for entry in kernel.modules), ""),
        "loaded": loaded.read_text(encoding="utf-8").strip() if loaded.is_file() else "",
        "kernels": [kernel.to_dict() for kernel in kernels],
        "errors": build_errors(options["dkms"], [kernel.release for kernel in kernels if kernel.missing]),
    }


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "modules": {
                "type": "list",
                "elements": "str",
                "default": [
                    "nvidia|nvidia-current|nvidia-current-open",
                    "nvidia-uvm|nvidia-current-uvm|nvidia-current-open-uvm",
                ],
            },
            "version": {"type": "str", "default": ""},
            "kernels": {"type": "list", "elements": "str", "default": []},
            "next_kernel": {"type": "str", "default": ""},
            "dkms": {"type": "str", "default": "nvidia"},
            "certificates": {
                "type": "list",
                "elements": "path",
                "default": ["/var/lib/dkms/mok.pub", "/var/lib/shim-signed/mok/MOK.der"],
            },
            "signed": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    try:
        answer = look(module)
    except OSError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **answer)


if __name__ == "__main__":
    main()
