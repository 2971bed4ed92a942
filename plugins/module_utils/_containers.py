# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Container engines of a host: what runs, whether it runs with the configuration in force, and how it gets there.

What the role container_runtime puts beside other people's settings are symbolic links into its release, so what is ours
can always be told from what is not. A daemon is restarted only when what it was started with is not what is in force;
how that is known survives an interruption of the run, and a restart by somebody else.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import typing as t
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Run = Callable[[Sequence[str]], "tuple[int, str]"]

GUARD_UNIT = "ai102-container-networks.service"
GUARD_TABLE = "ai102_containers"


class ContainerError(Exception):
    """Why an engine is not as it should be, in words for the operator."""


@dataclass(frozen=True)
class Engine:
    """What is particular to an engine.

    Attributes:
        units: its units, in the order in which they start; the last one is the engine, those before it help it.
        config: the file that it shares with others.
        version: command that prints the version of what is installed.
        probe: command that succeeds when the engine works, and prints its version.
        links: directories in which links of ours may be.
    """

    units: tuple[str, ...]
    config: str
    version: tuple[str, ...]
    probe: tuple[str, ...]
    links: tuple[str, ...]


_SYSTEMD = "/etc/systemd/system"
ENGINES: t.Final[Mapping[str, Engine]] = {
    "docker": Engine(
        ("containerd.service", "docker.service"),
        "/etc/docker/daemon.json",
        ("dockerd", "--version"),
        ("docker", "version", "--format", "{{.Server.Version}}"),
        ("/etc/docker/certs.d", f"{_SYSTEMD}/docker.service.d", _SYSTEMD),
    ),
    "containerd": Engine(
        ("containerd.service",),
        "/etc/containerd/config.toml",
        ("containerd", "--version"),
        ("ctr", "version"),
        ("/etc/containerd/certs.d", f"{_SYSTEMD}/containerd.service.d", _SYSTEMD),
    ),
    "podman": Engine(
        (),
        "/etc/containers/storage.conf",
        ("podman", "--version"),
        ("podman", "info", "--format", "{{.Version.Version}}"),
        (
            "/etc/containers/certs.d",
            "/etc/containers/containers.conf.d",
            "/etc/containers/registries.conf.d",
            _SYSTEMD,
        ),
    ),
}


def version_of(text: str) -> str | None:
    """The version in what an engine's program says of itself, without what a distribution appends."""
    for word in text.replace(",", " ").split():
        digits = word.lstrip("v").partition("~")[0].partition("+")[0].partition("-")[0]
        parts = digits.split(".")
        if len(parts) >= 2 and all(part.isdigit() for part in parts):
            return digits
    return None


@dataclass
class Links:
    """Symbolic links of ours beside other people's files.

    Attributes:
        current: what they point into.
        wanted: where a link has to be, and to what inside ``current``.
        directories: where links of ours may be that are not wanted any more.
    """

    current: Path
    wanted: Mapping[str, str]
    directories: Collection[str]

    def stale(self) -> list[Path]:
        """Links of ours that are not wanted any more."""
        found = []
        for directory in sorted({*self.directories, *(str(Path(dest).parent) for dest in self.wanted)}):
            for path in sorted(Path(directory).iterdir()) if Path(directory).is_dir() else []:
                if path.is_symlink() and str(path) not in self.wanted and self._ours(path):
                    found.append(path)
        return found

    def _ours(self, path: Path) -> bool:
        return os.readlink(path).startswith(f"{self.current}/")

    def missing(self) -> list[Path]:
        """Where links have to be made.

        Raises:
            ContainerError: somebody else has something there.
        """
        found = []
        for dest, name in self.wanted.items():
            path = Path(dest)
            if path.is_symlink() and os.readlink(path) == str(self.current / name):
                continue
            if os.path.lexists(path) and not (path.is_symlink() and self._ours(path)):
                raise ContainerError(
                    f"{path} is there and was not made by this role. Move it away, or take what is meant by it out of "
                    "the role's variables."
                )
            found.append(path)
        return found

    def make(self) -> None:
        """Make what is missing, and remove what is stale."""
        for path in self.missing():
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.ai102")
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(self.current / self.wanted[str(path)])
            temporary.replace(path)
        for path in self.stale():
            path.unlink()


@dataclass
class Unit:
    """A unit of systemd, as ``systemctl show`` tells of it."""

    name: str
    properties: Mapping[str, str] = field(default_factory=dict)

    @property
    def loaded(self) -> bool:
        """Whether there is such a unit."""
        return self.properties.get("LoadState") == "loaded"

    @property
    def enabled(self) -> bool:
        """Whether it starts with the host."""
        return self.properties.get("UnitFileState") == "enabled"

    @property
    def active(self) -> bool:
        """Whether it runs."""
        return self.properties.get("ActiveState") in {"active", "reloading"}

    @property
    def invocation(self) -> str:
        """What tells this start of it from every other."""
        return self.properties.get("InvocationID", "")

    @property
    def started(self) -> float:
        """When its process was started, in seconds of the clock; 0 where that is not known."""
        text = self.properties.get("ExecMainStartTimestamp", "").lstrip("@")
        try:
            return float(text)
        except ValueError:
            return 0.0


