# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host must have before anything is changed on it: the parsers of what it says, and the comparison.

Nothing here reads a machine except below a root directory that is handed over, so that every rule can be tested.
Sizes are bytes in facts and decimal gigabytes (10^9) in requirements, as machines and disks are sold.
"""

from __future__ import annotations

import difflib
import fnmatch
import os
import re
import typing as t
from dataclasses import dataclass, field
from pathlib import Path

from ansible_collections.ai102.inference.plugins.module_utils._verdict import Check, Status

GB: t.Final = 10**9
GIB: t.Final = 2**30

DiskKind = t.Literal["nvme", "ssd", "hdd", "virtual", "unknown"]

#: Disks in order of speed; what is not in here cannot be told from inside the host.
_KIND_RANK: t.Final[dict[str, int]] = {"any": 0, "hdd": 1, "sata": 1, "ssd": 2, "nvme": 3}

#: Names of checks, for `severity`: a name also stands for all that begin with it and a dot.
CHECK_NAMES: t.Final = (
    "reachable",
    "facts",
    "os",
    "architecture",
    "kernel",
    "python",
    "init",
    "virtualisation",
    "cpu",
    "memory",
    "disk.size",
    "disk.kind",
    "disk.free",
    "clock.synchronised",
    "clock.skew",
    "port",
    "gpu",
    "resolve",
    "reach",
    "source",
    "control",
    "inventory",
)

SEVERITIES: t.Final = ("fail", "warn", "skip")

_VIRTUAL_VENDORS: t.Final = ("qemu", "vmware", "msft", "google", "xen", "virtio", "amazon", "oracle", "nutanix")


# ---------------------------------------------------------------------------------------------------- requirements


@dataclass(frozen=True)
class Range:
    """A number that must be reached and one that should be."""

    minimum: float = 0
    recommended: float = 0


@dataclass(frozen=True)
class Profile:
    """The numbers of one profile; 0 and `any` ask for nothing."""

    name: str
    cpu_cores: Range = field(default_factory=Range)
    memory_gb: Range = field(default_factory=Range)
    disk_gb: Range = field(default_factory=Range)
    disk_kind_minimum: str = "any"
    disk_kind_recommended: str = "any"
    free_gb: float = 0
    containers: bool = False

    @classmethod
    def choose(cls, name: str, profiles: t.Mapping[str, t.Any]) -> Profile:
        """Take one profile of several. Raises `ValueError` when there is none of that name, or it is wrong."""
        if name not in profiles:
            near = difflib.get_close_matches(name, list(profiles), 1)
            raise ValueError(
                f"there is no preflight_profile {name!r}"
                + (f", did you mean {near[0]!r}?" if near else f"; there are {', '.join(sorted(profiles))}")
            )
        if not isinstance(profiles[name], t.Mapping):
            raise ValueError(f"profile {name!r} must be a dictionary")
        return cls.from_dict(name, profiles[name])

    @classmethod
    def from_dict(cls, name: str, data: t.Mapping[str, t.Any]) -> Profile:
        """Read a profile as it stands in the inventory. Raises `ValueError` that says what is wrong and where."""
        known = ("cpu_cores", "memory_gb", "disk_gb", "disk_kind", "free_gb", "containers")
        _known_keys(f"profile {name!r}", data, known)
        ranges = {key: _range(f"profile {name!r}: {key}", data.get(key, {})) for key in known[:3]}
        kind = data.get("disk_kind", {})
        if not isinstance(kind, t.Mapping):
            kind = {"minimum": kind, "recommended": kind}
        _known_keys(f"profile {name!r}: disk_kind", kind, ("minimum", "recommended"))
        minimum, recommended = str(kind.get("minimum", "any")), str(kind.get("recommended", kind.get("minimum", "any")))
        for value in (minimum, recommended):
            if value not in _KIND_RANK:
                raise ValueError(f"profile {name!r}: disk_kind {value!r} is none of {', '.join(_KIND_RANK)}")
        return cls(
            name=name,
            disk_kind_minimum=minimum,
            disk_kind_recommended=recommended,
            free_gb=_range(f"profile {name!r}: free_gb", data.get("free_gb", 0)).minimum,
            containers=bool(data.get("containers", False)),
            **ranges,
        )


def _known_keys(where: str, data: t.Mapping[str, t.Any], known: t.Sequence[str]) -> None:
    for key in data:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            raise ValueError(f"{where} has no key {key!r}" + (f", did you mean {near[0]!r}?" if near else ""))


def _range(where: str, data: object) -> Range:
    if isinstance(data, (int, float)) and not isinstance(data, bool):
        return Range(float(data), float(data))
    if not isinstance(data, t.Mapping):
        raise ValueError(f"{where} must be a number or have `minimum` and `recommended`, not {data!r}")
    _known_keys(where, data, ("minimum", "recommended"))
    try:
        minimum = float(data.get("minimum", 0))
        recommended = float(data.get("recommended", minimum))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error
    if recommended < minimum:
        raise ValueError(f"{where}: recommended ({recommended:g}) is less than minimum ({minimum:g})")
    return Range(minimum, recommended)


def check_severity(severity: t.Mapping[str, t.Any]) -> dict[str, str]:
    """Refuse names and values that would silently do nothing. Raises `ValueError`."""
    families = {name.partition(".")[0] for name in CHECK_NAMES}
    known = sorted({*CHECK_NAMES, *families})
    for name, value in severity.items():
        if value not in SEVERITIES:
            raise ValueError(f"severity of {name!r} is {value!r}, must be one of {', '.join(SEVERITIES)}")
        if name not in known and name.partition(".")[0] not in families:
            near = difflib.get_close_matches(name, known, 1)
            raise ValueError(f"there is no check {name!r}" + (f", did you mean {near[0]!r}?" if near else ""))
    return dict(severity)


def apply_severity(checks: t.Iterable[Check], severity: t.Mapping[str, str]) -> list[Check]:
    """Let the inventory decide what a shortfall means; the most specific name wins.

    `warn` turns failures into warnings, `fail` warnings into failures, and `skip` takes the check out.
    """
    result = []
    for check in checks:
        parts = check.check.split(".")
        chosen = next(
            (
                severity[".".join(parts[:length])]
                for length in range(len(parts), 0, -1)
                if ".".join(parts[:length]) in severity
            ),
            None,
        )
        status: Status = check.status
        actual = check.actual
        if chosen == "skip":
            status, actual = "skip", "not asked for"
        elif chosen == "warn" and status == "fail":
            status = "warn"
        elif chosen == "fail" and status == "warn":
            status = "fail"
        result.append(Check(check.check, check.host, status, check.expected, actual, check.hint))
    return result


# --------------------------------------------------------------------------------------------------------- parsers


def parse_os_release(text: str) -> dict[str, str]:
    """`/etc/os-release` as a dictionary."""
    result = {}
    for line in text.splitlines():
        key, separator, value = line.strip().partition("=")
        if separator and not key.startswith("#"):
            result[key] = value.strip().strip("\"'")
    return result


def parse_meminfo(text: str) -> int:
    """`MemTotal` of `/proc/meminfo` in bytes; 0 when it is not there."""
    match = re.search(r"^MemTotal:\s+(\d+)\s+kB", text, re.MULTILINE)
    return int(match.group(1)) * 1024 if match else 0


def parse_listeners(text: str) -> list[tuple[int, int]]:
    """Listening sockets of `/proc/net/tcp` or `tcp6` as (port, inode)."""
    result = []
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[3] == "0A":
            result.append((int(fields[1].rpartition(":")[2], 16), int(fields[9])))
    return result


def parse_owners(text: str) -> dict[int, int]:
    """Users (numeric) of the listening sockets of `/proc/net/tcp` or `tcp6`, by inode."""
    rows = [line.split() for line in text.splitlines()[1:]]
    return {int(fields[9]): int(fields[7]) for fields in rows if len(fields) > 9 and fields[3] == "0A"}


def unit_of_cgroup(text: str) -> str:
    """The systemd unit of `/proc/<pid>/cgroup`; empty when the process belongs to none."""
    for line in text.splitlines():
        path = line.rpartition(":")[2]
        for part in reversed(path.split("/")):
            if part.endswith((".service", ".socket", ".scope")):
                return re.sub(r"\\x2d", "-", part)
    return ""


def parse_list_sockets(text: str, port: int) -> str:
    """The socket unit that listens on a port, from `systemctl list-sockets --no-legend --full`."""
    for line in text.splitlines():
        fields = line.split()
        if len(fields) >= 2 and fields[0].rpartition(":")[2] == str(port):
            return next((word for word in fields[1:] if word.endswith(".socket")), "")
    return ""


@dataclass(frozen=True)
class Source:
    """One package source: where it is, of which suite, and which components (no part of what makes it the same)."""

    uri: str
    suite: str
    components: tuple[str, ...] = field(default=(), compare=False)

    @property
    def release_urls(self) -> list[str]:
        """Addresses of the files that say what the source holds; the second for sources without the first."""
        base = self.uri.rstrip("/")
        path = f"{base}/{self.suite.strip('/')}" if self.suite.endswith("/") else f"{base}/dists/{self.suite}"
        return [f"{path.rstrip('/.')}/{name}" for name in ("InRelease", "Release")]

    @property
    def label(self) -> str:
        """For people, without a password that may stand in the address."""
        return f"{re.sub(r'//[^/@]*@', '//', self.uri).rstrip('/')} {self.suite}".strip()


def parse_apt_list(text: str) -> list[Source]:
    """One-line sources (`deb [options] uri suite component…`)."""
    result = []
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s+(\S+)([^#]*)", line)
        if match:
            result.append(Source(match.group(1), match.group(2), tuple(match.group(3).split())))
    return result


def parse_apt_deb822(text: str) -> list[Source]:
    """Stanza sources (`Types:`, `URIs:`, `Suites:`); a source of source packages alone is left out."""
    result: list[Source] = []
    for stanza in re.split(r"\n\s*\n", "\n".join(line for line in text.splitlines() if not line.startswith("#"))):
        fields: dict[str, str] = {}
        key = ""
        for line in stanza.splitlines():
            if line[:1] in " \t" and key:
                fields[key] += " " + line.strip()
            elif ":" in line:
                name, _separator, value = line.partition(":")
                key = name.strip().lower()
                fields[key] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in ("no", "false", "0"):
            continue
        result.extend(
            Source(uri, suite, tuple(fields.get("components", "").split()))
            for uri in fields.get("uris", "").split()
            for suite in fields.get("suites", "").split()
        )
    return result


def parse_apt_proxies(text: str) -> dict[str, str]:
    """Proxies from `apt-config dump`: by scheme, or by `scheme::host`. `DIRECT` means none."""
    pattern = re.compile(r'^Acquire::(https?)::Proxy(?:::(\S+))? "([^"]*)";', re.MULTILINE | re.IGNORECASE)
    return {
        "::".join(part.lower() for part in match.groups()[:2] if part): match.group(3)
        for match in pattern.finditer(text)
    }


# ----------------------------------------------------------------------------------------------------------- disks


@dataclass(frozen=True)
class Disk:
    """What lies beneath a file system: all its disks' size in bytes, the slowest kind among them, their names."""

    size: int
    kind: DiskKind
    names: tuple[str, ...]


