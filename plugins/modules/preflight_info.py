# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Gathers in one call what must be known of a host before anything is changed on it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: preflight_info
short_description: Compare a host with what is asked of it, in one call
version_added: "0.1.0"
description:
  - Gathers CPU, memory, disks, release, kernel, virtualisation, clock, listening ports with the units that hold them,
    GPUs on the PCI bus, name resolution, reachability of other hosts and of the package sources, and compares them with
    a profile.
  - Changes nothing on the host. What it sends is one bounded request to each package source and one connection attempt
    to each of O(reach), all at the same time.
  - Needs root to name the unit that holds a port.
author:
  - AI-102 inference maintainers (@ai102)
options:
  host:
    description: Name of the host in the checks, usually C(inventory_hostname).
    type: str
    required: true
  profile:
    description: Name of the profile among O(profiles) that the host is compared with.
    type: str
    required: true
  profiles:
    description:
      - The numbers of each profile, by name.
      - C(cpu_cores), C(memory_gb) and C(disk_gb) are a number or have C(minimum) (less fails) and C(recommended) (less
        warns). Gigabytes are decimal, as memory and disks are sold.
      - C(disk_kind) is V(any), V(sata), V(ssd) or V(nvme), or has C(minimum) and C(recommended) of these.
      - C(free_gb) is the free space that each of O(paths) needs.
      - C(containers) says whether the host may be a container.
    type: dict
    required: true
  tolerance_percent:
    description: Per cent of memory and disk that may be missing, because kernel, firmware and vendors take a share.
    type: float
    default: 5
  data_path:
    description: The disk beneath this path is the one that is measured. The path need not exist yet.
    type: path
    default: /var/lib
  paths:
    description:
      - File systems that will be written to, each as a path on it, which need not exist yet.
      - A path may be a dictionary with C(path) and C(free_gb) when it needs other free space than the profile says.
    type: list
    elements: raw
    default: []
  supported_os:
    description: Supported releases, the C(ID) of C(/etc/os-release) with a list of C(VERSION_ID).
    type: dict
    default: {debian: ["12", "13"], ubuntu: ["22.04", "24.04"]}
  architectures:
    description: Supported architectures.
    type: list
    elements: str
    default: [x86_64]
  kernel:
    description: Oldest kernel.
    type: str
    default: "5.10"
  python:
    description: Oldest Python on the host.
    type: str
    default: "3.10"
  ports:
    description: Ports that must be free, or held by ourselves.
    type: list
    elements: dict
    default: []
    suboptions:
      port:
        description: TCP port.
        type: int
        required: true
      units:
        description: Patterns of further systemd units that may hold it.
        type: list
        elements: str
        default: []
      marker:
        description: O(ports[].units) count only when this path exists, as C(nginx.service) may be anybody's.
        type: path
  own_units:
    description: Patterns of systemd units that may hold any of the ports.
    type: list
    elements: str
    default: ["ai102-*"]
  resolve:
    description: Names that must resolve.
    type: list
    elements: str
    default: []
  reach:
    description: Hosts and ports that must answer. A refused connection is an answer, as nothing may listen there yet.
    type: list
    elements: dict
    default: []
    suboptions:
      host:
        description: Name or address.
        type: str
        required: true
      port:
        description: TCP port.
        type: int
        required: true
  sources:
    description: Whether to try the package sources of the host.
    type: bool
    default: true
  gpus:
    description: How many NVIDIA GPUs must be on the PCI bus.
    type: int
    default: 0
  control_time:
    description: Time of the control node in seconds since 1970, to compare the clocks.
    type: float
  max_skew:
    description: How many seconds the clocks may differ. The time until the module runs counts too.
    type: float
    default: 30
  severity:
    description:
      - What a shortfall means, by name of the check or of its family (V(port) stands for V(port.443)).
      - V(fail) turns warnings into failures, V(warn) failures into warnings, V(skip) takes the check out.
    type: dict
    default: {}
  timeout:
    description: Seconds that all attempts over the network may take together.
    type: int
    default: 8
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
- name: Look at the host
  ai102.inference.preflight_info:
    host: "{{ inventory_hostname }}"
    profile: production
    profiles:
      production:
        cpu_cores: {minimum: 8, recommended: 16}
        memory_gb: {minimum: 32, recommended: 64}
        disk_kind: {minimum: any, recommended: nvme}
    ports: [{port: 443}]
  become: true
  register: preflight
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
facts:
  description: What was found.
  returned: always
  type: dict
