# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gateway on a host: which inference hosts it sends requests to, and whether Nginx runs what is configured.

``systemctl reload`` of Nginx says only that a signal was sent. Here a configuration counts as in force when workers
that were started with it have taken over; and a host counts as drained when no process of Nginx has a connection to
it any more.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import json
import os
import re
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

UPSTREAMS = "upstreams.conf"
"""File of a release that lists the inference hosts."""

SERVICE = "service.json"
"""File of a release that says what belongs to the service beside the configuration."""

DRAINED = "drained.json"
"""File beside the releases that remembers who is drained."""

POLL_SECONDS = 0.05

_SERVER = re.compile(
    r"^(?P<head>\s*server\s+(?P<address>\[[^\]]+\]|[^\s:;]+):(?P<port>\d+)(?:\s+[^\s;]+?)*?)(?P<down>\s+down)?;"
    r"(?P<tail>\s*#\s*(?P<name>\S+)\s*)$"
)


class GatewayError(Exception):
    """What is wrong with the gateway, in words for the operator."""


# --------------------------------------------------------------------------------------------------------------------
# The list of inference hosts
# --------------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Upstream:
    """One inference host in the configuration."""

    name: str
    address: str
    port: int
    down: bool


def parse_upstreams(text: str) -> list[Upstream]:
    """The hosts of an ``upstreams.conf``, in its order; one that is named again as a reserve counts once."""
    found: dict[str, Upstream] = {}
    for line in text.splitlines():
        match = _SERVER.match(line)
        if match:
            address = match["address"].strip("[]")
            upstream = Upstream(match["name"], address, int(match["port"]), match["down"] is not None)
            found.setdefault(upstream.name, upstream)
    return list(found.values())


def mark_down(text: str, drained: Sequence[str]) -> str:
    """The text with exactly the named hosts marked ``down``; everything else stays byte for byte."""
    lines = []
    for line in text.splitlines(keepends=True):
        match = _SERVER.match(line.rstrip("\n"))
        if match:
            end = "\n" if line.endswith("\n") else ""
            line = f"{match['head']}{' down' if match['name'] in drained else ''};{match['tail']}{end}"
        lines.append(line)
    return "".join(lines)


def without_last_active(upstreams: Sequence[Upstream], drained: Sequence[str], name: str) -> bool:
    """Whether draining ``name`` besides ``drained`` would leave no host to send requests to."""
    return not any(u.name != name and u.name not in drained for u in upstreams)


