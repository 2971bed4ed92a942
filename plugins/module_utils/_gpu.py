# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads what `nvidia-smi -q -x` says, in the schemas v11, v12 and v13, and says what state the GPUs are in.

Nothing here runs a program: the caller hands over the output and the PCI devices that the kernel sees, because the
two together tell a GPU that has fallen off the bus from one that was never there.
"""

from __future__ import annotations

import re
import typing as t
import xml.etree.ElementTree as ET
from dataclasses import asdict, dataclass, field
from pathlib import Path

State = t.Literal["none", "no_driver", "ok", "degraded", "mismatch"]

NVIDIA_VENDOR: t.Final = "0x10de"

#: PCI classes of GPUs: VGA controller and 3D controller (compute cards have no display output).
_GPU_CLASSES: t.Final = ("0x0300", "0x0302")

#: Clock limits that say something is wrong. A power cap is normal under load.
_BAD_CLOCK_REASONS: t.Final = {
    "hw_thermal_slowdown": "slowed down by the hardware because it is too hot",
    "hw_power_brake_slowdown": "slowed down by the power supply's brake signal",
    "sw_thermal_slowdown": "slowed down by the driver because it is too hot",
}

#: Values that stand in a field when the GPU does not answer any more.
_DEAD: t.Final = ("gpu is lost", "unknown error", "err!", "gpu requires reset")

_MISMATCH = re.compile(r"driver/library version mismatch", re.IGNORECASE)
_LIBRARY_VERSION = re.compile(r"NVML library version:\s*([\d.]+)")
_LOST = re.compile(
    r"Unable to determine the (?:device handle|link information) for GPU\s*([^\n]*?):?\s+([A-Z][^:\n]*)$", re.MULTILINE
)
_XID = re.compile(r"NVRM: Xid \((?:PCI:)?([0-9A-Fa-f:.]+)\): (\d+),\s*(.*)")
_PCI_ID = re.compile(r"[0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-9A-Fa-f]")


#: Faults of the kernel log after which a GPU must be reset or its host restarted; the rest are errors of programs, or
#: stand in what the GPU says of itself. https://docs.nvidia.com/deploy/xid-errors/
SERIOUS_XIDS: t.Final = {
    48: "memory error that could not be corrected",
    64: "a faulty row of memory could not be recorded for repair",
    79: "it fell off the bus",
    95: "memory error that could not be contained",
    119: "its firmware (GSP) does not answer",
    120: "its firmware (GSP) failed",
    140: "memory error that escaped correction",
}


@dataclass
class MigInstance:
    """One part of a divided GPU; memory in MiB."""

    index: int | None
    gpu_instance: int | None
    compute_instance: int | None
    multiprocessors: int | None
    memory_mib: int | None
    memory_used_mib: int | None
    ecc_uncorrected: int | None


@dataclass
class Gpu:
    """One GPU. Memory in MiB, temperatures in °C, power in W; None where the GPU does not say."""

    index: int
    name: str
    uuid: str
    architecture: str
    pci_id: str
    pci_device: str
    memory_mib: int | None
    memory_used_mib: int | None
    mig: str
    mig_pending: str
    mig_devices: int
    mig_instances: list[MigInstance]
    ecc: str
    ecc_uncorrected: int | None
    persistence: bool
    temperature_c: int | None
    memory_temperature_c: int | None
    power_w: float | None
    power_limit_w: float | None
    pcie_generation: int | None
    pcie_width: int | None
    fabric: str
    serial: str
    vbios: str
    problems: list[str] = field(default_factory=list)

    @property
    def healthy(self) -> bool:
        """True when nothing is known against it."""
        return not self.problems

    def to_dict(self) -> dict[str, t.Any]:
        """For the module's answer."""
        return {**asdict(self), "healthy": self.healthy}


