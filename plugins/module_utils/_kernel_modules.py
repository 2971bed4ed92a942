# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether each kernel of a host has the modules of a driver: built for it, of the right version, and signed.

That a package was installed proves nothing: a build that fails leaves the package in place on some releases, and a
kernel that arrived later may have no module at all. What counts is the file that the kernel will load.
"""

from __future__ import annotations

import gzip
import lzma
import re
import struct
import typing as t
from dataclasses import dataclass, field
from pathlib import Path

#: What ends a module that is signed, before which stand the signature and a description of it.
_MAGIC: t.Final = b"~Module signature appended~\n"

#: Algorithm, hash, type of identifier, lengths of name and key identifier, padding, length of the signature.
_DESCRIPTION: t.Final = struct.Struct(">BBBBB3xI")

#: The only type of identifier in use: the signature is a PKCS#7 message.
_PKCS7: t.Final = 2

Signature = t.Literal["absent", "valid", "invalid", "unknown"]


class ModuleFileError(ValueError):
    """A module file that cannot be read."""


@dataclass
class KernelModule:
    """One module file."""

    name: str
    path: str
    version: str
    vermagic: str
    signer: str
    hash: str
    signature: Signature = "unknown"


@dataclass
class Kernel:
    """One installed kernel and the driver's modules for it."""

    release: str
    next: bool
    dkms: str
    modules: list[KernelModule] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, t.Any]:
        """For the module's answer."""
        return {
            "kernel": self.release,
            "next": self.next,
            "ok": not self.problems,
            "dkms": self.dkms,
            "modules": [vars(module) for module in self.modules],
            "missing": self.missing,
            "problems": self.problems,
        }


def installed_kernels(modules: Path, boot: Path) -> list[str]:
    """The kernels that can be booted: those that have both an image and a directory of modules, the oldest first."""
    if not modules.is_dir():
        return []
    found = [path.name for path in modules.iterdir() if (boot / f"vmlinuz-{path.name}").is_file()]
    return sorted(found, key=version_key)


def version_key(text: str) -> list[tuple[int, int, str]]:
    """Sort key of kernel releases: ``6.1.0-9`` comes before ``6.1.0-50``."""
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in re.findall(r"\d+|[^\d]+", text)]


def find_module(directory: Path, names: t.Sequence[str]) -> Path | None:
    """Find the file of a module for one kernel.

    :param directory: ``/lib/modules/<release>``.
    :param names: the names it may have; distributions rename modules of which several versions can be installed.
    :returns: the file that is loaded: what stands in ``updates`` comes before everything else.
    """
    wanted = {name.replace("-", "_") for name in names}
    found = [
        path
        for path in directory.rglob("*.ko*")
        if path.name.split(".ko")[0].replace("-", "_") in wanted
        and path.name.endswith((".ko", ".ko.gz", ".ko.xz", ".ko.zst"))
    ]
    return min(found, key=lambda path: ("updates" not in path.parts, str(path)), default=None)


def parse_modinfo(text: str) -> dict[str, str]:
    """Read what ``modinfo`` says; of fields that come several times the first counts."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon and name and not name[0].isspace():
            values.setdefault(name.strip(), value.strip())
    return values


def parse_dkms(text: str) -> list[dict[str, str]]:
    """Read what ``dkms status`` says, in the forms of version 2 (commas) and 3 (a slash and a colon)."""
    found = []
    for line in text.splitlines():
        head, colon, state = line.strip().rpartition(": ")
        if not colon:
            continue
        parts = [part.strip() for part in head.split(",")]
        if "/" in parts[0]:
            name, _slash, version = parts[0].partition("/")
            rest = parts[1:]
        elif len(parts) > 1:
            name, version, rest = parts[0], parts[1], parts[2:]
        else:
            continue
        found.append(
            {
                "name": name,
                "version": version,
                "kernel": rest[0] if rest else "",
                "state": state.split(" ")[0].rstrip(","),
                "warning": state[state.find("(") + 1 : state.rfind(")")] if "(" in state else "",
            }
        )
    return found


def read_module(path: Path) -> bytes | None:
    """Read a module file, unpacked; None where it is packed with a program that Python does not have."""
    try:
        if path.name.endswith(".zst"):
            return None
        if path.name.endswith(".xz"):
            return lzma.decompress(path.read_bytes())
        if path.name.endswith(".gz"):
            return gzip.decompress(path.read_bytes())
        return path.read_bytes()
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise ModuleFileError(f"{path} cannot be read: {error}") from error


def split_signature(content: bytes) -> tuple[bytes, bytes] | None:
    """Take a signed module apart.

    :param content: the module file, unpacked.
    :returns: what was signed, and the signature (PKCS#7, DER); None for a module that is not signed.
    :raises ModuleFileError: it says that it is signed, but is damaged.
    """
    if not content.endswith(_MAGIC):
        return None
    body = content[: -len(_MAGIC)]
    at = len(body) - _DESCRIPTION.size
    if at < 0:
        raise ModuleFileError("the description of the signature is cut off")
    _algorithm, _hash, kind, signer, key, length = _DESCRIPTION.unpack(body[at:])
    body = body[:at]
    if kind != _PKCS7 or signer or key or not 0 < length <= len(body):
        raise ModuleFileError("the description of the signature is not one that kernels accept")
    return body[:-length], body[-length:]


#: The line with which a compiler, the linker or `modpost` says what is wrong, and what comes before it in the log.
_ERROR = re.compile(r"(?:^|\s)(?:fatal )?error: |^ERROR: modpost: |undefined!$|No rule to make target")


def first_errors(log: str, count: int = 3) -> list[str]:
    """Find in the log of a build what went wrong first."""
    found = []
    for line in log.splitlines():
        if _ERROR.search(line):
            # The directory of the build says nothing that helps.
            told = re.sub(r"\S*/build/", "", line.strip())
            if told not in found:
                found.append(told)
    return found[:count]


def judge(kernel: Kernel, version: str, signed: bool) -> list[str]:
    """Say what is wrong with the driver's modules for a kernel.

    :param kernel: what was found.
    :param version: the version that they must have; empty takes any, but all the same.
    :param signed: whether this host only loads modules that are signed.
    """
    problems = []
    if kernel.missing:
        built = f" (dkms: {kernel.dkms})" if kernel.dkms else ""
        problems.append(f"kernel {kernel.release} has no {', '.join(kernel.missing)}{built}")
    expected = version or (kernel.modules[0].version if kernel.modules else "")
    for module in kernel.modules:
        if module.version != expected:
            problems.append(f"{module.path} is version {module.version or 'unknown'}, not {expected}")
        if module.vermagic.split(" ")[0] != kernel.release:
            problems.append(f"{module.path} was built for {module.vermagic.split(' ')[0] or 'no'} kernel")
        if module.signature == "invalid":
            problems.append(f"{module.path} has a signature that is not of the key of this host")
        elif module.signature == "absent" and signed:
            problems.append(f"{module.path} is not signed, and Secure Boot is on")
    return problems
