# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which driver a host would get, which ONNX Runtime will run on it, and what stands in the way.

`_driver_facts` says what there is, the compatibility table (`roles/artifacts/files/gpu.yml`) what fits what, and the
summary of the locks (`roles/artifacts/files/python/summary.yml`) which ONNX Runtime needs which driver. Nothing here
reads a file or runs a program.
"""

from __future__ import annotations

import fnmatch
import typing as t
from dataclasses import dataclass, field

from ansible_collections.ai102.inference.plugins.module_utils._preflight import size_text, version_tuple
from ansible_collections.ai102.inference.plugins.module_utils._verdict import Check, Status

Source = t.Literal["nvidia", "distribution", "bundle", "provided"]

#: Branches that are taken by themselves, best first. A branch that has ended is taken only when there is no other.
_KINDS: t.Final = ("lts", "production", "feature", "ended")

_NO_LISTS: t.Final = "package lists were never fetched on this host"
_FETCH_LISTS: t.Final = "They are fetched when the driver is installed. To know now: apt-get update."

#: Locks that `auto` tries, newest first.
_GPU_FLAVOURS: t.Final = ("gpu", "gpu_cuda12")


@dataclass(frozen=True)
class Options:
    """What the inventory asks for; see the module's documentation."""

    source: Source = "nvidia"
    branch: str = "auto"
    kernel_modules: str = "auto"
    flavour: str = "auto"
    gpus: int = 0
    reboot: str = "never"
    allow_in_use: bool = False
    own_units: tuple[str, ...] = ("ai102-*",)
    own_holds: tuple[str, ...] = ()
    enrol_key: bool = False


@dataclass(frozen=True)
class Generation:
    """One generation of GPUs: which kernel modules, drivers and CUDA it works with."""

    name: str
    ranges: tuple[tuple[int, int], ...]
    kernel_modules: str
    first_branch: int
    last_branch: int | None
    first_cuda: tuple[int, ...]
    last_cuda: int | None

    @property
    def label(self) -> str:
        """For people."""
        return self.name.capitalize()


@dataclass(frozen=True)
class Branch:
    """One driver branch."""

    number: int
    kind: str
    end_of_life: str
    first_kernel: tuple[int, ...]
    flavours: tuple[str, ...]

    @property
    def name(self) -> str:
        """As it is written."""
        return str(self.number)

    def ended(self, month: str) -> bool:
        """Whether NVIDIA maintains it no more in a month (`2026-11`)."""
        return self.kind == "ended" or bool(self.end_of_life and self.end_of_life < month)


@dataclass(frozen=True)
class Lock:
    """One lock of ONNX Runtime, for one Python."""

    flavour: str
    onnxruntime: str
    cuda: str
    minimum_driver: int

    @property
    def label(self) -> str:
        """For people."""
        return f"onnxruntime-gpu {self.onnxruntime} on CUDA {self.cuda}"


@dataclass(frozen=True)
class Offer:
    """The packages that one source has for the host's release."""

    source: str
    branches: tuple[int, ...]
    packages: t.Mapping[str, t.Sequence[str]]
    components: tuple[str, ...] = ()

    def names(self, key: str, branch: Branch) -> list[str]:
        """Names of packages: `pin`, `open`, `proprietary`, `fabric_manager`; empty where it has none."""
        return [name.format(branch=branch.number) for name in self.packages.get(key, ())]


class TableError(ValueError):
    """The compatibility table cannot be used; the message says what is wrong with it."""