def read_drained(path: Path) -> list[str]:
    """Names of the drained hosts. Raises :class:`GatewayError` when the file is not what this module writes."""
    try:
        document = json.loads((path / DRAINED).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as e:
        raise GatewayError(f"{path / DRAINED} cannot be read: {e}. Remove it to have every host active.") from e
    names = document.get("drained") if isinstance(document, dict) else None
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise GatewayError(f"{path / DRAINED} has no list 'drained'. Remove it to have every host active.")
    return sorted(set(names))


def write_atomically(path: Path, text: str, mode: int = 0o644) -> None:
    """Writes a small file so that a reader sees the old or the new text, never half of one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)


def write_drained(path: Path, names: Sequence[str]) -> None:
    """Remembers who is drained."""
    write_atomically(path / DRAINED, json.dumps({"schema": 1, "drained": sorted(set(names))}) + "\n")


@contextmanager
def locked(path: Path, timeout: float) -> Iterator[None]:
    """Holds the gateway for one change; two hosts that are drained at the same time take turns."""
    descriptor = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        deadline = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    message = f"another change of the gateway has held {path / '.lock'} for {timeout:g} s"
                    raise GatewayError(message) from None
                time.sleep(POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


# --------------------------------------------------------------------------------------------------------------------
# Nginx's processes
# --------------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Process:
    """A process of Nginx; ``start`` in clock ticks since boot tells a reused number from the same process."""

    pid: int
    start: int
    title: str

    @property
    def retiring(self) -> bool:
        """Whether it only finishes what it has begun."""
        return "shutting down" in self.title


@dataclass
class Nginx:
    """The running Nginx of this host, seen from outside.

    :param run: runs a command, returns its status and what it printed.
    """

    run: Callable[[Sequence[str]], tuple[int, str]]
    unit: str = "nginx.service"
    pid_file: Path = Path("/run/nginx.pid")
    proc: Path = Path("/proc")
    error_log: Path = Path("/var/log/nginx/error.log")

    def _process(self, pid: int) -> tuple[Process, int] | None:
        """A process and its parent's number."""
        try:
            stat = (self.proc / str(pid) / "stat").read_text()
            title = (self.proc / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            return None
        fields = stat[stat.rindex(")") + 2 :].split()
        return Process(pid, int(fields[19]), title.strip()), int(fields[1])

    def master(self) -> Process | None:
        """The master process, or ``None`` when Nginx does not run."""
        try:
            found = self._process(int(self.pid_file.read_text()))
        except (OSError, ValueError):
            return None
        return found[0] if found and found[0].title.startswith("nginx: master") else None

    def workers(self, master: Process) -> list[Process]:
        """The worker processes, those that are retiring included."""
        found = []
        for entry in self.proc.iterdir():
            if entry.name.isdigit():
                process = self._process(int(entry.name))
                if process and process[1] == master.pid and process[0].title.startswith("nginx: worker"):
                    found.append(process[0])
        return found

    def started_at(self, process: Process) -> float:
        """Wall clock time at which a process was started, in seconds since the epoch."""
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - process.start / os.sysconf("SC_CLK_TCK")
        return time.time() - age

    def reload(self, timeout: float) -> None:
        """Has the configuration read again, and waits until new workers have taken over.

        Raises :class:`GatewayError` when Nginx refuses it, or does not take it within ``timeout`` seconds.
        """
        master = self.master()
        if master is None:
            raise GatewayError(f"{self.unit} does not run, so it cannot be reloaded")
        before = {w.pid for w in self.workers(master)}
        written = self._written()
        status, said = self.run(["systemctl", "reload", self.unit])
        if status != 0:
            raise GatewayError(f"{self.unit} could not be reloaded: {said.strip()} {self.last_words()}".strip())
        deadline = time.monotonic() + timeout
        while True:
            workers = self.workers(master)
            fresh = [w for w in workers if w.pid not in before and not w.retiring]
            stale = [w for w in workers if w.pid in before and not w.retiring]
            if fresh and not stale:
                return
            if refused := self._refusal(written):
                raise GatewayError(f"{self.unit} refused the configuration, and goes on with the one before: {refused}")
            if time.monotonic() > deadline:
                raise GatewayError(
                    f"{self.unit} was told to reload, but {timeout:g} s later the old workers still serve. "
                    f"{self.last_words()}"
                )
            time.sleep(POLL_SECONDS)

    def _written(self) -> int:
        """Bytes in the error log so far."""
        try:
            return self.error_log.stat().st_size
        except OSError:
            return 0

    def _refusal(self, since: int) -> str:
        """Why Nginx has given up a configuration, from what it wrote to its error log since; empty when it has not."""
        try:
            with self.error_log.open("rb") as log:
                log.seek(since if since <= self._written() else 0)
                lines = log.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        grave = [line for line in lines if "[emerg]" in line]
        # A port that is taken is tried for again, until it "still could not bind".
        if all("bind() to" in line for line in grave):
            return ""
        return " | ".join(dict.fromkeys(line.partition("[emerg] ")[2] for line in grave))

    def last_words(self) -> str:
        """The last errors of Nginx, for a message."""
        try:
            lines = self.error_log.read_text(errors="replace").splitlines()[-200:]
        except OSError:
            lines = []
        grave = [line for line in lines if "[emerg]" in line or "[alert]" in line][-2:]
        _status, journal = self.run(
            ["journalctl", "--unit", self.unit, "--lines", "3", "--output", "cat", "--no-pager"]
        )
        return " | ".join([*grave, *(line for line in journal.splitlines() if line.strip())])

    def connections(self, addresses: Sequence[str], port: int) -> int:
        """How many connections the workers of Nginx have to any of the addresses at the port."""
        master = self.master()
        if master is None:
            return 0
        # By user, not by open files: those of the workers may not be visible, in a container for example.
        users = {user for worker in self.workers(master) for user in self._users(worker.pid)}
        wanted = {(_packed(address), port) for address in addresses}
        count = 0
        for table in ("tcp", "tcp6"):
            try:
                # The table of Nginx's own network namespace.
                lines = (self.proc / str(master.pid) / "net" / table).read_text().splitlines()[1:]
            except OSError:
                continue
            for line in lines:
                fields = line.split()
                if fields[3] in _IN_USE and _remote(fields[2]) in wanted and fields[7] in users:
                    count += 1
        return count

    def _users(self, pid: int) -> list[str]:
        """Numbers of the users that a process acts as, as the kernel's tables write them."""
        try:
            status = (self.proc / str(pid) / "status").read_text()
        except OSError:
            return []  # it has ended meanwhile
        return next((line.split()[1:] for line in status.splitlines() if line.startswith("Uid:")), [])


_IN_USE = frozenset({"01", "02"})
"""States of a connection in the kernel's table that count as in use: established, and being established."""


def _packed(address: str) -> bytes:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.inet_pton(family, address)


def _remote(entry: str) -> tuple[bytes, int]:
    """Address and port of an entry of ``/proc/net/tcp``: words of 32 bits in the byte order of the machine."""
    address, _colon, port = entry.partition(":")
    words = [int(address[i : i + 8], 16).to_bytes(4, sys.byteorder) for i in range(0, len(address), 8)]
    return b"".join(words), int(port, 16)


def addresses_of(host: str) -> list[str]:
    """The IP addresses of a host name, or the address itself. Empty when the name is not known (any more)."""
    try:
        return sorted({str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)})
    except OSError:
        return []


def wait_until_unused(nginx: Nginx, upstream: Upstream, timeout: float) -> float:
    """Waits until Nginx has no connection to a host any more; returns the seconds it took.

    Raises :class:`GatewayError` when some are left after ``timeout`` seconds.
    """
    addresses = addresses_of(upstream.address)
    started = time.monotonic()
    calm = 0
    while True:
        left = nginx.connections(addresses, upstream.port)
        calm = calm + 1 if left == 0 else 0
        if calm >= 2:  # twice, because a request may be on its way from one connection to the next
            return time.monotonic() - started
        if time.monotonic() - started > timeout:
            raise GatewayError(
                f"{left} connections to {upstream.name} ({upstream.address}:{upstream.port}) are still in use after "
                f"{timeout:g} s. It gets no new requests; wait longer, or return it with state=active."
            )
        time.sleep(POLL_SECONDS)


# --------------------------------------------------------------------------------------------------------------------
# The service
# --------------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Service:
    """What a release's ``service.json`` says.

    :param links: paths outside the release that must point to a file of the release in force.
    :param drop_in: the file among them that systemd reads; another content needs a restart.
    :param watch: files outside the release that Nginx reads at its start; another content needs a reload.
    :param health: address to ask whether Nginx answers, empty for none.
    :param log: the access log, which Nginx would create readable by all.
    """

    links: dict[str, str] = field(default_factory=dict)
    drop_in: str = ""
    watch: tuple[str, ...] = ()
    health: str = ""
    log: str = ""


def read_service(release: Path) -> Service:
    """Reads ``service.json`` of a release; raises :class:`GatewayError` when there is none or it is malformed."""
    try:
        document = json.loads((release / SERVICE).read_text(encoding="utf-8"))
        return Service(
            {str(k): str(v) for k, v in document["links"].items()},
            str(document["drop_in"]),
            tuple(str(w) for w in document["watch"]),
            str(document["health"]),
            str(document["log"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise GatewayError(f"{release / SERVICE} cannot be used: {type(e).__name__} {e}") from e


def _digest(paths: Sequence[Path], first: str = "") -> str:
    digest = hashlib.sha256(first.encode())
    for path in paths:
        try:
            content = path.read_bytes()
        except OSError:
            content = b"(absent)"
        digest.update(f"\0{path.name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


@dataclass(frozen=True)
class InForce:
    """What a running Nginx was started with, as far as it matters whether it must be reloaded or restarted."""

    master: tuple[int, int]
    configuration: str
    service: str


@dataclass
class Gateway:
    """The gateway's service: is what runs what is configured, and how to make it so.

    :param path: the release store.
    :param record: file that remembers what the running Nginx was told last; on a file system that a reboot empties.
    """

    path: Path
    nginx: Nginx
    record: Path = Path("/run/ai102-gateway.json")

    @property
    def current(self) -> Path:
        """The release in force, through its link."""
        return self.path / "current"

    def wanted(self, service: Service, release: str) -> InForce:
        """What the running Nginx ought to have been told."""
        watched = [Path(w) for w in service.watch]
        drop_in = [self.current / service.drop_in] if service.drop_in else []
        return InForce((0, 0), _digest(watched, release), _digest(drop_in))

    def remember(self, wanted: InForce) -> None:
        """Notes that the running Nginx has been told what is wanted."""
        master = self.nginx.master()
        if master is not None:
            state = replace(wanted, master=(master.pid, master.start))
            text = json.dumps({"master": state.master, "configuration": state.configuration, "service": state.service})
            write_atomically(self.record, text + "\n")

    def action(self, service: Service, wanted: InForce) -> str:
        """What has to happen: ``start``, ``restart``, ``reload``, or nothing (an empty text)."""
        master = self.nginx.master()
        if master is None:
            return "start"
        known = self._recorded()
        if known is None or known.master != (master.pid, master.start):
            # Started by somebody else, at boot for example: it has read what was there then.
            if str(self.current) not in master.title:
                return "restart"
            return "" if self._newest(service) <= self.nginx.started_at(master) else "restart"
        if known.service != wanted.service:
            return "restart"
        return "" if known.configuration == wanted.configuration else "reload"

    def _recorded(self) -> InForce | None:
        try:
            document = json.loads(self.record.read_text(encoding="utf-8"))
            pid, start = document["master"]
            return InForce((int(pid), int(start)), str(document["configuration"]), str(document["service"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _newest(self, service: Service) -> float:
        times = [0.0]
        for path in [self.current, *(Path(w) for w in service.watch)]:
            try:
                times.append(path.lstat().st_mtime)
            except OSError:
                continue
        return max(times)

    def reload(self, release: str, timeout: float) -> None:
        """Has Nginx take the release in force, and notes it."""
        service = read_service(self.current)
        wanted = self.wanted(service, release)
        self.nginx.reload(timeout)
        self.remember(wanted)


def wait_healthy(url: str, timeout: float) -> None:
    """Waits until the URL answers 200. Raises :class:`GatewayError` after ``timeout`` seconds.

    The certificate is not verified: this asks the own host whether it answers at all, and with a certificate of a
    public authority it could not be verified with what is on the host. The playbook ``verify`` asks as a client.
    """
    match = re.fullmatch(r"https://(\[[^\]]+\]|[^/:]+):(\d+)(/.*)", url)
    if not match:
        raise GatewayError(f"{url} is not an address to ask for health")
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    deadline = time.monotonic() + timeout
    while True:
        connection = http.client.HTTPSConnection(match[1].strip("[]"), int(match[2]), timeout=5, context=context)
        try:
            connection.request("GET", match[3])
            status = connection.getresponse().status
            if status == 200:
                return
            said = f"HTTP {status}"
        except (OSError, http.client.HTTPException) as e:
            said = f"{type(e).__name__}: {e}"
        finally:
            connection.close()
        if time.monotonic() > deadline:
            raise GatewayError(f"{url} does not answer: {said}")
        time.sleep(POLL_SECONDS)
