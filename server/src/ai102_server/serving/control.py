# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""How the processes of the service talk, and how they change their models together.

The supervisor holds one connected pair of sockets for each worker. Messages are JSON objects, one for each packet, so
that nothing is ever half read. A worker reports that it lives, that it is ready, or why it is not; its end of the pair
is closed with it, so that the supervisor sees it go, and the other way round.

Models change in two steps, as in a two-phase commit. First every worker loads what is new, verifies it, warms it up,
and asks its golden answers, while it goes on serving what it served. Only when all have reported does the supervisor
tell them to switch, and it names what all of them could load. A switch replaces one reference, so a request is answered
by the models of one moment.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import socket
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import orjson

from ai102_server.config import ModelRef
from ai102_server.errors import RequestError

__all__ = [
    "READY",
    "Channel",
    "Coordinator",
    "Failures",
    "Member",
    "Wanted",
    "WorkerLink",
    "WorkerMember",
    "refs_from_json",
    "refs_to_json",
]

logger = logging.getLogger(__name__)

Failures = dict[tuple[str, str], str]
"""Reason why a model could not be loaded, by name and version."""
READY: Final = "ready"
"""The event by which a process says that it does its work from now on."""
MESSAGE_BYTES: Final = 1 << 20
LOAD_SECONDS: Final = 600.0


class Channel:
    """One end of the connection between supervisor and worker. Sending is safe from any thread."""

    def __init__(self, end: socket.socket) -> None:
        self._socket: Final = end
        self._lock: Final = threading.Lock()

    @staticmethod
    def pair() -> tuple[Channel, Channel]:
        """Two connected ends."""
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (left, right):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MESSAGE_BYTES)
        return Channel(left), Channel(right)

    def send(self, **message: object) -> None:
        """Send a message. Raises ``OSError`` when the other end is gone."""
        with self._lock:
            self._socket.sendall(orjson.dumps(message))

    def receive(self, seconds: float | None = None) -> dict[str, Any] | None:
        """The next message; an empty one when none came in time, None when the other end is gone."""
        self._socket.settimeout(seconds)
        try:
            raw = self._socket.recv(MESSAGE_BYTES)
        except TimeoutError:
            return {}
        except OSError:
            return None
        return dict(orjson.loads(raw)) if raw else None

    def close(self) -> None:
        """Close this end."""
        self._socket.close()


def refs_to_json(refs: Iterable[ModelRef]) -> list[list[str]]:
    """Models as a message carries them."""
    return [[ref.name, ref.version, str(ref.path)] for ref in refs]


def refs_from_json(items: Iterable[Sequence[str]]) -> list[ModelRef]:
    """Models of a message."""
    return [ModelRef(name, version, Path(path)) for name, version, path in items]


class Member(Protocol):
    """One process that serves models, as the coordinator sees it."""

    def prepare(self, refs: Sequence[ModelRef]) -> Callable[[], Failures]:
        """Begin to load what is not loaded yet; what is returned waits for the end and says what failed."""

    def activate(self, refs: Sequence[ModelRef]) -> Callable[[], None]:
        """Begin to serve exactly these; what is returned waits for the end."""


class WorkerMember:
    """A worker, seen from the supervisor."""

    def __init__(self, channel: Channel) -> None:
        self._channel: Final = channel
        self._ids: Final = itertools.count()
        self._waiting: Final[dict[int, tuple[threading.Event, list[dict[str, Any]]]]] = {}
        self._gone = False

    def prepare(self, refs: Sequence[ModelRef]) -> Callable[[], Failures]:
        """Begin to load."""
        wait = self._ask("prepare", refs)

        def failures() -> Failures:
            return {(name, version): reason for name, version, reason in wait().get("failed", [])}

        return failures

    def activate(self, refs: Sequence[ModelRef]) -> Callable[[], None]:
        """Begin to serve."""
        wait = self._ask("activate", refs)

        def done() -> None:
            wait()

        return done

    def _ask(self, what: str, refs: Sequence[ModelRef]) -> Callable[[], dict[str, Any]]:
        number = next(self._ids)
        answered = threading.Event()
        box: list[dict[str, Any]] = []
        self._waiting[number] = (answered, box)
        try:
            self._channel.send(do=what, id=number, models=refs_to_json(refs))
        except OSError:
            self.gone()

        def wait() -> dict[str, Any]:
            # A worker that died is replaced by one that loads what is active: it needs nobody's patience.
            if not self._gone and not answered.wait(LOAD_SECONDS):
                logger.error("a worker did not change its models in time", extra={"seconds": LOAD_SECONDS})
            self._waiting.pop(number, None)
            return box[0] if box else {}

        return wait

    def done(self, message: dict[str, Any]) -> None:
        """The worker has answered."""
        waiting = self._waiting.get(message["id"])
        if waiting is not None:
            waiting[1].append(message)
            waiting[0].set()

    def gone(self) -> None:
        """The worker is no more: nobody need wait for it."""
        self._gone = True
        for answered, _box in list(self._waiting.values()):
            answered.set()


