# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host says of everything that a graphics driver depends on: kernels, headers, Secure Boot, packages, users.

Nothing here changes anything. Files are read below a root directory that is handed over, and programs are run by a
function that is handed over, so that every situation can be tested without the machine it was seen on.
"""

from __future__ import annotations

import difflib
import fnmatch
import json
import os
import platform
import re
import typing as t
from pathlib import Path

from ansible_collections.ai102.inference.plugins.module_utils import _preflight as pf
from ansible_collections.ai102.inference.plugins.module_utils._gpu import (
    is_gpu,
    is_switch,
    parse_report,
    pci_devices,
)

#: Runs a program with a time limit: its exit status (127: there is none of that name) and what it printed.
Run = t.Callable[..., tuple[int, str]]

#: Keys of a file of simulated facts, and what each must be.
_SIMULATED: t.Final[dict[str, tuple[type, ...]]] = {
    "pci": (list,),
    "nvidia_smi": (dict, type(None)),
    "secure_boot": (dict,),
    "modules": (dict,),
    "users": (list,),
    "running_kernel": (str,),
}

#: EFI variables, as the kernel shows them: four bytes of attributes, then the content.
_EFI_GLOBAL: t.Final = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
_EFI_SHIM: t.Final = "605dab50-e046-4300-abb6-3dd810dd8b23"


def read_simulation(path: str | None) -> dict[str, t.Any]:
    """Simulated facts of a JSON file, nothing without a path. Raises `ValueError`, `OSError`."""
    if not path:
        return {}
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} must be an object with some of {', '.join(_SIMULATED)}")
    for key, value in data.items():
        if key not in _SIMULATED:
            near = difflib.get_close_matches(key, _SIMULATED, 1)
            raise ValueError(f"{path} has an unknown key {key!r}" + (f", did you mean {near[0]!r}?" if near else ""))
        if not isinstance(value, _SIMULATED[key]):
            raise ValueError(f"{path}: {key} must be {' or '.join(kind.__name__ for kind in _SIMULATED[key])}")
    for device in data.get("pci", ()):
        if not isinstance(device, dict) or not device.get("pci_id") or not device.get("device"):
            raise ValueError(f"{path}: each device of pci needs pci_id and device, not {device!r}")
    return data


def read_names(path: str | None) -> list[str]:
    """The names in a JSON list, none where there is no such file. Raises `ValueError`."""
    if not path or not Path(path).is_file():
        return []
    data = json.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(data, list):
        raise ValueError(f"{path} must be a list of names")
    return [str(name) for name in data]


def simulated_devices(devices: t.Iterable[t.Mapping[str, str]]) -> list[dict[str, str]]:
    """Simulated PCI devices in the form in which the kernel's are read."""
    return [
        {
            "pci_id": str(device["pci_id"]),
            "device": str(device["device"]).lower(),
            "class": str(device.get("class", "0x030200")),
            "kernel_driver": str(device.get("kernel_driver", "")),
        }
        for device in devices
    ]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


# --------------------------------------------------------------------------------------------------------- kernels