class Table:
    """The compatibility table."""

    def __init__(self, data: t.Mapping[str, t.Any]) -> None:
        """`data` is the document as it stands. Raises `TableError`."""
        if not isinstance(data, t.Mapping) or data.get("schema") != 1:
            raise TableError("the compatibility table must be a document of schema 1")
        try:
            self.generations = [self._generation(name, entry) for name, entry in data["generations"].items()]
            self.branches = {
                int(name): Branch(
                    number=int(name),
                    kind=str(entry["kind"]),
                    end_of_life=str(entry.get("end_of_life", "")),
                    first_kernel=version_tuple(str(entry["kernels"]["first"])),
                    flavours=tuple(key for key in ("open", "proprietary") if entry[key]),
                )
                for name, entry in data["branches"].items()
            }
            self.open_only_from = int(data["open_only_from"])
            self.switches = {str(number).lower() for number in data["fabric_manager"]["switches"]}
            self.switched_gpus = {str(number).lower() for number in data["fabric_manager"]["gpus"]}
            self.failed_builds: list[t.Mapping[str, t.Any]] = list(data["failed_builds"])
            self.room = {key: int(data["room"][key]) for key in ("boot", "usr")}
            self.packages: t.Mapping[str, t.Any] = data["packages"]
            self.known: list[str] = list(self.packages["known"])
            self.version_of: list[str] = list(self.packages["version_of"])
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise TableError(f"the compatibility table is not complete: {error!r}") from error
        for branch in self.branches.values():
            if branch.kind not in _KINDS:
                raise TableError(f"branch {branch.name}: kind {branch.kind!r} is none of {', '.join(_KINDS)}")

    @staticmethod
    def _generation(name: str, entry: t.Mapping[str, t.Any]) -> Generation:
        cuda = entry["cuda"]
        last = entry.get("last_branch")
        return Generation(
            name=name,
            ranges=tuple((int(first, 16), int(final, 16)) for first, final in entry["devices"]),
            kernel_modules=str(entry["kernel_modules"]),
            first_branch=int(entry["first_branch"]),
            last_branch=None if last is None else int(last),
            first_cuda=version_tuple(str(cuda["first"])),
            last_cuda=int(cuda["last"]) if "last" in cuda else None,
        )

    def generation_of(self, device: str) -> Generation | None:
        """The generation of a PCI device number (`0x2330`); a number beyond the table counts as the newest one."""
        try:
            number = int(device, 16)
        except ValueError:
            return None
        for generation in self.generations:
            if any(first <= number <= final for first, final in generation.ranges):
                return generation
        newest = max(self.generations, key=lambda generation: generation.ranges[-1][1])
        return newest if number > newest.ranges[-1][1] else None

    def knows(self, device: str) -> bool:
        """Whether a device number really stands in the table."""
        try:
            number = int(device, 16)
        except ValueError:
            return False
        return any(first <= number <= final for generation in self.generations for first, final in generation.ranges)

    def offer(self, source: Source, os_id: str, codename: str) -> Offer | None:
        """What a source has for a release; None where nothing is known of it, or where somebody provides the driver."""
        if source == "provided":
            return None
        part: t.Mapping[str, t.Any] = self.packages["distribution" if source == "distribution" else "nvidia"]
        entry = part.get(os_id)
        if entry is None:
            return None
        merged = dict(entry)
        if source == "distribution":
            release = entry.get("releases", {}).get(codename)
            if release is None:
                return None
            merged.update(release)
        return Offer(
            source=source,
            branches=tuple(int(number) for number in merged["branches"]),
            packages={key: value for key, value in merged.items() if key not in ("branches", "releases", "components")},
            components=tuple(merged.get("components", ())),
        )

    def every_name(self) -> list[str]:
        """Every package that any source could be asked for, on any release: what apt is asked about."""
        names: set[str] = set()
        for part in ("nvidia", "distribution"):
            for entry in self.packages[part].values():
                for holder in (entry, *entry.get("releases", {}).values()):
                    for key in ("pin", "open", "proprietary", "fabric_manager", "fabric_manager_blackwell"):
                        for name in holder.get(key, ()):
                            names.update(name.format(branch=number) for number in self.branches)
        return sorted(names)


def read_locks(summary: t.Mapping[str, t.Any], python: str | None) -> dict[str, Lock]:
    """The GPU locks for a Python (`3.11`), by flavour."""
    key = "cp" + (python or "").replace(".", "")
    locks = {}
    for flavour in _GPU_FLAVOURS:
        entry = summary.get(flavour, {}).get(key)
        if entry:
            locks[flavour] = Lock(flavour, str(entry["onnxruntime"]), str(entry["cuda"]), int(entry["minimum_driver"]))
    return locks


def upstream(version: str) -> str:
    """The driver's own version in a package's: `1:535.309.01-0+deb12u1` → `535.309.01`."""
    return version.rpartition(":")[2].split("-")[0]


@dataclass
class Choice:
    """What would be installed."""

    branch: Branch | None = None
    kernel_modules: str | None = None
    lock: Lock | None = None
    packages: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)