@dataclass
class GpuReport:
    """What is known about all GPUs of a host."""

    state: State
    driver: str | None = None
    cuda: str | None = None
    gpus: list[Gpu] = field(default_factory=list)
    pci: list[dict[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, t.Any]:
        """For the module's answer."""
        return {
            "state": self.state,
            "driver": self.driver,
            "cuda": self.cuda,
            "gpus": [gpu.to_dict() for gpu in self.gpus],
            "pci": self.pci,
            "problems": self.problems,
        }


def normal_pci_id(text: str) -> str:
    """`00000000:1B:00.0` (nvidia-smi) and `0000:1b:00.0` (the kernel) as the kernel writes them."""
    domain, separator, rest = text.strip().lower().partition(":")
    if not separator or ":" not in rest:
        return text.strip().lower()
    return f"{domain[-4:].rjust(4, '0')}:{rest}"


def is_gpu(device: t.Mapping[str, str]) -> bool:
    """Whether a PCI device is a GPU, and not an NVSwitch, a sound device or a USB port of a card."""
    return device.get("class", "").startswith(_GPU_CLASSES)


def is_switch(device: t.Mapping[str, str]) -> bool:
    """Whether a PCI device of NVIDIA is an NVSwitch: a bridge that bridges to no other bus."""
    return device.get("class", "").startswith("0x0680")


def pci_devices(root: Path = Path("/sys/bus/pci/devices")) -> list[dict[str, str]]:
    """The devices of NVIDIA that the kernel sees on the PCI bus, whether or not a driver is bound."""
    found = []
    for device in sorted(root.iterdir()) if root.is_dir() else []:
        try:
            if (device / "vendor").read_text().strip() != NVIDIA_VENDOR:
                continue
            driver = device / "driver"
            found.append(
                {
                    "pci_id": device.name,
                    "device": (device / "device").read_text().strip(),
                    "class": (device / "class").read_text().strip(),
                    "kernel_driver": driver.resolve().name if driver.exists() else "",
                }
            )
        except OSError:
            continue  # it went away while it was read
    return found


def pci_gpus(root: Path = Path("/sys/bus/pci/devices")) -> list[dict[str, str]]:
    """The GPUs among them."""
    return [
        {key: value for key, value in device.items() if key != "class"}
        for device in pci_devices(root)
        if is_gpu(device)
    ]


def _text(element: ET.Element | None, path: str) -> str:
    """Text at a path, empty where there is none or it says that there is none."""
    if element is None:
        return ""
    value = (element.findtext(path) or "").strip()
    return "" if value in ("N/A", "[N/A]", "None", "Requested functionality has been deprecated") else value


def _first(element: ET.Element, *paths: str) -> str:
    """The first of several places that says something: names moved between the schemas."""
    return next((value for value in (_text(element, path) for path in paths) if value), "")


def _number(text: str) -> float | None:
    """The number at the beginning of `81559 MiB`, `68.40 W`, `16x`; None when there is none."""
    match = re.match(r"-?\d+(?:\.\d+)?", text)
    return float(match.group()) if match else None


def _integer(text: str) -> int | None:
    number = _number(text)
    return None if number is None else int(number)


def _ecc_uncorrected(gpu: ET.Element, which: str) -> int | None:
    """Sum of the uncorrected errors, `volatile` (since the last reset) or `aggregate` (of its life)."""
    errors = gpu.find(f"ecc_errors/{which}")
    if errors is None:
        return None
    counts = [_integer(_text(errors, child.tag)) for child in errors if "uncorrectable" in child.tag]
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _problems(gpu: ET.Element, uncorrected: int | None) -> list[str]:
    """What is wrong with one GPU, in words."""
    problems = []
    dead = next(
        (
            child.text.strip()
            for child in gpu.iter()
            if child.text and any(word in child.text.strip().lower() for word in _DEAD) and len(child.text) < 80
        ),
        None,
    )
    if dead:
        problems.append(f"does not answer ({dead})")
    if uncorrected:
        problems.append(f"{uncorrected} uncorrected memory errors since the last reset")
    if _text(gpu, "remapped_rows/remapped_row_failure").lower() == "yes":
        problems.append("row remapping failed: the memory cannot be repaired, replace the GPU")
    if _text(gpu, "remapped_rows/remapped_row_pending").lower() == "yes":
        problems.append("row remapping is pending: reset the GPU")
    if _text(gpu, "retired_pages/pending_retirement").lower() == "yes":
        problems.append("page retirement is pending: reset the GPU")
    for key, text in (
        ("channel_repair_pending", "channel repair is pending: reset the GPU"),
        ("tpc_repair_pending", "repair of a processing cluster is pending: reset the GPU"),
        ("unrepairable_memory", "memory that cannot be repaired, replace the GPU"),
    ):
        if _text(gpu, f"ecc_errors/{key}").lower() == "yes":
            problems.append(text)
    if _text(gpu, "gpu_reset_status/reset_required").lower() == "yes":
        problems.append("a reset is required")
    action = _text(gpu, "gpu_recovery_action")
    if action:
        problems.append(f"the driver asks for this recovery: {action}")
    for container, prefix in (
        ("clocks_event_reasons", "clocks_event_reason"),
        ("clocks_throttle_reasons", "clocks_throttle_reason"),
    ):
        for reason, words in _BAD_CLOCK_REASONS.items():
            if _text(gpu, f"{container}/{prefix}_{reason}") == "Active":
                problems.append(words)
    fabric = _text(gpu, "fabric/state")
    if fabric and (fabric != "Completed" or _text(gpu, "fabric/status") not in ("Success", "")):
        problems.append(f"the NVLink fabric is not ready ({fabric}): is the fabric manager running?")
    health = _text(gpu, "fabric/health/summary")
    if health and health not in ("Healthy", "Not Supported"):
        problems.append(f"the health of the NVLink fabric is {health}")
    return problems


def _mode(text: str) -> str:
    return text.lower() if text in ("Enabled", "Disabled") else "unsupported"


def _parse_mig(part: ET.Element) -> MigInstance:
    return MigInstance(
        index=_integer(_text(part, "index")),
        gpu_instance=_integer(_text(part, "gpu_instance_id")),
        compute_instance=_integer(_text(part, "compute_instance_id")),
        multiprocessors=_integer(_text(part, "device_attributes/shared/multiprocessor_count")),
        memory_mib=_integer(_text(part, "fb_memory_usage/total")),
        memory_used_mib=_integer(_text(part, "fb_memory_usage/used")),
        ecc_uncorrected=_integer(_first(part, "ecc_error_count/volatile_count/sram_uncorrectable")),
    )


def _parse_gpu(gpu: ET.Element, position: int) -> Gpu:
    uncorrected = _ecc_uncorrected(gpu, "volatile")
    device_id = _text(gpu, "pci/pci_device_id")
    index = _integer(_text(gpu, "minor_number"))
    return Gpu(
        index=position if index is None else index,
        name=_text(gpu, "product_name"),
        uuid=_text(gpu, "uuid"),
        architecture=_text(gpu, "product_architecture"),
        pci_id=normal_pci_id(_text(gpu, "pci/pci_bus_id") or gpu.get("id", "")),
        # nvidia-smi writes device and vendor as one number: 20B010DE
        pci_device=f"0x{device_id[-8:-4].lower()}" if len(device_id) >= 8 else "",
        memory_mib=_integer(_text(gpu, "fb_memory_usage/total")),
        memory_used_mib=_integer(_text(gpu, "fb_memory_usage/used")),
        mig=_mode(_text(gpu, "mig_mode/current_mig")),
        mig_pending=_mode(_text(gpu, "mig_mode/pending_mig")),
        mig_devices=len(gpu.findall("mig_devices/mig_device")),
        mig_instances=[_parse_mig(part) for part in gpu.findall("mig_devices/mig_device")],
        ecc=_mode(_text(gpu, "ecc_mode/current_ecc")),
        ecc_uncorrected=uncorrected,
        persistence=_text(gpu, "persistence_mode") == "Enabled",
        temperature_c=_integer(_text(gpu, "temperature/gpu_temp")),
        memory_temperature_c=_integer(_text(gpu, "temperature/memory_temp")),
        power_w=_number(
            _first(
                gpu,
                "gpu_power_readings/instant_power_draw",
                "gpu_power_readings/power_draw",
                "gpu_power_readings/average_power_draw",
                "power_readings/power_draw",
            )
        ),
        power_limit_w=_number(
            _first(
                gpu,
                "gpu_power_readings/current_power_limit",
                "gpu_power_readings/power_limit",
                "power_readings/enforced_power_limit",
                "power_readings/power_limit",
            )
        ),
        pcie_generation=_integer(_text(gpu, "pci/pci_gpu_link_info/pcie_gen/max_link_gen")),
        pcie_width=_integer(_text(gpu, "pci/pci_gpu_link_info/link_widths/current_link_width")),
        fabric=_text(gpu, "fabric/state"),
        serial=_text(gpu, "serial"),
        vbios=_text(gpu, "vbios_version"),
        problems=_problems(gpu, uncorrected),
    )


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def parse_report(output: str | None, return_code: int = 0, pci: t.Sequence[dict[str, str]] = ()) -> GpuReport:
    """Judge the output of `nvidia-smi -q -x` (stdout and stderr together) beside what the PCI bus shows.

    `output` is None when there is no such program. Raises nothing: an output nobody understands is `degraded` with
    the reason among the problems.
    """
    devices = list(pci)
    report = GpuReport(state="none", pci=devices)
    if output is None:
        if devices:
            report.state = "no_driver"
            report.problems.append("nvidia-smi is not installed")
        return report

    if _MISMATCH.search(output):
        library = _LIBRARY_VERSION.search(output)
        report.state = "mismatch"
        report.problems.append(
            "the kernel module and the libraries of the driver have different versions"
            + (f" (libraries: {library.group(1)})" if library else "")
        )
        return report

    start = output.find("<?xml")
    lost = [_lost_text(match) for match in _LOST.finditer(output if start < 0 else output[:start])]
    if start < 0:
        if lost:
            report.state = "degraded"
            report.problems.extend(lost)
        elif devices:
            report.state = "no_driver"
            report.problems.append(_first_line(output) or f"nvidia-smi ended with {return_code} and said nothing")
        elif "couldn't communicate" not in output and "No devices" not in output and return_code == 0:
            report.state = "degraded"
            report.problems.append(f"nvidia-smi answered something unknown: {_first_line(output)[:200]!r}")
        return report

    try:
        root = ET.fromstring(output[start:])
    except ET.ParseError as error:
        report.state = "degraded"
        report.problems.append(f"nvidia-smi's answer is no complete document: {error}")
        return report

    report.driver = _text(root, "driver_version") or None
    report.cuda = _text(root, "cuda_version") or None
    if report.cuda == "Not Found":
        report.cuda = None
    report.gpus = [_parse_gpu(gpu, position) for position, gpu in enumerate(root.findall("gpu"))]
    report.problems.extend(lost)
    answering = {gpu.pci_id for gpu in report.gpus}
    for device in devices:
        # One that is handed to a virtual machine is not the driver's business.
        if normal_pci_id(device["pci_id"]) not in answering and device.get("kernel_driver", "") not in ("vfio-pci",):
            report.problems.append(f"the GPU at {device['pci_id']} is on the bus but the driver does not see it")
    attached = _integer(_text(root, "attached_gpus"))
    if attached is not None and attached > len(report.gpus) and not report.problems:
        report.problems.append(f"{attached} GPUs are attached but {len(report.gpus)} answer")
    for gpu in report.gpus:
        report.problems.extend(f"GPU {gpu.index} ({gpu.pci_id}): {problem}" for problem in gpu.problems)
    if report.problems:
        report.state = "degraded"
    else:
        report.state = "ok" if report.gpus else "none"
    return report


def _lost_text(match: re.Match[str]) -> str:
    which, reason = match.groups()
    address = _PCI_ID.search(which)
    place = normal_pci_id(address.group()) if address else which
    return f"the GPU {place} does not answer ({reason.strip()}): it has fallen off the bus, restart the host"


def parse_topology(output: str) -> dict[str, dict[str, str]]:
    """`nvidia-smi topo -m`: between GPUs, how they are connected (`NV18`: 18 NVLinks, `SYS`: across processors)."""
    links: dict[str, dict[str, str]] = {}
    columns: list[str] = []
    for line in output.splitlines():
        # The header is underlined by escape sequences on some versions, even without a terminal.
        cells = re.sub(r"\x1b\[[0-9;]*m", "", line).replace("\t", " ").split()
        if not columns:
            columns = [cell for cell in cells if re.fullmatch(r"GPU\d+", cell)] if cells[:1] == ["GPU0"] else []
        elif cells and cells[0] in columns and len(cells) > len(columns):
            row = dict(zip(columns, cells[1:], strict=False))
            links[cells[0][3:]] = {name[3:]: kind for name, kind in row.items() if kind != "X"}
    return links


def parse_xids(log: str) -> list[dict[str, t.Any]]:
    """Faults of GPUs in the kernel log, each kind once for each GPU, with how often it happened."""
    found: dict[tuple[str, int], dict[str, t.Any]] = {}
    for match in _XID.finditer(log):
        address, number, text = match.group(1), int(match.group(2)), match.group(3).strip()
        # The log leaves the function away.
        place = normal_pci_id(address if "." in address else f"{address}.0")
        entry = found.setdefault(
            (place, number),
            {"pci_id": place, "xid": number, "text": text, "count": 0, "serious": number in SERIOUS_XIDS},
        )
        entry["count"] += 1
        entry["text"] = text
    return list(found.values())


def xid_problems(xids: t.Iterable[t.Mapping[str, t.Any]]) -> list[str]:
    """What the serious ones mean, in words."""
    return [
        f"the GPU at {entry['pci_id']}: {SERIOUS_XIDS[entry['xid']]} (XID {entry['xid']}, {entry['count']} times)"
        for entry in xids
        if entry["serious"]
    ]


def device_files(gpus: t.Iterable[Gpu], root: Path = Path("/dev")) -> dict[str, bool]:
    """The device files that CUDA opens, and whether each is there. They are made when a program of root first asks."""
    names = ["nvidiactl", "nvidia-uvm", *(f"nvidia{gpu.index}" for gpu in gpus)]
    if any(gpu.mig == "enabled" for gpu in gpus):
        names.append("nvidia-caps")
    return {f"/dev/{name}": (root / name).exists() for name in names}
