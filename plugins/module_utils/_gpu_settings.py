# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sets GPUs as it is declared: MIG layout, ECC, limits of power and clocks.

Most of this is forgotten when the host restarts, so that it has to be set again at every start. This file is therefore
two things: what the module ``gpu_settings`` imports, and a program on the host that a unit runs before the inference
server starts (``gpu_settings.py DECLARATION``). It uses nothing but Python itself.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import typing as t
from dataclasses import dataclass, field
from pathlib import Path

#: Where it is kept which clocks were locked since the start: the driver does not tell. It is gone when the lock is.
APPLIED: t.Final = Path("/run/ai102-gpu-settings.json")

#: Runs a program: its exit status and what it printed.
Run = t.Callable[[t.Sequence[str]], tuple[int, str]]

_KEYS: t.Final = ("gpus", "power_limit_w", "graphics_clocks_mhz", "memory_clocks_mhz", "ecc", "mig", "mig_instances")
_QUERY: t.Final = (
    "index",
    "uuid",
    "mig.mode.current",
    "mig.mode.pending",
    "ecc.mode.current",
    "ecc.mode.pending",
    "power.limit",
    "power.min_limit",
    "power.max_limit",
)


class SettingsError(ValueError):
    """A declaration that is wrong, or a GPU that cannot be set so."""


@dataclass
class Device:
    """A GPU as it is."""

    index: int
    uuid: str
    mig: bool | None
    mig_pending: bool | None
    ecc: bool | None
    ecc_pending: bool | None
    power_w: float | None
    power_min_w: float | None
    power_max_w: float | None
    instances: list[str] = field(default_factory=list)


@dataclass
class Step:
    """One command, and what it is for."""

    arguments: list[str]
    before: str
    after: str
    #: Whether it takes effect only after the GPU was reset or the host was restarted.
    reset: bool = False


def validate(declared: t.Sequence[t.Mapping[str, t.Any]]) -> None:
    """Refuse a declaration that cannot be meant. Raises `SettingsError`."""
    for number, entry in enumerate(declared, start=1):
        where = f"entry {number} of the GPU settings"
        if unknown := sorted(set(entry) - set(_KEYS)):
            raise SettingsError(f"{where} has unknown keys: {', '.join(unknown)}; there are: {', '.join(_KEYS)}")
        gpus = entry.get("gpus", "all")
        if gpus != "all" and not (isinstance(gpus, (list, tuple)) and gpus):
            raise SettingsError(f"{where}: gpus must be 'all' or a list of numbers or UUIDs, not {gpus!r}")
        for name in ("graphics_clocks_mhz", "memory_clocks_mhz"):
            clocks = entry.get(name)
            if clocks is None or clocks == []:
                continue
            if len(clocks) != 2 or not 0 < int(clocks[0]) <= int(clocks[1]):
                raise SettingsError(f"{where}: {name} must be [lowest, highest] in MHz, or [], not {clocks!r}")
        for profile in entry.get("mig_instances") or []:
            if not re.fullmatch(r"\d+(c\.\d+)?g\.\d+gb(\+\w+)?", str(profile)):
                raise SettingsError(f"{where}: {profile!r} is not a MIG profile such as 1g.10gb")
        if entry.get("mig_instances") and entry.get("mig") is False:
            raise SettingsError(f"{where}: mig_instances need mig: true")


def wanted(declared: t.Sequence[t.Mapping[str, t.Any]], device: Device) -> dict[str, t.Any]:
    """What is declared for one GPU; later entries win."""
    merged: dict[str, t.Any] = {}
    for entry in declared:
        gpus = entry.get("gpus", "all")
        if gpus == "all" or device.uuid in gpus or str(device.index) in [str(gpu) for gpu in gpus]:
            merged.update({key: value for key, value in entry.items() if key != "gpus" and value is not None})
    if merged.get("mig_instances") and "mig" not in merged:
        merged["mig"] = True
    return merged


def _switch(text: str) -> bool | None:
    return {"Enabled": True, "Disabled": False}.get(text)