def describe_device(device: Path) -> Disk | None:
    """Find the disks beneath a block device's directory in sysfs, through partitions, LVM, LUKS and RAID."""
    if not device.is_dir():
        return None
    device = device.resolve()
    if (device / "partition").exists():
        return describe_device(device.parent)
    slaves = sorted((device / "slaves").iterdir()) if (device / "slaves").is_dir() else []
    beneath = [disk for disk in (describe_device(slave) for slave in slaves) if disk]
    own_size = _sysfs_number(device / "size") * 512
    if beneath:
        names = tuple(sorted({name for disk in beneath for name in disk.names}))
        # The sum would count a mirror's disks twice, and a RAID's own size is what it can hold. For LVM the volume may
        # be a small part of its disks, and can grow.
        by_names = {disk.names: disk.size for disk in beneath}
        size = own_size if device.name.startswith("md") else sum(by_names.values())
        slowest = min((disk.kind for disk in beneath), key=lambda kind: _KIND_RANK.get(kind, 0))
        return Disk(size, slowest, names)
    return Disk(own_size, _disk_kind(device), (device.name,))


def _sysfs_number(path: Path) -> int:
    try:
        return int(path.read_text().strip())
    except (OSError, ValueError):
        return 0


def _disk_kind(device: Path) -> DiskKind:
    name = device.name
    if name.startswith("nvme"):
        return "nvme"
    if name.startswith(("vd", "xvd", "sbd", "rbd", "nbd", "loop", "zram")):
        return "virtual"
    try:
        vendor = (device / "device" / "vendor").read_text().strip().lower()
        if vendor.startswith(_VIRTUAL_VENDORS):
            return "virtual"
    except OSError:
        pass
    try:
        return "hdd" if (device / "queue" / "rotational").read_text().strip() == "1" else "ssd"
    except OSError:
        return "unknown"