class Wanted(Protocol):
    """A model version that should be served; ``stamp`` changes when its package does."""

    @property
    def name(self) -> str:
        """Name of the model."""

    @property
    def version(self) -> str:
        """Version of the model."""

    @property
    def path(self) -> Path:
        """Directory of the package."""

    @property
    def stamp(self) -> str:
        """Anything that changes when the package does."""


class Coordinator:
    """Decides which models are served, and has all members change together.

    Args:
        active: What is served at the start.
        members: Gives the members of the moment.
        wanted: Gives what should be served, apart from what was unloaded by hand; asked at every change.

    """

    def __init__(
        self,
        active: Iterable[ModelRef],
        members: Callable[[], Iterable[Member]],
        wanted: Callable[[], Iterable[Wanted]],
    ) -> None:
        self._lock: Final = threading.Lock()
        self._members: Final = members
        self._wanted: Final = wanted
        self._active: tuple[ModelRef, ...] = tuple(active)
        # Packages that could not be loaded, by what they were then: they are not tried again until they change.
        self._failed: dict[tuple[str, str, str], str] = {}
        self._unloaded: set[str] = set()

    @property
    def active(self) -> tuple[ModelRef, ...]:
        """What is served."""
        return self._active

    def poll(self) -> None:
        """Serve what is wanted, if that has changed. Raises ``ModelError`` when it cannot be found out."""
        with self._lock:
            wanted = self._loadable()
            if set(self._served(wanted, _refs(self._candidates(wanted)))) != set(self._active):
                self._change(wanted)

    def refresh(self) -> None:
        """Serve what is wanted. Raises ``ModelError`` when it cannot be found out."""
        with self._lock:
            self._change(self._loadable())

    def bring(self, member: Member, serves: Iterable[ModelRef]) -> None:
        """Have a member that has just begun serve what the others do.

        Args:
            member: The member; it is among those that ``members`` gives by now.
            serves: What it was told to serve when it was started, before changes that it was not asked for.

        """
        with self._lock:
            if tuple(serves) == self._active:
                return
            failed = member.prepare(self._active)()
            if failed:
                facts = {f"{name} {version}": reason for (name, version), reason in failed.items()}
                logger.error("a new worker cannot load what the others serve", extra={"failed": facts})
            member.activate([ref for ref in self._active if (ref.name, ref.version) not in failed])()

    def load(self, name: str) -> None:
        """Serve a model again that was unloaded, or try again what failed.

        Raises:
            RequestError: 404 when there is no such model, 422 when it cannot be loaded.
            ModelError: What should be served cannot be found out.

        """
        with self._lock:
            if not any(item.name == name for item in self._wanted()):
                raise RequestError(404, f"unknown model '{name[:100]}'")
            self._unloaded.discard(name)
            self._failed = {key: reason for key, reason in self._failed.items() if key[0] != name}
            failed = self._change(self._loadable())
        mine = [f"version {version}: {reason}" for (model, version), reason in failed.items() if model == name]
        if mine:
            raise RequestError(422, f"model '{name}' cannot be loaded: {'; '.join(mine)}")

    def unload(self, name: str) -> None:
        """Stop serving a model until it is loaded again, or until the service starts again.

        Raises:
            RequestError: 404 when it is not served.
            ModelError: What should be served cannot be found out.

        """
        with self._lock:
            if not any(ref.name == name for ref in self._active):
                raise RequestError(404, f"unknown model '{name[:100]}'")
            self._unloaded.add(name)
            self._change(self._loadable())

    def _loadable(self) -> list[Wanted]:
        """What should be served, apart from what was unloaded by hand."""
        return [item for item in self._wanted() if item.name not in self._unloaded]

    def _candidates(self, wanted: Iterable[Wanted]) -> list[Wanted]:
        """Those of them that have not failed as they are now."""
        return [item for item in wanted if (item.name, item.version, item.stamp) not in self._failed]

    def _served(self, wanted: Iterable[Wanted], good: Sequence[ModelRef]) -> list[ModelRef]:
        """What can be loaded, and of a model of which nothing can be what it has."""
        missing = {item.name for item in wanted} - {ref.name for ref in good}
        return [*good, *(ref for ref in self._active if ref.name in missing)]

    def _change(self, wanted: Sequence[Wanted]) -> Failures:
        """Called with the lock held. Returns what failed now."""
        candidates = self._candidates(wanted)
        refs = _refs(candidates)
        members = list(self._members())
        failed: Failures = {}
        for wait in [member.prepare(refs) for member in members]:
            failed.update(wait())
        for item in candidates:
            if (item.name, item.version) in failed:
                self._failed[item.name, item.version, item.stamp] = failed[item.name, item.version]
        served = self._served(wanted, [ref for ref in refs if (ref.name, ref.version) not in failed])
        for done in [member.activate(served) for member in members]:
            done()
        before, self._active = self._active, tuple(served)
        facts = {
            "added": [f"{ref.name} {ref.version}" for ref in served if ref not in before],
            "removed": [f"{ref.name} {ref.version}" for ref in before if ref not in served],
            "failed": {f"{name} {version}": reason for (name, version), reason in failed.items()},
        }
        if failed:
            logger.error("models could not be loaded; what was served still is", extra=facts)
        elif facts["added"] or facts["removed"]:
            logger.info("models changed", extra=facts)
        return failed