def _watts(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def parse_query(text: str) -> list[Device]:
    """Read what ``nvidia-smi --query-gpu`` says. Raises `SettingsError`."""
    found = []
    for line in text.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) != len(_QUERY) or not parts[0].isdigit():
            raise SettingsError(f"nvidia-smi says what is not understood: {line.strip()}")
        found.append(
            Device(
                int(parts[0]),
                parts[1],
                _switch(parts[2]),
                _switch(parts[3]),
                _switch(parts[4]),
                _switch(parts[5]),
                _watts(parts[6]),
                _watts(parts[7]),
                _watts(parts[8]),
            )
        )
    return found


def parse_list(text: str) -> dict[str, list[str]]:
    """Read the MIG instances of each GPU (by UUID) from ``nvidia-smi -L``."""
    found: dict[str, list[str]] = {}
    uuid = ""
    for line in text.splitlines():
        if match := re.match(r"GPU \d+: .*\(UUID: (GPU-[\w-]+)\)", line):
            uuid = match[1]
            found[uuid] = []
        elif (match := re.match(r"\s+MIG (\S+)\s+Device\s+\d+:", line)) and uuid:
            found[uuid].append(match[1])
    return found


def read(run: Run) -> list[Device]:
    """Look at the GPUs. Raises `SettingsError`."""
    status, output = run(["nvidia-smi", f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits"])
    if status != 0:
        raise SettingsError(f"nvidia-smi does not answer: {output.strip() or status}")
    devices = parse_query(output)
    if any(device.mig for device in devices):
        status, output = run(["nvidia-smi", "-L"])
        if status != 0:
            raise SettingsError(f"nvidia-smi -L does not answer: {output.strip() or status}")
        instances = parse_list(output)
        for device in devices:
            device.instances = instances.get(device.uuid, [])
    return devices


def _on(value: bool | None) -> str:
    return {True: "on", False: "off", None: "unsupported"}[value]


def plan(
    declared: t.Sequence[t.Mapping[str, t.Any]], devices: t.Sequence[Device], applied: t.Mapping[str, t.Any]
) -> list[Step]:
    """Say which commands bring the GPUs to what is declared.

    :param declared: entries, each for some GPUs.
    :param devices: the GPUs as they are.
    :param applied: by UUID, the clocks that were locked since the start.
    :raises SettingsError: a declaration that a GPU cannot fulfil.
    """
    validate(declared)
    steps: list[Step] = []
    for device in devices:
        want = wanted(declared, device)
        gpu = ["nvidia-smi", "-i", str(device.index)]
        name = f"GPU {device.index}"
        if (ecc := want.get("ecc")) is not None and device.ecc_pending != ecc:
            if device.ecc is None:
                raise SettingsError(f"{name} has no ECC that could be switched")
            text = f"{name}: ECC {_on(device.ecc_pending)}", f"{name}: ECC {_on(ecc)}"
            steps.append(Step([*gpu, "-e", str(int(ecc))], *text, reset=True))
        steps += _mig_steps(want, device, gpu, name)
        if (limit := want.get("power_limit_w")) is not None and device.power_w != float(limit):
            low, high = device.power_min_w, device.power_max_w
            if low is not None and high is not None and not low <= float(limit) <= high:
                raise SettingsError(f"{name} takes {low:g} to {high:g} W, not {limit}")
            before = f"{name}: {device.power_w:g} W" if device.power_w is not None else f"{name}: no limit"
            steps.append(Step([*gpu, "-pl", f"{float(limit):g}"], before, f"{name}: {float(limit):g} W"))
        for key, lock, free in (
            ("graphics_clocks_mhz", "-lgc", "-rgc"),
            ("memory_clocks_mhz", "-lmc", "-rmc"),
        ):
            clocks = want.get(key)
            before_clocks = applied.get(device.uuid, {}).get(key, [])
            if clocks is None or list(clocks) == list(before_clocks):
                continue
            command = [lock, f"{clocks[0]},{clocks[1]}"] if clocks else [free]
            steps.append(Step([*gpu, *command], f"{name}: {key} {before_clocks}", f"{name}: {key} {list(clocks)}"))
    return steps


def _mig_steps(want: t.Mapping[str, t.Any], device: Device, gpu: list[str], name: str) -> list[Step]:
    """The commands for MIG. Instances are made only when the mode is really on."""
    mode = want.get("mig")
    if mode is None:
        return []
    if device.mig is None:
        if mode:
            raise SettingsError(f"{name} cannot be divided by MIG")
        return []
    steps: list[Step] = []
    instances = [str(profile) for profile in want.get("mig_instances", device.instances)]
    mig = ["nvidia-smi", "mig", "-i", gpu[-1]]
    # The driver lists instances in an order of its own; the declared one decides where they are placed, no more.
    other = sorted(instances) != sorted(device.instances)
    if device.mig and (not mode or other) and device.instances:
        told = f"{name}: {', '.join(device.instances)}"
        steps.append(Step([*mig, "-dci"], told, f"{name}: no compute instances"))
        steps.append(Step([*mig, "-dgi"], f"{name}: no compute instances", f"{name}: not divided"))
    if device.mig_pending != mode:
        steps.append(Step([*gpu, "-mig", str(int(mode))], f"{name}: MIG {_on(device.mig)}", f"{name}: MIG {_on(mode)}"))
    if mode and instances and other:
        steps.append(
            Step([*mig, "-cgi", ",".join(instances), "-C"], f"{name}: not divided", f"{name}: {', '.join(instances)}")
        )
    return steps


def apply(declared: t.Sequence[t.Mapping[str, t.Any]], run: Run, applied_path: Path = APPLIED) -> dict[str, t.Any]:
    """Bring the GPUs to what is declared.

    :returns: ``changed``, ``before``, ``after`` (lines), ``reset_required``.
    :raises SettingsError: what cannot be done, with the program's own words.
    """
    applied = read_applied(applied_path)
    devices = read(run)
    steps = plan(declared, devices, applied)
    for step in steps:
        status, output = run(step.arguments)
        if status != 0:
            raise SettingsError(f"{' '.join(step.arguments)} ended with {status}: {' '.join(output.split())}")
        if "-mig" in step.arguments:
            # The mode may need a reset, and instances cannot be made before; the driver tells by what is pending.
            index = int(step.arguments[2])
            now = next(device for device in read(run) if device.index == index)
            if now.mig != now.mig_pending:
                status, output = run(["nvidia-smi", "-i", str(index), "--gpu-reset"])
                if status != 0:
                    raise SettingsError(
                        f"GPU {index} needs a reset for MIG, which it refuses: {' '.join(output.split())}"
                    )
    for device in devices:
        want = wanted(declared, device)
        clocks = {key: want[key] for key in ("graphics_clocks_mhz", "memory_clocks_mhz") if want.get(key) is not None}
        if clocks:
            applied[device.uuid] = {**applied.get(device.uuid, {}), **clocks}
    if steps:
        applied_path.write_text(json.dumps(applied), encoding="utf-8")
    return told(steps, devices, declared)


def told(
    steps: t.Sequence[Step], devices: t.Sequence[Device], declared: t.Sequence[t.Mapping[str, t.Any]]
) -> dict[str, t.Any]:
    """What is said of steps that were taken or would be."""
    waiting = any(
        (ecc := wanted(declared, device).get("ecc")) is not None and device.ecc != ecc and device.ecc is not None
        for device in devices
    )
    return {
        "changed": bool(steps),
        "before": [step.before for step in steps],
        "after": [step.after for step in steps],
        "commands": [" ".join(step.arguments) for step in steps],
        "reset_required": waiting or any(step.reset for step in steps),
    }


def read_applied(path: Path = APPLIED) -> dict[str, t.Any]:
    """What was set since the start of the host."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def run_program(arguments: t.Sequence[str]) -> tuple[int, str]:
    """Run a program with a time limit."""
    try:
        done = subprocess.run(
            list(arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=180, check=False
        )
    except FileNotFoundError:
        return 127, f"there is no {arguments[0]}"
    except subprocess.TimeoutExpired:
        return 124, "no answer within 180 s"
    return done.returncode, done.stdout.decode("utf-8", "replace")


def main(arguments: t.Sequence[str]) -> int:
    """Set the GPUs as the file says that is named on the command line."""
    if len(arguments) != 1:
        sys.stderr.write("usage: gpu_settings.py DECLARATION\n")
        return 2
    try:
        declared = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
        done = apply(declared, run_program)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    for line in done["after"] or ["every GPU is set as declared"]:
        sys.stdout.write(f"{line}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