def source_of_mount(mountinfo: str, device: str) -> str:
    """The mounted source (`/dev/sda2`) of a device number without a block device, as btrfs has it; else empty."""
    for line in mountinfo.splitlines():
        fields = line.split()
        if len(fields) > 6 and fields[2] == device and "-" in fields:
            tail = fields[fields.index("-") + 1 :]
            if len(tail) > 1 and tail[1].startswith("/dev/"):
                return tail[1]
    return ""


def existing(path: str | Path) -> Path:
    """The path or its nearest ancestor that exists."""
    current = Path(path)
    while not current.exists() and current != current.parent:
        current = current.parent
    return current


def _mount_point(path: Path) -> Path:
    current = path.resolve()
    while not current.is_mount() and current != current.parent:
        current = current.parent
    return current


def free_space(path: str | Path, free_gb: float) -> dict[str, t.Any]:
    """Size and free space of the file system that a path is or will be on. Raises `OSError`."""
    place = existing(path)
    status = os.statvfs(place)
    return {
        "path": str(path),
        "free_gb": free_gb,
        "mount": str(_mount_point(place)),
        "size_bytes": status.f_blocks * status.f_frsize,
        "free_bytes": status.f_bavail * status.f_frsize,
        "inodes": status.f_files,
        "free_inodes": status.f_favail,
        "read_only": bool(status.f_flag & os.ST_RDONLY),
    }