def _refs(items: Iterable[Wanted]) -> list[ModelRef]:
    return [ModelRef(item.name, item.version, item.path) for item in items]


class WorkerLink:
    """The worker's end: reports to the supervisor and does what it says.

    Args:
        channel: The worker's end of the pair.
        beat_seconds: How often to report that this process lives.
        handlers: What to do, by the name of the message; called on a thread of their own, one after the other.
        gone: Called when the supervisor is no more.

    """

    def __init__(
        self,
        channel: Channel,
        beat_seconds: float,
        handlers: Mapping[str, Callable[[dict[str, Any]], dict[str, Any] | None]],
        gone: Callable[[], None],
    ) -> None:
        self._channel: Final = channel
        self._beat_seconds: Final = beat_seconds
        self._handlers: Final = handlers
        self._gone: Final = gone
        self._ids: Final = itertools.count()
        self._asked: Final[dict[int, tuple[threading.Event, list[dict[str, Any]]]]] = {}
        self._work: Final = threading.Semaphore(0)
        self._queue: Final[list[dict[str, Any]]] = []
        threading.Thread(target=self._listen, name="supervisor-link", daemon=True).start()
        threading.Thread(target=self._handle, name="model-changes", daemon=True).start()

    def tell(self, event: str, **facts: object) -> None:
        """Report something. What cannot be sent any more is of no interest to anybody."""
        with contextlib.suppress(OSError):
            self._channel.send(event=event, **facts)

    def ask(self, what: str, **facts: object) -> None:
        """Have the supervisor do something, and wait until it is done.

        Raises:
            RequestError: As the supervisor says, or 503 when it does not answer.

        """
        number = next(self._ids)
        answered = threading.Event()
        box: list[dict[str, Any]] = []
        self._asked[number] = (answered, box)
        self.tell("ask", what=what, id=number, **facts)
        in_time = answered.wait(2 * LOAD_SECONDS)
        self._asked.pop(number, None)
        if not in_time or not box:
            raise RequestError(503, "the models could not be changed in time", retry_after=10)
        if "status" in box[0]:
            raise RequestError(box[0]["status"], box[0]["message"])

    def _listen(self) -> None:
        while True:
            message = self._channel.receive(self._beat_seconds)
            if message is None:
                break
            self.tell("beat")
            what = message.get("do")
            if what == "answer":
                asked = self._asked.get(message["id"])
                if asked is not None:
                    asked[1].append(message)
                    asked[0].set()
            elif what == "drain":
                self._handlers["drain"](message)
            elif what is not None:
                self._queue.append(message)
                self._work.release()
        self._gone()

    def _handle(self) -> None:
        while True:
            self._work.acquire()
            message = self._queue.pop(0)
            try:
                answer = self._handlers[message["do"]](message) or {}
            except Exception:
                logger.exception("a change of models failed", extra={"change": message["do"]})
                answer = {}
            self.tell("done", id=message["id"], **answer)