duration_ms:
  description: Time it took on the host in milliseconds.
  returned: always
  type: int
"""

import contextlib
import ctypes
import errno
import functools
import http.client
import os
import platform
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
import typing as t
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ai102.inference.plugins.module_utils import _preflight as pf
from ansible_collections.ai102.inference.plugins.module_utils._gpu import pci_gpus


def read(path: str) -> str:
    """Text of a file, empty when it cannot be read."""
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def run(*command: str) -> str:
    """Output of a short command, empty when it fails or is absent."""
    program = shutil.which(command[0])
    if program is None:
        return ""
    try:
        done = subprocess.run(
            [program, *command[1:]],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace")


def cpu_cores() -> int:
    """Logical cores this host may use; a container's quota counts."""
    cores = len(os.sched_getaffinity(0))
    quota = read("/sys/fs/cgroup/cpu.max").split()
    if len(quota) == 2 and quota[0] != "max":
        cores = min(cores, max(1, int(quota[0]) // int(quota[1])))
    return cores


def memory_bytes() -> int:
    """Memory this host may use; a container's limit counts."""
    total = pf.parse_meminfo(read("/proc/meminfo"))
    limit = read("/sys/fs/cgroup/memory.max").strip()
    return min(total, int(limit)) if limit.isdigit() else total


def virtualisation() -> dict[str, t.Any]:
    """Kind of virtualisation, empty on hardware, and whether it is a container."""
    kind = run("systemd-detect-virt", "--container").strip()
    if kind and kind != "none":
        return {"kind": kind, "container": True}
    # Some container managers say nothing to systemd but leave one of these.
    for marker, name in (("/.dockerenv", "docker"), ("/run/.containerenv", "podman")):
        if Path(marker).exists():
            return {"kind": name, "container": True}
    kind = run("systemd-detect-virt", "--vm").strip()
    if not kind and " hypervisor" in read("/proc/cpuinfo"):
        kind = "vm"
    return {"kind": "" if kind == "none" else kind, "container": False}


def clock() -> dict[str, t.Any]:
    """Time in seconds since 1970, and whether the kernel believes it (None when it does not say)."""
    synchronised = None
    with contextlib.suppress(OSError, AttributeError):
        # struct timex: only the status word is wanted, at offset 40 of 208 bytes on 64-bit Linux.
        buffer = ctypes.create_string_buffer(256)
        if ctypes.CDLL(None, use_errno=True).adjtimex(buffer) >= 0:
            sta_unsync = 0x40
            synchronised = not struct.unpack_from("i", buffer, 40)[0] & sta_unsync
    return {"time": time.time(), "synchronised": synchronised}


def disk(path: str) -> dict[str, t.Any]:
    """The disk beneath a path; the file system itself where no disk can be seen (containers, network)."""
    place = pf.existing(path)
    device = place.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    found = pf.describe_device(Path("/sys/dev/block") / number)
    if found is None:
        source = pf.source_of_mount(read("/proc/self/mountinfo"), number)
        with contextlib.suppress(OSError):
            real = os.stat(source).st_rdev if source else 0
            found = pf.describe_device(Path(f"/sys/dev/block/{os.major(real)}:{os.minor(real)}")) if real else None
    status = os.statvfs(place)
    if found is None:
        return {"path": path, "size_bytes": status.f_blocks * status.f_frsize, "kind": "unknown", "names": []}
    return {"path": path, "size_bytes": found.size, "kind": found.kind, "names": list(found.names)}


def held_ports(wanted: t.Collection[int]) -> dict[str, list[dict[str, t.Any]]]:
    """Who holds the wanted ports. The processes are searched only when one of the ports is held at all."""
    inodes: dict[int, int] = {}
    owners: dict[int, int] = {}
    for name in ("/proc/net/tcp", "/proc/net/tcp6"):
        owners.update(pf.parse_owners(read(name)))
        for port, inode in pf.parse_listeners(read(name)):
            if port in wanted:
                inodes[inode] = port
    if not inodes:
        return {}
    holders: dict[int, list[dict[str, t.Any]]] = {inode: [] for inode in inodes}
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            for descriptor in os.scandir(process / "fd"):
                with contextlib.suppress(OSError):
                    target = os.readlink(descriptor.path)
                    if target.startswith("socket:[") and int(target[8:-1]) in holders:
                        holders[int(target[8:-1])].append(
                            {
                                "pid": int(process.name),
                                "process": read(f"{process}/comm").strip(),
                                "unit": pf.unit_of_cgroup(read(f"{process}/cgroup")),
                            }
                        )
    result: dict[str, list[dict[str, t.Any]]] = {}
    for inode, port in inodes.items():
        found = holders[inode]
        # systemd itself listens for a socket unit; the unit's name says whose it is.
        if any(holder["pid"] == 1 for holder in found):
            unit = pf.parse_list_sockets(run("systemctl", "list-sockets", "--all", "--no-legend", "--full"), port)
            others = [holder for holder in found if holder["pid"] != 1]
            found = [*others, {"pid": 1, "process": "systemd", "unit": unit}]
        if not found and owners.get(inode):
            found = processes_of(owners[inode])
        result.setdefault(str(port), []).extend(found or [{"pid": 0, "process": "", "unit": ""}])
    return result


def processes_of(user: int) -> list[dict[str, t.Any]]:
    """The units of a user's processes, one entry each.

    Who may not trace processes (root in most containers) cannot see which of them holds a socket, but the kernel tells
    whose socket it is.
    """
    units: dict[str, dict[str, t.Any]] = {}
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                if process.stat().st_uid == user:
                    unit = pf.unit_of_cgroup(read(f"{process}/cgroup"))
                    name = read(f"{process}/comm").strip()
                    units.setdefault(unit, {"pid": int(process.name), "process": name, "unit": unit})
    return list(units.values())


def apt_sources() -> list[pf.Source]:
    """The package sources of the host, each once."""
    found: list[pf.Source] = []
    directory = Path("/etc/apt/sources.list.d")
    for path in [Path("/etc/apt/sources.list"), *(sorted(directory.iterdir()) if directory.is_dir() else [])]:
        if path.suffix == ".list":
            found += pf.parse_apt_list(read(str(path)))
        elif path.suffix == ".sources":
            found += pf.parse_apt_deb822(read(str(path)))
    return list(dict.fromkeys(found))


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an answer; where it leads is not our business."""

    def redirect_request(self, *_args: t.Any, **_kwargs: t.Any) -> None:
        """Follow none."""


def try_source(source: pf.Source, proxies: t.Mapping[str, str], timeout: float) -> dict[str, t.Any]:
    """One bounded request for what the source says of itself."""
    result = {"label": source.label, "state": "failed", "answer": ""}
    parts = urllib.parse.urlsplit(source.uri)
    if parts.scheme in ("file", "copy"):
        there = Path(parts.path).is_dir()
        return {
            **result,
            "state": "ok" if there else "failed",
            "answer": "a directory" if there else "no such directory",
        }
    if parts.scheme not in ("http", "https"):
        return {**result, "state": "unsure", "answer": f"{parts.scheme or 'unknown'} sources are not tried"}
    proxy = proxies.get(f"{parts.scheme}::{parts.hostname}", proxies.get(parts.scheme, ""))
    handlers: list[urllib.request.BaseHandler] = [NoRedirect()]
    if proxy:
        handlers.append(urllib.request.ProxyHandler({} if proxy.upper() == "DIRECT" else {parts.scheme: proxy}))
    opener = urllib.request.build_opener(*handlers)
    for url in source.release_urls:
        try:
            with opener.open(urllib.request.Request(url, method="HEAD"), timeout=timeout) as response:
                return {**result, "state": "ok", "answer": f"HTTP {response.status}"}
        except urllib.error.HTTPError as error:
            if error.code < 400:
                return {**result, "state": "ok", "answer": f"HTTP {error.code}"}
            result["answer"] = f"HTTP {error.code} {error.reason}"
            # apt may hold a password for it that is none of our business, and some servers refuse HEAD.
            result["state"] = "unsure" if error.code in (401, 403, 405) else "failed"
            if error.code != 404:
                return result
        except (OSError, ssl.SSLError, http.client.HTTPException, ValueError) as error:
            return {**result, "answer": str(getattr(error, "reason", error)) or type(error).__name__}
    return result


def try_connect(entry: t.Mapping[str, t.Any], timeout: float) -> dict[str, t.Any]:
    """One connection attempt."""
    result = {"host": entry["host"], "port": entry["port"], "state": "failed", "error": ""}
    try:
        with socket.create_connection((entry["host"], entry["port"]), timeout=timeout):
            result["state"] = "open"
    except ConnectionRefusedError:
        result["state"] = "refused"
    except TimeoutError:
        result["error"] = f"no answer within {timeout:g} s"
    except OSError as error:
        result["error"] = error.strerror or str(error)
        if error.errno == errno.ECONNREFUSED:
            result["state"] = "refused"
    return result


def try_resolve(name: str) -> dict[str, t.Any]:
    """The addresses of a name."""
    try:
        answers = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError as error:
        return {"name": name, "addresses": [], "error": error.strerror or str(error)}
    return {"name": name, "addresses": sorted({str(answer[4][0]) for answer in answers}), "error": ""}


def all_at_once(
    jobs: t.Sequence[tuple[t.Callable[[], dict[str, t.Any]], dict[str, t.Any]]], timeout: float
) -> list[dict[str, t.Any]]:
    """Run jobs in threads that may be left behind; a job that takes too long gives its second part instead."""
    answers: list[dict[str, t.Any] | None] = [None] * len(jobs)
    turns = threading.Semaphore(64)

    def work(position: int, job: t.Callable[[], dict[str, t.Any]]) -> None:
        with turns:
            answers[position] = job()

    threads = [
        # Daemons: a resolver that hangs must not keep the module alive.
        threading.Thread(target=work, args=(position, job), daemon=True)
        for position, (job, _fallback) in enumerate(jobs)
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + timeout
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return [answer or fallback for answer, (_job, fallback) in zip(answers, jobs, strict=True)]


def network(params: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Names, other hosts and package sources, all tried at the same time."""
    timeout = params["timeout"]
    each = max(1.0, timeout / 2)
    late = f"no answer within {timeout} s"
    sources = apt_sources() if params["sources"] else []
    proxies = pf.parse_apt_proxies(run("apt-config", "dump")) if sources else {}
    jobs: list[tuple[t.Callable[[], dict[str, t.Any]], dict[str, t.Any]]] = [
        (functools.partial(try_resolve, name), {"name": name, "addresses": [], "error": late})
        for name in params["resolve"]
    ]
    jobs += [
        (functools.partial(try_connect, entry, each), {**entry, "state": "failed", "error": late})
        for entry in params["reach"]
    ]
    jobs += [
        (
            functools.partial(try_source, source, proxies, each),
            {"label": source.label, "state": "failed", "answer": late},
        )
        for source in sources
    ]
    answers = all_at_once(jobs, timeout)
    first, second = len(params["resolve"]), len(params["resolve"]) + len(params["reach"])
    return {
        "resolve": answers[:first],
        "reach": answers[first:second],
        "sources": answers[second:] if params["sources"] else None,
    }


def gather(params: t.Mapping[str, t.Any], paths: t.Sequence[tuple[str, float]]) -> dict[str, t.Any]:
    """Everything there is to know. Raises `OSError` when the host does not let itself be read."""
    release = pf.parse_os_release(read("/etc/os-release"))
    return {
        "os": {
            "id": release.get("ID", ""),
            "version": release.get("VERSION_ID", ""),
            "name": release.get("PRETTY_NAME", ""),
        },
        "architecture": platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "systemd": Path("/run/systemd/system").is_dir(),
        "virtualisation": virtualisation(),
        "cpu_cores": cpu_cores(),
        "memory_bytes": memory_bytes(),
        "disk": disk(params["data_path"]),
        "paths": [pf.free_space(path, free_gb) for path, free_gb in paths],
        "ports": held_ports({entry["port"] for entry in params["ports"]}),
        "markers": [
            entry["marker"] for entry in params["ports"] if entry["marker"] and os.path.lexists(entry["marker"])
        ],
        "gpus": pci_gpus(),
        "clock": clock(),
        **network(params),
    }


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "host": {"type": "str", "required": True},
            "profile": {"type": "str", "required": True},
            "profiles": {"type": "dict", "required": True},
            "tolerance_percent": {"type": "float", "default": 5},
            "data_path": {"type": "path", "default": "/var/lib"},
            "paths": {"type": "list", "elements": "raw", "default": []},
            "supported_os": {"type": "dict", "default": {"debian": ["12", "13"], "ubuntu": ["22.04", "24.04"]}},
            "architectures": {"type": "list", "elements": "str", "default": ["x86_64"]},
            "kernel": {"type": "str", "default": "5.10"},
            "python": {"type": "str", "default": "3.10"},
            "ports": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "port": {"type": "int", "required": True},
                    "units": {"type": "list", "elements": "str", "default": []},
                    "marker": {"type": "path"},
                },
            },
            "own_units": {"type": "list", "elements": "str", "default": ["ai102-*"]},
            "resolve": {"type": "list", "elements": "str", "default": []},
            "reach": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "host": {"type": "str", "required": True},
                    "port": {"type": "int", "required": True},
                },
            },
            "sources": {"type": "bool", "default": True},
            "gpus": {"type": "int", "default": 0},
            "control_time": {"type": "float"},
            "max_skew": {"type": "float", "default": 30},
            "severity": {"type": "dict", "default": {}},
            "timeout": {"type": "int", "default": 8},
        },
        supports_check_mode=True,
    )
    params = module.params
    start = time.monotonic()
    try:
        profile = pf.Profile.choose(params["profile"], params["profiles"])
        severity = pf.check_severity(params["severity"])
        paths = pf.wanted_paths(params["paths"], profile.free_gb)
    except ValueError as error:
        module.fail_json(msg=str(error))
    try:
        facts = gather(params, paths)
    except OSError as error:
        module.fail_json(msg=f"the host cannot be read: {error}")
    checks = pf.evaluate(
        facts,
        host=params["host"],
        profile=profile,
        supported_os=params["supported_os"],
        architectures=params["architectures"],
        kernel=params["kernel"],
        python=params["python"],
        ports=params["ports"],
        own_units=params["own_units"],
        gpus=params["gpus"],
        control_time=params["control_time"],
        max_skew=params["max_skew"],
        severity=severity,
        tolerance_percent=params["tolerance_percent"],
    )
    module.exit_json(
        changed=False,
        checks=[check.to_dict() for check in checks],
        ok=not any(check.status == "fail" for check in checks),
        facts=facts,
        duration_ms=round((time.monotonic() - start) * 1000),
    )


if __name__ == "__main__":
    main()