def wanted_paths(entries: t.Iterable[object], free_gb: float) -> list[tuple[str, float]]:
    """Paths as they stand in the inventory, a text or `{path, free_gb}`. Raises `ValueError`."""
    result: list[tuple[str, float]] = []
    for entry in entries:
        if isinstance(entry, str):
            result.append((entry, free_gb))
            continue
        if not isinstance(entry, t.Mapping) or not isinstance(entry.get("path"), str):
            raise ValueError(f"a path is a text or has `path` and `free_gb`, not {entry!r}")
        _known_keys("a path", entry, ("path", "free_gb"))
        try:
            result.append((entry["path"], float(entry.get("free_gb", free_gb))))
        except (TypeError, ValueError) as error:
            raise ValueError(f"free_gb of {entry['path']}: {error}") from error
    return result


# ------------------------------------------------------------------------------------------------------ comparison


def size_text(size: float) -> str:
    """A size as it is sold and as tools show it: `16.8 GB (15.6 GiB)`."""
    return f"{size / GB:.4g} GB ({size / GIB:.4g} GiB)"


def version_tuple(text: str) -> tuple[int, ...]:
    """The leading numbers of a version: `6.1.0-37-amd64` → (6, 1, 0)."""
    match = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


class Comparison:
    """Compares the facts of one host with what is asked of it; collects checks."""

    def __init__(self, host: str, tolerance_percent: float = 5) -> None:
        """`tolerance_percent` is what memory and disks may lack: the kernel, firmware and vendors take their share."""
        self.host = host
        self.factor = 1 - tolerance_percent / 100
        self.checks: list[Check] = []

    def add(self, name: str, status: Status, expected: str, actual: str, hint: str = "") -> None:
        """Collect one check; a hint is for shortfalls only."""
        self.checks.append(Check(name, self.host, status, expected, actual, "" if status == "pass" else hint))

    def at_least(
        self, name: str, value: float, wanted: Range, show: t.Callable[[float], str], hint: str, factor: float = 1
    ) -> None:
        """A number against minimum and recommended."""
        status: Status = "pass"
        if value < wanted.minimum * factor:
            status = "fail"
        elif value < wanted.recommended * factor:
            status = "warn"
        if not wanted.recommended:
            expected = "any"
        elif wanted.recommended > wanted.minimum:
            expected = f"at least {show(wanted.minimum)}, recommended {show(wanted.recommended)}"
        else:
            expected = f"at least {show(wanted.minimum)}"
        self.add(name, status, expected, show(value), hint)

    def hardware(self, facts: t.Mapping[str, t.Any], profile: Profile) -> None:
        """CPU, memory, size and kind of the data disk, virtualisation."""
        named = f"profile {profile.name}"
        cores = facts["cpu_cores"]
        self.at_least(
            "cpu",
            cores,
            profile.cpu_cores,
            lambda number: f"{number:g} core" + ("" if number == 1 else "s"),
            f"Give the host more CPU cores, or choose another preflight_profile ({named}).",
        )
        self.at_least(
            "memory",
            facts["memory_bytes"] / GB,
            profile.memory_gb,
            lambda number: f"{number:.4g} GB",
            f"Give the host more memory ({size_text(facts['memory_bytes'])} found), or choose another "
            f"preflight_profile ({named}).",
            self.factor,
        )
        disk = facts["disk"]
        self.at_least(
            "disk.size",
            disk["size_bytes"] / GB,
            profile.disk_gb,
            lambda number: f"{number:.4g} GB",
            f"The disk under {disk['path']} is too small for {named}: use a larger one or set preflight_data_path.",
            self.factor,
        )
        self._disk_kind(disk, profile)
        virtualisation = facts["virtualisation"]
        container = virtualisation["container"]
        self.add(
            "virtualisation",
            "warn" if container and not profile.containers else "pass",
            "any" if profile.containers else "hardware or a virtual machine",
            f"container ({virtualisation['kind']})" if container else virtualisation["kind"] or "hardware",
            "Limits, firewall and drivers of a container are its host's: for tests (preflight_profile: container).",
        )

    def _disk_kind(self, disk: t.Mapping[str, t.Any], profile: Profile) -> None:
        kind = str(disk["kind"])
        names = ", ".join(disk["names"]) or str(disk["path"])
        minimum, recommended = profile.disk_kind_minimum, profile.disk_kind_recommended
        words = {"any": "any", "hdd": "any disk", "sata": "SATA or better", "ssd": "SSD or better", "nvme": "NVMe"}
        expected = words[minimum]
        if recommended != minimum:
            expected = (
                f"{expected}, recommended {words[recommended]}"
                if minimum != "any"
                else f"recommended {words[recommended]}"
            )
        status: Status = "pass"
        hint = f"The disk under {disk['path']} is slower than {profile.name} asks for."
        if kind in _KIND_RANK:
            rank = _KIND_RANK[kind]
            if rank < _KIND_RANK[minimum]:
                status = "fail"
            elif rank < _KIND_RANK[recommended]:
                status = "warn"
        elif _KIND_RANK[max(minimum, recommended, key=_KIND_RANK.__getitem__)] > 1:
            status = "warn"
            hint = "What is beneath a virtual disk cannot be told from here; make sure that it is fast enough."
        self.add("disk.kind", status, expected, f"{kind} ({names})", hint)

    def free_space(self, paths: t.Iterable[t.Mapping[str, t.Any]]) -> None:
        """Free space and inodes of the file systems that will be written to."""
        for entry in paths:
            wanted = float(entry["free_gb"])
            free = float(entry["free_bytes"])
            enough = free >= wanted * GB
            inodes = entry.get("free_inodes")
            starved = inodes is not None and 0 <= inodes < 1000 and entry.get("inodes", 0) > 0
            actual = f"{free / GB:.3g} GB of {float(entry['size_bytes']) / GB:.3g} GB"
            if starved:
                actual += f", {inodes} inodes"
            if entry.get("read_only"):
                actual += ", mounted read-only"
            self.add(
                f"disk.free.{entry['path']}",
                "pass" if enough and not starved and not entry.get("read_only") else "fail",
                f"{wanted:g} GB free",
                actual,
                f"Free or add space on the file system mounted at {entry['mount']}.",
            )

    def system(
        self,
        facts: t.Mapping[str, t.Any],
        supported_os: t.Mapping[str, t.Sequence[str]],
        architectures: t.Sequence[str],
        kernel: str,
        python: str,
    ) -> None:
        """Operating system, architecture, kernel, Python, init."""
        os_id, version = facts["os"]["id"], facts["os"]["version"]
        supported = {name.lower(): [str(item) for item in versions] for name, versions in supported_os.items()}
        self.add(
            "os",
            "pass" if version in supported.get(os_id, []) else "fail",
            ", ".join(f"{name} {'/'.join(versions)}" for name, versions in supported.items()),
            f"{os_id} {version}".strip() or "unknown",
            "Install a supported release.",
        )
        self.add(
            "architecture",
            "pass" if facts["architecture"] in architectures else "fail",
            " or ".join(architectures),
            facts["architecture"],
            "The locked packages are built for these architectures only.",
        )
        for name, wanted, found in (("kernel", kernel, facts["kernel"]), ("python", python, facts["python"])):
            self.add(
                name,
                "pass" if version_tuple(found) >= version_tuple(wanted) else "fail",
                f"at least {wanted}",
                found,
                f"Upgrade the {'kernel' if name == 'kernel' else 'Python of the host'}.",
            )
        self.add(
            "init",
            "pass" if facts["systemd"] else "fail",
            "systemd",
            "systemd" if facts["systemd"] else "another init",
            "Services are systemd units; start the host with systemd.",
        )

    def clock(self, facts: t.Mapping[str, t.Any], control_time: float | None, max_skew: float) -> None:
        """Whether the clock is kept right, and how far it is from the control node's."""
        clock = facts["clock"]
        synchronised = clock["synchronised"]
        self.add(
            "clock.synchronised",
            "pass" if synchronised else "warn",
            "kept by a time service",
            "synchronised" if synchronised else "not synchronised" if synchronised is False else "unknown",
            "Enable systemd-timesyncd or chrony: certificates, logs and metrics need the right time.",
        )
        if control_time is not None:
            skew = clock["time"] - control_time
            self.add(
                "clock.skew",
                "pass" if abs(skew) <= max_skew else "fail",
                f"within {max_skew:g} s of the control node",
                f"{skew:+.1f} s",
                "Set the clock: certificates issued now would not be valid yet, or not any more, on this host.",
            )

    def ports(
        self,
        wanted: t.Iterable[t.Mapping[str, t.Any]],
        held: t.Mapping[str, t.Any],
        own_units: t.Sequence[str],
        markers: t.Collection[str] = (),
    ) -> None:
        """Ports are free, or held by ourselves."""
        for entry in wanted:
            port = int(entry["port"])
            patterns = [*own_units, *(entry.get("units") or [])]
            marker = entry.get("marker")
            if marker and marker not in markers:
                # nginx.service may be anybody's, until our own configuration is there
                patterns = list(own_units)
            holders = held.get(str(port))
            expected = "free, or held by " + " or ".join(patterns) if patterns else "free"
            if not holders:
                self.add(f"port.{port}", "pass", expected, "free")
                continue
            units = sorted({str(holder["unit"]) for holder in holders})
            ours = all(any(fnmatch.fnmatchcase(unit, pattern) for pattern in patterns) for unit in units)
            who = ", ".join(
                sorted({f"{holder['process'] or 'unknown'} ({holder['unit'] or 'no unit'})" for holder in holders})
            )
            self.add(
                f"port.{port}",
                "pass" if ours else "fail",
                expected,
                f"held by {who}",
                f"Stop what holds port {port} or choose another port.",
            )

    def gpus(self, found: t.Sequence[t.Mapping[str, t.Any]], wanted: int) -> None:
        """Number of GPUs on the PCI bus, whether or not they have a driver yet."""
        if wanted <= 0:
            self.add("gpu", "skip" if not found else "pass", "not asked for", f"{len(found)} NVIDIA GPUs")
            return
        self.add(
            "gpu",
            "pass" if len(found) >= wanted else "fail",
            f"at least {wanted} NVIDIA GPU{'' if wanted == 1 else 's'}",
            ", ".join(str(gpu["pci_id"]) for gpu in found) or "none on the PCI bus",
            "Is the card seated, powered, and passed through to this machine?",
        )

    def network(self, facts: t.Mapping[str, t.Any]) -> None:
        """Names, other tiers and package sources, as they were tried from the host."""
        for entry in facts["resolve"]:
            self.add(
                f"resolve.{entry['name']}",
                "pass" if entry["addresses"] else "fail",
                "an address",
                ", ".join(entry["addresses"]) or entry["error"],
                "Add the name to DNS or /etc/hosts, or set ai102_address of that host to an IP address.",
            )
        for entry in facts["reach"]:
            self.add(
                f"reach.{entry['host']}:{entry['port']}",
                "pass" if entry["state"] in ("open", "refused") else "fail",
                "answers",
                {"open": "open", "refused": "answers, nothing listens yet"}.get(entry["state"], entry["error"]),
                "Check routes, security groups and firewalls between the hosts.",
            )
        if facts["sources"] is None:
            return
        if not facts["sources"]:
            self.add("source", "fail", "a package source", "none is configured", "Add sources to /etc/apt.")
        for entry in facts["sources"]:
            state = entry["state"]
            self.add(
                f"source.{entry['label']}",
                "pass" if state == "ok" else "warn" if state == "unsure" else "fail",
                "answers",
                entry["answer"],
                "Check proxy, DNS and firewall for this source, or take it out of /etc/apt.",
            )