class Judge:
    """Compares the facts of one host with the table and with what is asked of it; collects checks."""

    def __init__(
        self,
        table: Table,
        summary: t.Mapping[str, t.Any],
        facts: t.Mapping[str, t.Any],
        options: Options,
        host: str,
        month: str,
    ) -> None:
        """`month` (`2026-11`) decides which branches have ended."""
        self.table = table
        self.facts = facts
        self.options = options
        self.host = host
        self.month = month
        self.locks = read_locks(summary, facts.get("python"))
        self.summary = summary
        self.checks: list[Check] = []
        self.gpus: list[t.Mapping[str, str]] = list(facts["pci"])
        self.generations = {gpu["device"]: table.generation_of(gpu["device"]) for gpu in self.gpus}
        self.present = sorted(
            {generation for generation in self.generations.values() if generation},
            key=lambda generation: generation.first_branch,
        )
        os_facts = facts["os"]
        self.release = f"{os_facts['id']} {os_facts['codename']}".strip()
        self.offer = table.offer(options.source, os_facts["id"], os_facts["codename"])
        self.installed = self._installed()
        self.reboot_required = False
        self.enrol_key = False

    def add(self, name: str, status: Status, expected: str, actual: str, hint: str = "") -> None:
        """Collect one check; a hint is for shortfalls only."""
        self.checks.append(Check(f"gpu.{name}", self.host, status, expected, actual, "" if status == "pass" else hint))

    # ---------------------------------------------------------------------------------------------------- the choice

    def _installed(self) -> dict[str, t.Any] | None:
        """The driver that is there: of packages, else one that answers though no package brought it."""
        packages: t.Mapping[str, str] = self.facts["packages"]
        known = {
            name: version
            for name, version in packages.items()
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in self.table.known)
        }
        for pattern in self.table.version_of:
            for name in sorted(known):
                if fnmatch.fnmatchcase(name, pattern):
                    version = upstream(known[name])
                    return {
                        "version": version,
                        "branch": version.split(".")[0],
                        "kernel_modules": "open" if "open" in name else "proprietary",
                        "packages": known,
                    }
        version = self.facts["gpu"].get("driver")
        if version:
            return {"version": version, "branch": version.split(".")[0], "kernel_modules": None, "packages": known}
        return None

    @property
    def outside(self) -> bool:
        """Whether the driver is that of the machine beneath a container, which nothing in here can change."""
        return not self.facts["kernels"] and self.facts["gpu"]["state"] in ("ok", "degraded")

    def flavours(self, branch: Branch) -> list[str]:
        """Kernel modules that drive all GPUs, can be had, and are asked for; open first."""
        allowed = {"open", "proprietary"}
        for generation in self.present:
            if generation.kernel_modules != "both":
                allowed &= {generation.kernel_modules}
        allowed &= set(branch.flavours)
        if branch.number >= self.table.open_only_from:
            allowed &= {"open"}
        if self.offer is not None:
            allowed &= {key for key in ("open", "proprietary") if self.offer.packages.get(key)}
        if self.options.kernel_modules != "auto":
            allowed &= {self.options.kernel_modules}
        return sorted(allowed)

    def objections(self, number: int, lock: Lock | None) -> list[str]:
        """Why a branch cannot be had with a lock; empty when it can."""
        branch = self.table.branches.get(number)
        if branch is None:
            return [f"driver {number} is not in the compatibility table"]
        found = []
        if self.offer is not None and number not in self.offer.branches:
            has = ", ".join(map(str, self.offer.branches))
            where = f"{self.release} has" if self.options.source == "distribution" else "the table's packages are of"
            found.append(f"{where} driver {has}, not {number}")
        found += self.misfits(number, lock)
        kernel = self.facts["next_kernel"] or self.facts["running_kernel"]
        if version_tuple(kernel) < branch.first_kernel:
            oldest = ".".join(map(str, branch.first_kernel))
            found.append(f"driver {number} needs kernel {oldest} or newer, not {kernel}")
        if not found and not self.flavours(branch):
            kinds = sorted({generation.kernel_modules for generation in self.present} - {"both"})
            wanted = self.options.kernel_modules
            needed = " and ".join(f"{kind} ones" for kind in kinds) or "any"
            asked = "" if wanted == "auto" else f", {wanted} ones are asked for"
            found.append(f"no kernel modules of driver {number} can be had: the GPUs need {needed}{asked}")
        return found

    def misfits(self, number: int, lock: Lock | None) -> list[str]:
        """Why a driver, the GPUs and a lock do not go together, wherever the driver comes from."""
        found = []
        for generation in self.present:
            if number < generation.first_branch:
                found.append(f"{generation.label} GPUs need driver {generation.first_branch} or newer, not {number}")
            if generation.last_branch is not None and number > generation.last_branch:
                found.append(f"{generation.label} GPUs are driven up to {generation.last_branch}, not by {number}")
        if lock is not None:
            if number < lock.minimum_driver:
                found.append(f"{lock.label} needs driver {lock.minimum_driver} or newer, not {number}")
            cuda = version_tuple(lock.cuda)
            for generation in self.present:
                if generation.last_cuda is not None and cuda[0] > generation.last_cuda:
                    found.append(f"CUDA {cuda[0]} knows no {generation.label} GPUs any more ({lock.label})")
                elif cuda < generation.first_cuda:
                    first = ".".join(map(str, generation.first_cuda))
                    found.append(f"{generation.label} GPUs need CUDA {first} ({lock.label})")
        return found

    def wanted_locks(self) -> list[Lock | None]:
        """Locks in the order in which they are tried; None stands for a driver that no ONNX Runtime needs."""
        if self.options.flavour == "cpu":
            return [None]
        names = _GPU_FLAVOURS if self.options.flavour == "auto" else (self.options.flavour,)
        return [self.locks[name] for name in names if name in self.locks]

    def choose(self) -> Choice:
        """The best branch for the first lock that there is one for."""
        choice = Choice()
        if self.offer is None:
            return choice
        if self.options.branch == "auto":
            numbers = list(self.offer.branches)
        elif self.options.branch.isdigit():
            numbers = [int(self.options.branch)]
        else:
            choice.reasons.append(f"a driver branch is a number or auto, not {self.options.branch!r}")
            return choice
        for lock in self.wanted_locks():
            possible = []
            for number in numbers:
                objections = self.objections(number, lock)
                choice.reasons.extend(reason for reason in objections if reason not in choice.reasons)
                if not objections:
                    possible.append(self.table.branches[number])
            if possible:
                choice.branch = min(
                    possible,
                    key=lambda branch: (branch.ended(self.month), _KINDS.index(branch.kind), -branch.number),
                )
                choice.lock = lock
                choice.kernel_modules = self.flavours(choice.branch)[0]
                break
        return choice

    def provided(self) -> Choice:
        """The driver that somebody else has installed, with the first lock that it can run."""
        choice = Choice()
        if self.installed is None or not self.installed["branch"].isdigit():
            choice.reasons.append("no driver is installed")
            return choice
        number = int(self.installed["branch"])
        for lock in self.wanted_locks():
            misfits = self.misfits(number, lock)
            choice.reasons.extend(reason for reason in misfits if reason not in choice.reasons)
            if not misfits:
                unknown = Branch(number, "production", "", (), ("open", "proprietary"))
                choice.branch = self.table.branches.get(number, unknown)
                choice.lock = lock
                choice.kernel_modules = self.installed["kernel_modules"]
                break
        return choice

    def needs_fabric_manager(self) -> bool:
        """Whether the GPUs sit behind NVSwitch."""
        if any(device["device"].lower() in self.table.switches for device in self.facts["switches"]):
            return True
        if any(gpu["device"].lower() in self.table.switched_gpus for gpu in self.gpus):
            return True
        return any(gpu["fabric"] for gpu in self.facts["gpu"]["gpus"])

    def driver_packages(self, branch: Branch, kernel_modules: str) -> tuple[list[str], list[str]]:
        """The driver's packages, and those of the fabric manager."""
        if self.offer is None:
            return [], []
        fabric: list[str] = []
        if self.needs_fabric_manager():
            blackwell = any(generation.name == "blackwell" for generation in self.present)
            fabric = self.offer.names("fabric_manager_blackwell", branch) if blackwell else []
            fabric = fabric or self.offer.names("fabric_manager", branch)
        return self.offer.names(kernel_modules, branch), fabric

    def header_packages(self) -> list[str]:
        """Headers of every installed kernel, as far as they are there or can be had, and of those that will come."""
        candidates = self.facts["candidates"]
        names: list[str] = []
        for kernel in self.facts["kernels"]:
            name = kernel["headers_package"]
            if kernel["headers"] or candidates.get(name) or not self.facts["lists"]:
                names.append(name)
            meta = kernel["headers_meta"]
            if meta in self.facts["packages"] or candidates.get(meta) or not self.facts["lists"]:
                names.append(meta)
        return list(dict.fromkeys(names))

    def change(self, choice: Choice, packages: t.Sequence[str]) -> str:
        """What would be done with the driver."""
        if choice.branch is None:
            return "none"
        if self.installed is None:
            return "install"
        number = int(self.installed["branch"]) if self.installed["branch"].isdigit() else 0
        if number != choice.branch.number:
            return "upgrade" if number < choice.branch.number else "downgrade"
        if any(name not in self.facts["packages"] for name in packages):
            return "switch"
        return "none"

    # ---------------------------------------------------------------------------------------------------- the checks

    def check_devices(self) -> None:
        """Which GPUs there are."""
        wanted = self.options.gpus
        expected = (
            f"at least {wanted} NVIDIA GPU{'' if wanted == 1 else 's'}" if wanted else "known NVIDIA GPUs, or none"
        )
        if not self.gpus:
            self.add(
                "devices",
                "fail" if wanted else "skip",
                expected,
                "none on the PCI bus",
                "Is the card seated, powered, and passed through to this machine?" if wanted else "",
            )
            return
        counts: dict[str, int] = {}
        for gpu in self.gpus:
            generation = self.generations[gpu["device"]]
            label = generation.label if generation and self.table.knows(gpu["device"]) else gpu["device"]
            counts[label] = counts.get(label, 0) + 1
        found = ", ".join(f"{count} × {label}" for label, count in counts.items())
        strange = sorted({gpu["device"] for gpu in self.gpus if not self.table.knows(gpu["device"])})
        old = [device for device in strange if self.generations[device] is None]
        if old:
            self.add(
                "devices",
                "fail",
                expected,
                f"{found}; no driver is known for {', '.join(old)}",
                "No driver that is still kept drives it: take it out, or leave this host out of the GPU hosts.",
            )
        elif len(self.gpus) < wanted:
            self.add("devices", "fail", expected, found, "Is every card seated, powered, and passed through?")
        elif strange:
            self.add(
                "devices",
                "warn",
                expected,
                f"{found}: newer than the compatibility table, taken for {self.generations[strange[0]].label}",  # type: ignore[union-attr]
                "Add the device to roles/artifacts/files/gpu.yml, and try it on one host first.",
            )
        else:
            self.add("devices", "pass", expected, found)

    def check_choice(self, choice: Choice) -> None:
        """Driver, kernel modules and ONNX Runtime."""
        options = self.options
        if self.offer is None and not self.outside and options.source != "provided":
            self.add(
                "driver",
                "fail",
                f"packages of {options.source} for this release",
                f"none are known for {self.release or 'this system'}",
                "Supported are the releases in roles/artifacts/files/gpu.yml.",
            )
            return
        expected = "a driver for the GPUs" if options.branch == "auto" else f"driver {options.branch} for the GPUs"
        if choice.branch is None:
            if not choice.reasons:
                choice.reasons.append(f"there is no lock {options.flavour} for Python {self.facts.get('python')}")
            self.add("driver", "fail", expected, "; ".join(choice.reasons), self._way_out(choice))
        else:
            branch = choice.branch
            ended = branch.ended(self.month)
            when = f" since {branch.end_of_life}" if branch.end_of_life else ""
            self.add(
                "driver",
                "warn" if ended else "pass",
                expected,
                (f"{branch.name}, {choice.kernel_modules} kernel modules" if choice.kernel_modules else branch.name)
                + (f"; NVIDIA has ended this branch{when}" if ended else ""),
                "The distribution may still mend it; NVIDIA's repository has branches in support "
                "(nvidia_driver_source: nvidia).",
            )
        self.check_onnxruntime(choice)

    def _way_out(self, choice: Choice) -> str:
        """What to do when no driver fits."""
        text = " ".join(choice.reasons)
        hints = []
        if self.options.flavour == "gpu" and "needs driver" in text:
            older = self.locks.get("gpu_cuda12")
            if older:
                hints.append(
                    f"set inference_server_flavour: gpu_cuda12 ({older.label}, driver {older.minimum_driver} or newer)"
                )
        if self.options.flavour == "gpu" and "any more" in text:
            hints.append("set inference_server_flavour: gpu_cuda12")
        if self.options.source == "distribution":
            hints.append("take NVIDIA's packages (nvidia_driver_source: nvidia)")
        if self.options.source == "provided":
            hints.append("install a driver, or let it be installed (ai102_gpu_driver: managed)")
        elif self.options.branch != "auto":
            hints.append("leave the branch to the table (nvidia_driver_branch: auto)")
        if self.options.kernel_modules != "auto" and self.options.source != "provided":
            hints.append("leave the kernel modules to the table (nvidia_driver_kernel_modules: auto)")
        if not hints:
            hints.append("leave this host out of the GPU hosts (inference_server_flavour: cpu)")
        text = ", or ".join(hints)
        return f"{text[0].upper()}{text[1:]}."

    def check_onnxruntime(self, choice: Choice) -> None:
        """Which pair of driver and ONNX Runtime the host will get."""
        if self.options.flavour == "cpu":
            self.add("onnxruntime", "pass", "the lock cpu, which needs no driver", "cpu")
        elif choice.lock is not None and choice.branch is not None:
            newest = self.locks.get("gpu")
            older = newest is not None and choice.lock.flavour != "gpu" and self.options.flavour == "auto"
            self.add(
                "onnxruntime",
                "pass",
                f"the lock {self.options.flavour}"
                if self.options.flavour != "auto"
                else "the newest that the driver runs",
                f"{choice.lock.label} ({choice.lock.flavour}), driver {choice.branch.name}"
                + (
                    f"; the newest, {newest.onnxruntime}, needs driver {newest.minimum_driver}"
                    if older and newest
                    else ""
                ),
            )

    def check_kernels(self, change: str) -> None:
        """Kernels and their headers."""
        facts = self.facts
        kernels = facts["kernels"]
        # A driver that is there and answers needs no restart for the sake of a kernel.
        settled = change == "none" and facts["gpu"]["state"] in ("ok", "degraded")
        if not kernels:
            self.add(
                "kernel",
                "fail",
                "an installed kernel, to build the driver for",
                "none in /boot",
                "A container gets its driver from the machine beneath it; elsewhere, install a kernel package.",
            )
            return
        upcoming, running = facts["next_kernel"], facts["running_kernel"]
        self.add(
            "kernel",
            "pass",
            "known kernels",
            f"{running} runs, {upcoming} starts next" if running != upcoming else f"{running} runs and starts next",
        )
        for kernel in kernels:
            release, name = kernel["release"], kernel["headers_package"]
            role = " and ".join(
                word for word, is_it in (("runs", release == running), ("starts next", release == upcoming)) if is_it
            )
            expected = f"headers of {release}" + (f", which {role}" if role else "")
            if kernel["headers"]:
                self.add("headers", "pass", expected, "installed")
            elif change == "none" and self._built_for(release):
                self.add("headers", "pass", expected, "not installed, the driver is built for it already")
            elif not facts["lists"]:
                self.add("headers", "warn", expected, f"not installed; {_NO_LISTS}", _FETCH_LISTS)
            elif facts["candidates"].get(name):
                self.add("headers", "pass", expected, f"not installed, {name} can be had")
            else:
                stops = release == upcoming or (release == running and not self._may_reboot and not settled)
                self.add(
                    "headers",
                    "fail" if stops else "warn",
                    expected,
                    f"not installed, and no package source has {name}",
                    "Install the newest kernel with its headers and start the host with it, then try again."
                    if role
                    else f"The driver is not built for it. Take that kernel away: apt-get purge linux-image-{release}",
                )
                if release == running and not settled:
                    self.reboot_required = True
        if all(kernel["release"] != running for kernel in kernels) and not settled:
            self.reboot_required = True

    def _built_for(self, release: str) -> bool:
        """Whether DKMS has the installed driver's modules for a kernel."""
        return self.installed is not None and any(
            entry["kernel"] == release
            and entry["state"] == "installed"
            and entry["version"] == self.installed["version"]
            for entry in self.facts["dkms"]
        )

    @property
    def _may_reboot(self) -> bool:
        return self.options.reboot == "when_needed"

    def check_failed_builds(self, packages: t.Sequence[str]) -> None:
        """Whether the build was seen to fail for this package and the kernel that starts next."""
        upcoming = self.facts["next_kernel"]
        if not upcoming:
            return
        version = version_tuple(self._kernel_version(upcoming))
        for seen in self.table.failed_builds:
            candidate = self.facts["candidates"].get(seen["package"])
            if seen["package"] not in packages or candidate not in (None, str(seen["version"])):
                continue
            if version >= version_tuple(str(seen["kernels"]["first"])):
                self.add(
                    "build",
                    "warn",
                    f"a driver that builds for {upcoming}",
                    f"{seen['package']} {seen['version']} was seen to fail from {seen['kernels']['first']} on",
                    "Take NVIDIA's packages (nvidia_driver_source: nvidia). If it fails, the host is left as it was.",
                )

    def _kernel_version(self, release: str) -> str:
        """The full version of a kernel: Debian's releases (`6.12.107+deb13-amd64`, `6.1.0-37-amd64`) may hide it."""
        return str(self.facts["packages"].get(f"linux-image-{release}", release))

    def check_sources(self, choice: Choice, packages: t.Sequence[str]) -> None:
        """Components and candidates of the packages."""
        facts = self.facts
        offer = self.offer
        if offer is None or choice.branch is None:
            return
        missing_components: list[str] = []
        if offer.components:
            base = {
                suite: components
                for suite, components in facts["components"].items()
                if not suite.endswith("/") and suite.rpartition("-")[2] not in ("security", "updates", "backports")
            }
            named = {component for components in base.values() for component in components}
            missing_components = [component for component in offer.components if component not in named]
            self.add(
                "components",
                "fail" if missing_components else "pass",
                f"package sources with {', '.join(offer.components)}",
                f"without {', '.join(missing_components)}" if missing_components else "there",
                f"Add {' '.join(missing_components)} to the sources of {self.release} in /etc/apt and run apt-get "
                "update, or take NVIDIA's packages (nvidia_driver_source: nvidia).",
            )
        if missing_components:
            return
        expected = f"packages of driver {choice.branch.name}"
        if facts["runfile"]:
            self.add(
                "packages",
                "fail",
                expected,
                "a driver of NVIDIA's own installer is there",
                "Take it away first, no package can replace it: nvidia-uninstall",
            )
            return
        if not facts["lists"]:
            self.add("packages", "warn", expected, f"not known; {_NO_LISTS}", _FETCH_LISTS)
            return
        candidates = facts["candidates"]
        absent = [name for name in packages if not candidates.get(name) and name not in facts["packages"]]
        kernel_package = packages[0] if packages else ""
        candidate = candidates.get(kernel_package)
        other = candidate is not None and upstream(candidate).split(".")[0] != choice.branch.name
        # Some names are those of the distribution's packages too: only the branch says whose the candidate is.
        if self.options.source != "distribution" and (candidate is None or other):
            self.add("packages", "pass", expected, "their repository is set up when the driver is installed")
            return
        if absent:
            self.add(
                "packages",
                "fail",
                expected,
                f"no package source has {', '.join(absent)}",
                "Run apt-get update, and look at apt-cache policy for these packages.",
            )
        elif other:
            self.add(
                "packages",
                "fail",
                expected,
                f"{kernel_package} {candidate}",
                f"Another source or a pin comes before the distribution's: apt-cache policy {kernel_package}",
            )
        else:
            self.add("packages", "pass", expected, f"{kernel_package} {candidate or ''}".strip())

    def check_held(self, packages: t.Sequence[str]) -> None:
        """Held packages that would have to change."""
        touched = {
            name
            for name in self.facts["held"]
            if name in packages or any(fnmatch.fnmatchcase(name, pattern) for pattern in self.table.known)
        } - set(self.options.own_holds)
        self.add(
            "held",
            "fail" if touched else "pass",
            "none of the driver's packages is held",
            f"held: {', '.join(sorted(touched))}" if touched else "none",
            f"Somebody keeps them as they are. If they may change: apt-mark unhold {' '.join(sorted(touched))}",
        )

    def check_room(self) -> None:
        """Free space for a new initial RAM disk and for the packages."""
        boot, disk = self.facts["boot"], self.facts["disk"]
        needed = int(boot["initrd_bytes"]) + self.table.room["boot"]
        self.add(
            "boot",
            "pass" if boot["free_bytes"] >= needed else "fail",
            f"{size_text(needed)} free in /boot",
            size_text(boot["free_bytes"]),
            "Take old kernels away (apt-get autoremove --purge): a full /boot leaves a half-written initial RAM disk, "
            "and the host may not start with it.",
        )
        self.add(
            "disk",
            "pass" if disk["free_bytes"] >= self.table.room["usr"] else "fail",
            f"{size_text(self.table.room['usr'])} free in /usr",
            size_text(disk["free_bytes"]),
            "Make room for the driver's packages and the modules that are built.",
        )

    def check_secure_boot(self, change: str) -> None:
        """Whether the firmware will let the built modules be loaded."""
        state = self.facts["secure_boot"]
        expected = "the kernel may load modules that are built here"
        if state["state"] != "enabled":
            self.add("secure_boot", "pass", expected, f"Secure Boot is {state['state']}")
        elif state["enrolled"]:
            self.add("secure_boot", "pass", expected, "Secure Boot is on, and the firmware knows the signing key")
        elif change == "none" and self.facts["gpu"]["state"] in ("ok", "degraded"):
            self.add("secure_boot", "pass", expected, "Secure Boot is on, and the driver is loaded")
        else:
            self.enrol_key = True
            self.reboot_required = True
            which = (
                "the firmware does not know the key that signs modules"
                if state["key"]
                else "there is no signing key yet"
            )
            self.add(
                "secure_boot",
                "warn" if self.options.enrol_key else "fail",
                expected,
                f"Secure Boot is on, and {which}",
                "The key is handed to the firmware; confirm it on the host's console at the next start (MOK manager, "
                "the password that was set), otherwise the driver does not load."
                if self.options.enrol_key
                else "Let the key be enrolled (nvidia_driver_secure_boot: enrol; somebody confirms it on the console "
                "at the next start), or turn Secure Boot off in the firmware.",
            )

    def check_nouveau(self, change: str) -> None:
        """Whether the kernel's own driver has the GPUs."""
        loaded = self.facts["modules"]["nouveau"] or any(gpu.get("kernel_driver") == "nouveau" for gpu in self.gpus)
        if not loaded:
            self.add("nouveau", "pass", "nouveau is not loaded", "it is not")
            return
        self.reboot_required = self.reboot_required or change != "none"
        self.add(
            "nouveau",
            "warn" if self._may_reboot else "fail",
            "nouveau is not loaded",
            "it is loaded, and gives up the GPUs only at a restart",
            "It is switched off with the driver, and the host is restarted."
            if self._may_reboot
            else "Let the host be restarted (nvidia_driver_reboot: when_needed), or switch nouveau off and restart it "
            "first.",
        )

    def check_in_use(self, change: str) -> None:
        """Whether somebody else computes on the GPUs."""
        others = [
            user
            for user in self.facts["users"]
            if not any(fnmatch.fnmatchcase(str(user.get("unit", "")), pattern) for pattern in self.options.own_units)
        ]
        if change == "none" or not others:
            found = "nothing changes" if others else "none"
            self.add("in_use", "pass", "no process of others uses the GPUs", found)
            return
        names = ", ".join(
            f"{user.get('command') or 'unknown'} ({user.get('unit') or 'no unit'}, pid {user.get('pid')})"
            for user in others[:5]
        ) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
        self.add(
            "in_use",
            "warn" if self.options.allow_in_use else "fail",
            "no process of others uses the GPUs",
            names,
            "They lose their work when the driver changes."
            if self.options.allow_in_use
            else "Stop them first. If they may be lost: nvidia_driver_allow_in_use: true",
        )

    def check_reboot(self, change: str) -> None:
        """Whether the driver works only after a restart, and whether that may be."""
        loaded = self.facts["modules"]["nvidia"]
        if self.facts["gpu"]["state"] == "mismatch" or (change not in ("none", "install") and loaded):
            self.reboot_required = True
        if not self.reboot_required:
            self.add("reboot", "pass", "works without a restart", "yes")
            return
        # Under a driver that serves, new libraries would stop the service until somebody restarts the host.
        breaks = change not in ("none", "install") and bool(loaded)
        self.add(
            "reboot",
            "pass" if self._may_reboot else "fail" if breaks else "warn",
            "a restart is allowed" if self._may_reboot else "works without a restart",
            "the host is restarted" if self._may_reboot else "works only after a restart",
            "Allow it (nvidia_driver_reboot: when_needed)."
            if breaks
            else "Restart the host afterwards, or allow it (nvidia_driver_reboot: when_needed).",
        )

    def check_state(self) -> None:
        """What the GPUs themselves say, where a driver is there."""
        report = self.facts["gpu"]
        state = report["state"]
        if self.installed is None or state == "none":
            return
        hints = {
            "mismatch": "Restart the host, so that the kernel loads the driver that is installed.",
            "no_driver": "Is the module built for the running kernel, and may it be loaded? dkms status; dmesg",
            "degraded": "See nvidia-smi -q and dmesg. A GPU that fell off the bus needs a restart, or is broken.",
        }
        self.add(
            "state",
            "pass" if state == "ok" else "warn",
            "every GPU answers, nothing is known against one",
            "ok" if state == "ok" else f"{state}: {'; '.join(report['problems'][:3]) or 'no driver answers'}",
            hints.get(state, ""),
        )

    def check_fabric_manager(self, fabric: t.Sequence[str]) -> None:
        """Whether NVSwitch systems get their fabric manager."""
        if not self.needs_fabric_manager():
            return
        self.add(
            "fabric_manager",
            "pass" if fabric else "fail",
            "a fabric manager of the driver's version, for NVSwitch",
            ", ".join(fabric) or f"the packages of {self.options.source} have none",
            "Without it no GPU behind NVSwitch computes. Take NVIDIA's packages (nvidia_driver_source: nvidia).",
        )

    # ---------------------------------------------------------------------------------------------------- the answer

    def judge(self) -> dict[str, t.Any]:
        """All checks, and what would be installed."""
        self.check_devices()
        choice = Choice()
        packages: list[str] = []
        fabric: list[str] = []
        pins: list[str] = []
        change = "none"
        if self.gpus and (self.options.source == "provided" or self.outside):
            choice = self.provided()
            self.check_choice(choice)
            self.check_state()
        elif self.gpus:
            choice = self.choose()
            self.check_choice(choice)
            if choice.branch is not None and choice.kernel_modules is not None:
                driver, fabric = self.driver_packages(choice.branch, choice.kernel_modules)
                packages = [*driver, *fabric]
                pins = self.offer.names("pin", choice.branch) if self.offer else []
                change = self.change(choice, packages)
            if choice.branch is not None:
                self.check_kernels(change)
                self.check_fabric_manager(fabric)
                self.check_secure_boot(change)
                self.check_nouveau(change)
                if change != "none":
                    self.check_failed_builds(packages)
                    self.check_sources(choice, packages)
                    self.check_held([*packages, *self.header_packages()])
                    self.check_room()
                self.check_in_use(change)
                self.check_reboot(change)
            self.check_state()
        elif self.options.flavour in _GPU_FLAVOURS:
            self.add(
                "onnxruntime",
                "fail",
                f"a GPU for the lock {self.options.flavour}",
                "none on the PCI bus",
                "Set inference_server_flavour: cpu for this host, or mend its GPU.",
            )
        return self.answer(choice, packages, fabric, pins, change)

    def answer(
        self, choice: Choice, driver: t.Sequence[str], fabric: t.Sequence[str], pins: t.Sequence[str], change: str
    ) -> dict[str, t.Any]:
        """The return values, without the checks."""
        facts = self.facts
        python = "cp" + (facts.get("python") or "").replace(".", "")
        lock = choice.lock
        cpu = self.summary.get("cpu", {}).get(python, {})
        state = "none" if not self.gpus else "unsupported" if choice.branch is None else "supported"
        candidate = facts["candidates"].get(driver[0]) if driver else None
        if candidate and choice.branch and upstream(candidate).split(".")[0] != choice.branch.name:
            candidate = None
        return {
            "state": state,
            "branch": choice.branch.name if choice.branch else None,
            "candidate": candidate,
            "installed": self.installed,
            "change": change,
            "kernel_modules": choice.kernel_modules,
            "packages": [*self.header_packages(), *driver] if driver else [],
            "pin_packages": list(pins),
            "known_packages": self.table.known,
            "fabric_manager": bool(self.gpus) and self.needs_fabric_manager(),
            "fabric_manager_packages": list(fabric),
            "onnxruntime_flavour": lock.flavour if lock else "cpu",
            "onnxruntime": lock.onnxruntime if lock else cpu.get("onnxruntime"),
            "cuda": lock.cuda if lock else None,
            "minimum_driver": str(lock.minimum_driver) if lock else None,
            "kernels": [
                {
                    "release": kernel["release"],
                    "running": kernel["release"] == facts["running_kernel"],
                    "next": kernel["release"] == facts["next_kernel"],
                    "headers": kernel["headers"],
                    "headers_package": kernel["headers_package"],
                    "headers_available": bool(facts["candidates"].get(kernel["headers_package"]))
                    if facts["lists"]
                    else None,
                    "dkms": {
                        entry["version"]: entry["state"]
                        for entry in facts["dkms"]
                        if entry["kernel"] == kernel["release"]
                    },
                }
                for kernel in facts["kernels"]
            ],
            "next_kernel": facts["next_kernel"],
            "reboot_required": self.reboot_required,
            "enrol_key": self.enrol_key,
            "gpu": facts["gpu"],
        }