class Systemd:
    """The service manager of the host."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def unit(self, name: str) -> Unit:
        """Ask for a unit.

        Raises:
            ContainerError: systemd does not answer.
        """
        status, said = self.run(
            [
                "systemctl",
                "show",
                "--timestamp=unix",
                "--property=LoadState,UnitFileState,ActiveState,InvocationID,ExecMainStartTimestamp",
                name,
            ]
        )
        if status != 0:
            raise ContainerError(f"systemd does not answer: {said.strip()}")
        return Unit(name, dict(line.split("=", 1) for line in said.splitlines() if "=" in line))

    def do(self, verb: str, *units: str) -> None:
        """Have systemctl do something.

        Raises:
            ContainerError: it failed; with the last words of the unit.
        """
        status, said = self.run(["systemctl", *verb.split(), *units])
        if status != 0:
            words = self.words(units[-1]) if units else ""
            raise ContainerError(f"'systemctl {verb} {' '.join(units)}' failed: {said.strip()} {words}".strip())

    def words(self, unit: str) -> str:
        """The last words of a unit."""
        status, said = self.run(["journalctl", "--unit", unit, "--lines", "6", "--output", "cat", "--no-pager"])
        lines = [line.strip() for line in said.splitlines() if line.strip()] if status == 0 else []
        return f"Its last words: {' | '.join(lines)}" if lines else ""


def fingerprint(paths: Collection[str]) -> str:
    """What tells the content of files from every other content; a file that is missing counts too."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        try:
            content = Path(path).read_bytes()
        except OSError:
            content = b"\0missing"
        digest.update(f"{path}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def changed_at(paths: Collection[str]) -> float:
    """When one of the files was changed last, in seconds of the clock."""
    times = [0.0]
    for path in paths:
        for look in (os.stat, os.lstat):
            try:
                times.append(look(path).st_ctime)
            except OSError:
                continue
    return max(times)


def needs_restart(unit: Unit, noted: Mapping[str, str], now: str, changed: float) -> bool:
    """Whether a unit that runs was started with something else than what is in force.

    Args:
        unit: the unit.
        noted: what was noted after we started it: ``invocation`` and ``fingerprint``.
        now: fingerprint of what is in force.
        changed: when that was changed last.
    """
    if noted.get("invocation") and noted.get("invocation") == unit.invocation:
        return noted.get("fingerprint") != now
    # Somebody else has started it: then it is right if nothing was changed since.
    return changed > unit.started > 0


class Notes:
    """What was noted about the units that were started; forgotten when the host starts anew."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, unit: str) -> dict[str, str]:
        """What was noted about a unit."""
        try:
            value = json.loads(self.path.read_text()).get(unit, {})
        except (OSError, ValueError):
            return {}
        return {str(key): str(item) for key, item in value.items()} if isinstance(value, dict) else {}

    def write(self, unit: str, invocation: str, now: str) -> None:
        """Note how a unit was started."""
        try:
            everything = json.loads(self.path.read_text())
        except (OSError, ValueError):
            everything = {}
        noted = {"invocation": invocation, "fingerprint": now}
        if everything.get(unit) != noted:
            temporary = self.path.with_name(f"{self.path.name}.new")
            temporary.write_text(json.dumps({**everything, unit: noted}))
            temporary.replace(self.path)


def wait_until(check: Callable[[], str | None], timeout: float, what: str, interval: float = 0.5) -> str:
    """Wait until a check returns something, and return that.

    Raises:
        ContainerError: it did not in time.
    """
    deadline = time.monotonic() + timeout
    while True:
        found = check()
        if found is not None:
            return found
        if time.monotonic() >= deadline:
            raise ContainerError(f"{what} within {timeout:.0f} s")
        time.sleep(interval)


def guard(networks: Sequence[str]) -> str:
    """Rules that keep packets from outside away from the networks of containers, as text for ``nft -f``.

    A published port is reached by the host's address, and is subject to the firewall. Whoever is in the same network
    as the host can also send a packet to a container's own address by way of the host; that packet would pass the
    firewall's chain for published ports, because nothing of it was translated.
    """
    head = f"# Managed by Ansible (ai102.inference).\ntable inet {GUARD_TABLE}\ndelete table inet {GUARD_TABLE}\n"
    if not networks:
        return head
    listed = ", ".join(networks)
    return head + (
        f"table inet {GUARD_TABLE} {{\n"
        "\tchain prerouting {\n"
        "\t\t# Before addresses are translated: a packet to a published port still has the host's address here.\n"
        "\t\ttype filter hook prerouting priority raw; policy accept;\n"
        f"\t\tip daddr != {{ {listed} }} accept\n"
        '\t\tiif "lo" accept\n'
        "\t\t# From a container, and by the bridge that the container is really on.\n"
        f"\t\tip saddr {{ {listed} }} fib saddr . iif oif != 0 accept\n"
        "\t\tcounter drop\n"
        "\t}\n"
        "}\n"
    )