def evaluate(
    facts: t.Mapping[str, t.Any],
    *,
    host: str,
    profile: Profile,
    supported_os: t.Mapping[str, t.Sequence[str]],
    architectures: t.Sequence[str],
    kernel: str,
    python: str,
    ports: t.Sequence[t.Mapping[str, t.Any]],
    own_units: t.Sequence[str],
    gpus: int,
    control_time: float | None,
    max_skew: float,
    severity: t.Mapping[str, str],
    tolerance_percent: float = 5,
) -> list[Check]:
    """All checks of one host, severities applied."""
    comparison = Comparison(host, tolerance_percent)
    comparison.system(facts, supported_os, architectures, kernel, python)
    comparison.hardware(facts, profile)
    comparison.free_space(facts["paths"])
    comparison.clock(facts, control_time, max_skew)
    comparison.ports(ports, facts["ports"], own_units, facts["markers"])
    comparison.gpus(facts["gpus"], gpus)
    comparison.network(facts)
    return apply_severity(comparison.checks, severity)


def evaluate_control_node(
    facts: t.Mapping[str, t.Any], wanted: t.Mapping[str, t.Any], severity: t.Mapping[str, str]
) -> list[Check]:
    """Checks of the control node: versions, collections, libraries, free space.

    `facts`: ansible_core, python, collections (name → version or None), libraries (name → version or None),
    directories (as `Comparison.free_space` reads them). `wanted`: ansible_core, python (minimum versions), collections
    (name → minimum version), libraries (list of names).
    """
    comparison = Comparison("control node")
    for name, label in (("ansible_core", "ansible-core"), ("python", "Python")):
        minimum = str(wanted.get(name) or "0")
        comparison.add(
            f"control.{name}",
            "pass" if version_tuple(str(facts[name])) >= version_tuple(minimum) else "fail",
            f"{label} at least {minimum}",
            str(facts[name]),
            "Make a virtual environment with requirements/control.in.",
        )
    for name, minimum in (wanted.get("collections") or {}).items():
        found = facts["collections"].get(name)
        comparison.add(
            f"control.collection.{name}",
            "pass" if found and version_tuple(found) >= version_tuple(str(minimum)) else "fail",
            f"at least {minimum}",
            found or "not installed",
            "Run: ansible-galaxy collection install -r requirements.yml",
        )
    for name in wanted.get("libraries") or []:
        found = facts["libraries"].get(name)
        comparison.add(
            f"control.library.{name}",
            "pass" if found else "fail",
            "can be imported",
            found or "not installed",
            f"Install {name} into the Python that runs ansible (requirements/control.in).",
        )
    comparison.free_space(facts["directories"])
    checks = [
        Check(f"control.{check.check}", check.host, check.status, check.expected, check.actual, check.hint)
        if check.check.startswith("disk.")
        else check
        for check in comparison.checks
    ]
    return apply_severity(checks, severity)