def release_key(release: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key of kernel releases: `6.1.0-9-amd64` before `6.1.0-37-amd64`."""
    return tuple((1, int(part), "") if part.isdigit() else (0, 0, part) for part in re.split(r"(\d+)", release) if part)


def installed_kernels(root: Path = Path("/")) -> list[str]:
    """Releases of the kernels in /boot, the oldest first."""
    boot = root / "boot"
    found = [path.name[len("vmlinuz-") :] for path in boot.glob("vmlinuz-*")] if boot.is_dir() else []
    return sorted((name for name in found if not name.endswith((".old", ".bak"))), key=release_key)


def next_kernel(kernels: t.Sequence[str], root: Path = Path("/")) -> str | None:
    """The kernel that starts next: the one that GRUB's default names, else the newest."""
    if not kernels:
        return None
    default = ""
    texts = [_read(root / "etc/default/grub")]
    folder = root / "etc/default/grub.d"
    texts += [_read(path) for path in sorted(folder.glob("*.cfg"))] if folder.is_dir() else []
    for line in "\n".join(texts).splitlines():
        match = re.match(r"\s*GRUB_DEFAULT=(.*)", line)
        if match:
            default = match.group(1).strip().strip("\"'")
    environment = _read(root / "boot/grub/grubenv")
    values = dict(line.split("=", 1) for line in environment.splitlines() if "=" in line and line[:1] != "#")
    # `grub-reboot` names an entry for the next start only; `grub-set-default` one that stays, if GRUB_DEFAULT is saved.
    for text in (values.get("next_entry", ""), values.get("saved_entry", "") if default == "saved" else default):
        # The longest first: a release may be the beginning of another.
        named = [kernel for kernel in sorted(kernels, key=len, reverse=True) if kernel in text]
        if named:
            return named[0]
    return kernels[-1]


def has_headers(release: str, root: Path = Path("/")) -> bool:
    """Whether modules can be built for a kernel: its build directory is there and complete."""
    build = root / "lib/modules" / release / "build"
    target = build
    if build.is_symlink():
        # Absolute links are meant within the root.
        link = os.readlink(build)
        target = root / link.lstrip("/") if link.startswith("/") else build.parent / link
    return (target / "Makefile").is_file()


def headers_package(release: str) -> str:
    """Name of the package with the headers of one kernel, on Debian and Ubuntu."""
    return f"linux-headers-{release}"


def headers_meta(release: str, os_id: str) -> str:
    """Name of the package that brings headers of every later kernel of the same kind."""
    # 6.1.0-37-amd64, 6.12.74+deb13+1-cloud-amd64 (Debian), 6.8.0-45-generic (Ubuntu)
    kind = re.sub(r"^\d+-", "", release.partition("-")[2])
    kind = kind or ("generic" if os_id == "ubuntu" else "amd64")
    return f"linux-headers-{kind}"


def parse_dkms_status(text: str) -> list[dict[str, str]]:
    """`dkms status`, of DKMS 2 (`name, version, kernel, arch: state`) and 3 (`name/version, kernel, arch: state`)."""
    result = []
    for line in text.splitlines():
        head, separator, state = line.partition(": ")
        if not separator:
            continue
        parts = [part.strip() for part in re.split(r",\s*|/", head)]
        if len(parts) < 2 or not parts[0].startswith("nvidia"):
            continue
        result.append(
            {
                "name": parts[0],
                "version": parts[1],
                "kernel": parts[2] if len(parts) > 2 else "",
                "state": state.split(" ")[0].strip(),
            }
        )
    return result


def kernel_modules(root: Path = Path("/")) -> dict[str, t.Any]:
    """Whether nouveau is loaded, and the version of the loaded driver of NVIDIA."""
    modules = root / "sys/module"
    version = _read(modules / "nvidia/version").strip()
    return {"nouveau": (modules / "nouveau").is_dir(), "nvidia": version or None}


# ----------------------------------------------------------------------------------------------------- Secure Boot


def secure_boot(root: Path = Path("/")) -> dict[str, t.Any]:
    """Whether the firmware starts signed code only, and whether it knows the key that DKMS signs modules with."""
    variables = root / "sys/firmware/efi/efivars"
    value = _bytes(variables / f"SecureBoot-{_EFI_GLOBAL}")
    state = "unsupported" if value is None else "enabled" if value[-1:] == b"\x01" else "disabled"
    # DKMS of Debian keeps its key in the first place, Ubuntu's shim in the second.
    keys = [_bytes(root / "var/lib/dkms/mok.pub"), _bytes(root / "var/lib/shim-signed/mok/MOK.der")]
    present = [key for key in keys if key]
    lists = [_bytes(path) or b"" for path in sorted(variables.glob(f"MokList*-{_EFI_SHIM}"))]
    return {
        "state": state,
        "key": bool(present),
        # A list holds whole certificates, so that the certificate's bytes are in it or not.
        "enrolled": any(key in content for key in present for content in lists),
    }


# ------------------------------------------------------------------------------------------------------------ users


def gpu_users(root: Path = Path("/")) -> list[dict[str, t.Any]]:
    """Processes that have a device file of NVIDIA open; of other users only for root."""
    found = []
    proc = root / "proc"
    for process in sorted(proc.glob("[0-9]*"), key=lambda path: int(path.name)) if proc.is_dir() else []:
        try:
            links = [os.readlink(link) for link in (process / "fd").iterdir()]
        except OSError:
            continue  # it ended, or is not ours to look at
        if not any(re.match(r"/dev/nvidia(\d|ctl|-uvm|-caps)", link) for link in links):
            continue
        found.append(
            {
                "pid": int(process.name),
                "command": _read(process / "comm").strip(),
                "unit": pf.unit_of_cgroup(_read(process / "cgroup")),
            }
        )
    return found


# --------------------------------------------------------------------------------------------------------- packages


def parse_packages(text: str, patterns: t.Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Installed packages that match, and held ones, of `dpkg-query`'s `${db:Status-Abbrev}|${Package}|${Version}`."""
    wanted = list(patterns)
    installed: dict[str, str] = {}
    held: list[str] = []
    for line in text.splitlines():
        status, _sign, rest = line.partition("|")
        name, _sign, version = rest.partition("|")
        if len(status) < 2 or status[1] != "i":
            continue
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in wanted):
            installed[name] = version.strip()
        if status[0] == "h":
            held.append(name)
    return installed, sorted(set(held))


def parse_policy(text: str) -> dict[str, str | None]:
    """`apt-cache policy NAME…`: what would be installed; None where there is nothing. Unknown names do not appear."""
    result: dict[str, str | None] = {}
    name = ""
    for line in text.splitlines():
        if line and not line.startswith(" ") and line.endswith(":"):
            name = line[:-1]
        match = re.match(r"  Candidate: (\S+)", line)
        if match and name:
            result[name] = None if match.group(1) == "(none)" else match.group(1)
    return result


def apt_components(root: Path = Path("/")) -> dict[str, list[str]]:
    """The components of each suite that the host's package sources name."""
    directory = root / "etc/apt/sources.list.d"
    paths = [root / "etc/apt/sources.list", *(sorted(directory.iterdir()) if directory.is_dir() else [])]
    suites: dict[str, set[str]] = {}
    for path in paths:
        sources: list[pf.Source] = []
        if path.suffix == ".list":
            sources = pf.parse_apt_list(_read(path))
        elif path.suffix == ".sources":
            sources = pf.parse_apt_deb822(_read(path))
        for source in sources:
            suites.setdefault(source.suite, set()).update(source.components)
    return {suite: sorted(components) for suite, components in sorted(suites.items())}


def has_package_lists(root: Path = Path("/")) -> bool:
    """Whether package lists were ever fetched; without them nobody can say what could be installed."""
    lists = root / "var/lib/apt/lists"
    return lists.is_dir() and any(lists.glob("*_Packages*"))


def space(path: Path) -> dict[str, t.Any]:
    """Free bytes and size of the file system that a directory is on."""
    figures = os.statvfs(pf.existing(path))
    return {
        "path": str(path),
        "free_bytes": figures.f_bavail * figures.f_frsize,
        "size_bytes": figures.f_blocks * figures.f_frsize,
    }


def boot_space(root: Path = Path("/")) -> dict[str, t.Any]:
    """Room in /boot, and the size of the largest initial RAM disk: a new one is written beside the old one."""
    boot = root / "boot"
    images = [path.stat().st_size for path in boot.glob("initrd.img-*")] if boot.is_dir() else []
    return {**space(boot), "initrd_bytes": max(images, default=0)}


# ------------------------------------------------------------------------------------------------------- everything


def smi_output(run: Run, executable: str, timeout: int, simulated: t.Mapping[str, t.Any]) -> tuple[str | None, int]:
    """What nvidia-smi says, None when there is none. Raises `ValueError`, `OSError` for simulated files."""
    if "nvidia_smi" in simulated:
        answer = simulated["nvidia_smi"]
        if answer is None:
            return None, 127
        text = answer.get("output")
        if text is None:
            if "output_file" not in answer:
                raise ValueError("simulated nvidia_smi needs output or output_file")
            text = Path(answer["output_file"]).read_text(encoding="utf-8")
        return str(text), int(answer.get("rc", 0))
    code, output = run(executable, "-q", "-x", timeout=timeout)
    return (None, code) if code == 127 else (output, code)


def gather(
    run: Run,
    *,
    patterns: t.Sequence[str],
    names: t.Sequence[str],
    executable: str,
    timeout: int,
    simulated: t.Mapping[str, t.Any],
    root: Path = Path("/"),
) -> dict[str, t.Any]:
    """Everything there is to know, simulated facts laid over the host's. Raises `OSError`, `ValueError`."""
    release = pf.parse_os_release(_read(root / "etc/os-release"))
    os_id = release.get("ID", "")
    devices = simulated_devices(simulated["pci"]) if "pci" in simulated else pci_devices(root / "sys/bus/pci/devices")
    gpus = [device for device in devices if is_gpu(device)]
    output, code = smi_output(run, executable, timeout, simulated)
    report = parse_report(output, code, gpus)
    kernels = installed_kernels(root)
    # Their headers, and the packages that bring headers with later kernels.
    header_names = [headers_package(kernel) for kernel in kernels] + [headers_meta(kernel, os_id) for kernel in kernels]
    _code, listing = run("dpkg-query", "-W", "-f", "${db:Status-Abbrev}|${Package}|${Version}\n")
    installed, held = parse_packages(listing, [*patterns, "linux-image-*", "linux-headers-*", "dkms"])
    asked = sorted({*names, *header_names})
    lists = has_package_lists(root)
    # apt would keep what it has read in files of its own: nothing is to be written here.
    unwritten = ("-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache=")
    candidates = parse_policy(run("apt-cache", *unwritten, "policy", *asked)[1]) if lists and asked else {}
    return {
        "os": {"id": os_id, "codename": release.get("VERSION_CODENAME", ""), "version": release.get("VERSION_ID", "")},
        "architecture": platform.machine(),
        "pci": gpus,
        "switches": [device for device in devices if is_switch(device)],
        "gpu": report.to_dict(),
        "running_kernel": simulated.get("running_kernel") or platform.release(),
        "next_kernel": next_kernel(kernels, root),
        "kernels": [
            {
                "release": kernel,
                "headers": has_headers(kernel, root),
                "headers_package": headers_package(kernel),
                "headers_meta": headers_meta(kernel, os_id),
            }
            for kernel in kernels
        ],
        "dkms": parse_dkms_status(run("dkms", "status")[1]),
        "secure_boot": {**secure_boot(root), **simulated.get("secure_boot", {})},
        "modules": {**kernel_modules(root), **simulated.get("modules", {})},
        "users": list(simulated["users"]) if "users" in simulated else gpu_users(root),
        "packages": installed,
        "held": held,
        "lists": lists,
        "candidates": candidates,
        "components": apt_components(root),
        "boot": boot_space(root),
        "disk": space(root / "usr"),
        # What NVIDIA's own installer leaves, which no package manager knows of.
        "runfile": (root / "usr/bin/nvidia-uninstall").exists(),
        "simulated": sorted(simulated),
    }
