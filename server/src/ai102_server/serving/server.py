# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""The processes of the service.

The *supervisor* owns the socket, speaks with systemd, and decides which models are served. *Workers*, forked by
Granian, load the models and answer; all accept on the one socket. Each tells the supervisor through a channel of its
own (``control``) that it is ready, why it is not, and, as long as it lives, that it lives. On GPUs, *engine processes*
(``engines``) have the sessions, one for each device. Only the main process notifies systemd (``NotifyAccess=main`` will
do). A worker that dies, or whose interpreter hangs, is replaced while the others go on; the watchdog of systemd watches
the supervisor.

What workers are told goes through the channel too. It is no signal, because the kernel may deliver the second of two
signals to another thread than the first, and Python's main thread then sleeps on.

An address of our own is bound by the supervisor, so that one in use is an error at once, but nothing listens before the
models of a worker are ready: until then connections are refused and a gateway asks another host. Each worker has a
socket of its own at that address (``SO_REUSEPORT``), and the kernel spreads connections over them; with one socket for
all, whoever wakes first takes them all, and the other processors idle. A socket handed over by systemd is one, and
listens all the time, so connections wait while the service restarts.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import multiprocessing
import multiprocessing.util
import os
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import granian.server.mp
from granian._granian import SocketHolder
from granian.constants import HTTPModes, Interfaces, RuntimeModes, SSLProtocols
from granian.log import LogLevels
from granian.server.mp import MPServer, WorkerProcess

from ai102_server.access import Access
from ai102_server.config import Config, Listen, ModelRef
from ai102_server.errors import ModelError, RequestError, ServerError
from ai102_server.serving.control import READY, Channel, Coordinator, WorkerLink, WorkerMember, refs_from_json
from ai102_server.serving.engines import Engines
from ai102_server.serving.models import change_models, wanted_models
from ai102_server.serving.systemd import Notifier, inherited_sockets
from ai102_server.serving.tls import check_tls
from ai102_server.telemetry import TelemetryShared
from ai102_server.telemetry.logs import logging_config

if TYPE_CHECKING:
    from ai102_server.access import AccessShared
    from ai102_server.service import Service

__all__ = ["serve"]

logger = logging.getLogger(__name__)

# Workers load what Granian itself calls, and no application of WSGI: see ``api.wsgi``.
granian.server.mp._wsgi_call_wrap = lambda callback, _scope_opts, _log_format: callback

SPARE_THREADS: Final = 4
"""Threads beyond those that read or run inference, so that health and metrics always find one."""
THREADS_IDLE_SECONDS: Final = 10**9
"""Threads never end: those that are parked would be the ones left."""
BEAT_SECONDS: Final = 2.0
HANG_BEATS: Final = 5
MINIMUM_HANG_SECONDS: Final = 1.0
MAX_CONNECTIONS: Final = 4096
"""Connections that a worker holds at a time. Most are kept alive by gateways and idle."""
GARBAGE_THRESHOLD: Final = 20_000
"""Containers made and not freed before the collector looks at the young ones."""
FAILED: Final = "failed"


def serve(config: Config) -> int:
    """Run the service until it is told to stop. Returns the exit status; raises ``ServerError`` before it begins."""
    # Granian forks its worker only with this method, and the worker needs the pipe and the socket it inherits.
    multiprocessing.set_start_method("fork", force=True)
    if config.listen.tls is not None:
        check_tls(config.listen.tls)
    notifier = Notifier.take(os.environ)
    listener, activated = _listener(config.listen)
    supervisor = Supervisor(config, listener, activated, notifier)
    try:
        supervisor.run()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    finally:
        if not activated and config.listen.uds is not None:
            config.listen.uds.unlink(missing_ok=True)
    return 0


# --------------------------------------------------------------------------------------------------------------------
# Sockets
# --------------------------------------------------------------------------------------------------------------------
def _listener(listen: Listen) -> tuple[socket.socket, bool]:
    """The socket to accept on, and whether systemd handed it over (it listens already then)."""
    given = inherited_sockets(os.environ)
    if len(given) > 1:
        raise ServerError(f"systemd handed over {len(given)} sockets; the socket unit must have one ListenStream=")
    if given:
        if given[0].type != socket.SOCK_STREAM:
            raise ServerError("the socket handed over by systemd is not a stream socket: use ListenStream=")
        return given[0], True
    return (_bind_uds(listen.uds, listen.uds_mode) if listen.uds is not None else _bind_tcp(listen)), False


def _bind_tcp(listen: Listen) -> socket.socket:
    where = f"{listen.host} port {listen.port}"
    try:
        family, kind, protocol, _name, address = socket.getaddrinfo(
            listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        # A restart must not wait for connections of the last run to time out.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Without SO_REUSEPORT this fails when somebody listens there already.
        listener.bind(address)
        # The sockets of the workers have it, which would let a second server that is still loading share the address.
        claim = socket.socket(socket.AF_UNIX)
        claim.bind(f"\0ai102_server {listener.getsockname()}".encode())
        _CLAIMS.append(claim)
    except OSError as error:
        raise ServerError(f"cannot listen on {where}: {error.strerror or error}") from error
    return listener


_CLAIMS: Final[list[socket.socket]] = []
"""Names that say which addresses are ours, as long as this process lives."""


def _share_of(listener: socket.socket) -> socket.socket:
    """One more socket at the address that ``listener`` holds, for one worker."""
    share = socket.socket(listener.family, listener.type)
    share.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    share.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    share.bind(listener.getsockname())
    return share


def _bind_uds(path: Path, mode: int) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
            # Left by a run that was killed, unless somebody answers.
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                try:
                    probe.connect(str(path))
                except ConnectionRefusedError:
                    path.unlink()
        listener.bind(str(path))
        path.chmod(mode)
    except OSError as error:
        raise ServerError(f"cannot listen on {path}: {error.strerror or error}") from error
    return listener


# --------------------------------------------------------------------------------------------------------------------
# Supervisor
# --------------------------------------------------------------------------------------------------------------------
class Supervisor(MPServer):  # type: ignore[misc]  # Granian's servers are not typed
    """Granian's process supervisor with a socket that exists already, and with systemd told what happens."""

    def __init__(self, config: Config, listener: socket.socket, activated: bool, notifier: Notifier) -> None:
        tls = config.listen.tls
        super().__init__(
            "ai102_server",
            address=config.listen.host,
            port=config.listen.port,
            interface=Interfaces.WSGI,
            workers=config.plan_workers(),
            blocking_threads=1,
            http=HTTPModes.http1,
            # One thread for the connections of a worker, without another to hand them to. But then one that is accepted
            # in the very moment of a stop is closed unread: not where connections are to wait for the next process.
            runtime_mode=RuntimeModes.mt if activated else RuntimeModes.st,
            websockets=False,
            backlog=config.listen.backlog,
            backpressure=MAX_CONNECTIONS,
            log_level=LogLevels.warning,
            log_dictconfig=logging_config(config.log.level, config.privacy.masker()),
            ssl_cert=tls.certificate if tls else None,
            ssl_key=tls.key if tls else None,
            ssl_protocol_min=SSLProtocols.tls12 if tls and tls.minimum_version == "1.2" else SSLProtocols.tls13,
            ssl_ca=tls.client_ca if tls else None,
            ssl_client_verify=bool(tls and tls.client_ca),
            workers_kill_timeout=config.limits.drain_seconds,
        )
        self._config = config
        self._listener = listener
        self._activated = activated
        self._notifier = notifier
        self._stopping = False
        self._members: dict[int, _Seat] = {}
        self._problems: list[str] = []
        self._ready: set[int] = set()
        # Everything that workers share is made before the first of them.
        self._telemetry = TelemetryShared.create(config, self.workers)
        self._access = Access.share(config.access)
        models = [ModelRef(item.name, item.version, item.path) for item in wanted_models(config)]
        self._coordinator = Coordinator(models, self._serving_members, lambda: wanted_models(config))
        # What one process holds only to hand it to a child must not come into another child.
        self._forking = threading.Lock()
        self._engines = Engines(config, self._beat_seconds(), self._patience(), self._forking, self._channels)

    def run(self) -> None:
        """Serve until a signal ends it. Raises ``SystemExit`` when a worker failed at the start."""
        try:
            self.serve(target_loader=_no_loader, wrap_loader=False)
        finally:
            self._engines.stop()

    # What Granian calls ------------------------------------------------------------------------------------------
    def _init_shared_socket(self) -> None:
        self._use(self._listener)

    def _use(self, listener: socket.socket) -> None:
        """Have the workers that are spawned from now on accept on this socket."""
        self._ssp = None
        listener.setblocking(False)
        is_uds = listener.family == socket.AF_UNIX
        if not is_uds:
            # Connections inherit it. Without it an answer of more than one packet waits for the peer's delayed
            # acknowledgement: 40 ms for 2 ms of work.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Only its number: Granian never closes it.
        self._shd = SocketHolder(listener.fileno(), is_uds, self.backlog)
        self._sfd = listener.fileno()
        self._sso = listener

    def startup(self, spawn_target: object, target_loader: object) -> None:
        """Start the workers."""
        # Set here and not in the constructor: Granian warns of more threads than cores, but most of these are parked.
        self.blocking_threads = self._config.plan_admitted() + SPARE_THREADS
        # Set here for a like reason: it wants no more than ten minutes.
        self.blocking_threads_idle_timeout = THREADS_IDLE_SECONDS
        self._engines.start()
        super().startup(spawn_target, target_loader)
        threading.Thread(target=self._watch_workers, name="worker-watch", daemon=True).start()
        if self._config.store.path is not None and self._config.store.poll_seconds:
            threading.Thread(target=self._watch_store, name="store-watch", daemon=True).start()

    def _spawn_worker(self, idx: int, target: object, callback_loader: object) -> WorkerProcess:  # noqa: ARG002
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._forking)
            return self._prepared_worker(idx, target, stack)

    def _prepared_worker(self, idx: int, target: object, forking: contextlib.ExitStack) -> WorkerProcess:
        """A worker that can be started; ``forking`` is left when it has been."""
        ours, theirs = Channel.pair()
        seat = _Seat(idx, ours, self._coordinator.active)
        self._members[idx] = seat
        listener = self._listener
        if not self._activated and listener.family != socket.AF_UNIX:
            listener = _share_of(listener)
            self._use(listener)
        worker = Worker(
            replace(self._config, models=seat.models),
            listener,
            activated=self._activated,
            index=idx,
            channel=theirs,
            others=[*self._channels(), *self._engines.channels],
            beat_seconds=self._beat_seconds(),
            shared=(self._telemetry, self._access, self._engines.addresses),
        )
        process: WorkerProcess = super()._spawn_worker(idx, target, worker.load)
        start = process.start
        if listener is not self._listener:
            # The worker's alone: what it has not accepted when it dies must not wait for it.
            forking.callback(listener.close)
        forking.callback(theirs.close)
        begun = forking.pop_all()

        def start_and_listen() -> None:
            with begun:
                start()
            seat.pid = process.inner.pid
            threading.Thread(target=self._listen_to, args=(seat,), name=f"worker-{idx}", daemon=True).start()

        process.start = start_and_listen
        return process

    def signal_handler_interrupt(self, *_args: object) -> None:
        """SIGTERM or SIGINT: drain. The second one does not wait for the notice period."""
        again, self._stopping = self._stopping, True
        logger.info("stopping", extra={"drain_seconds": self._config.limits.drain_seconds})
        self._notifier.send("STOPPING=1", "STATUS=Finishing requests in flight")
        for seat in list(self._members.values()):
            with contextlib.suppress(OSError):
                seat.channel.send(do="drain")
        notice = self._config.limits.drain_notice_seconds
        if again or not notice:
            super().signal_handler_interrupt()
            return
        timer = threading.Timer(notice, super().signal_handler_interrupt)
        timer.daemon = True
        timer.start()

    def signal_handler_reload(self, *_args: object) -> None:
        """SIGHUP: Granian would replace the workers whether the new ones come up or not, so nothing is done."""
        logger.warning("SIGHUP is ignored: restart the service to read its configuration and certificates again")

    # What workers say --------------------------------------------------------------------------------------------
    def _beat_seconds(self) -> float:
        seconds = self._notifier.watchdog_seconds
        return BEAT_SECONDS if seconds is None else min(BEAT_SECONDS, seconds / 3)

    def _patience(self) -> float:
        """Seconds without a sign of life after which a process hangs."""
        return max(HANG_BEATS * self._beat_seconds(), MINIMUM_HANG_SECONDS)

    def _channels(self) -> list[Channel]:
        return [seat.channel for seat in list(self._members.values())]

    def _serving_members(self) -> list[WorkerMember]:
        return [seat.member for seat in list(self._members.values()) if seat.ready]

    def _listen_to(self, seat: _Seat) -> None:
        while (message := seat.channel.receive()) is not None:
            seat.heard = time.monotonic()
            event = message.get("event")
            if event == READY:
                self._worker_is_ready(seat, message)
            elif event == FAILED:
                self._notifier.send(f"STATUS={message['status']}")
            elif event == "done":
                seat.member.done(message)
            elif event == "ask":
                threading.Thread(target=self._do, args=(seat, message), daemon=True).start()
        seat.ready = False
        seat.member.gone()
        seat.channel.close()

    def _worker_is_ready(self, seat: _Seat, message: dict[str, Any]) -> None:
        self._ready.add(seat.index)
        seat.ready = True
        # Models may have changed while it loaded. On a thread of its own: this one hears the worker's answers.
        threading.Thread(target=self._coordinator.bring, args=(seat.member, seat.models), daemon=True).start()
        if len(self._ready) < self.workers:
            return
        # From now on a worker that dies is replaced; before, it would only fail again.
        self.respawn_failed_workers = True
        self._notifier.send("READY=1", f"STATUS={message['status']}", "WATCHDOG=1")

    def _do(self, seat: _Seat, message: dict[str, Any]) -> None:
        answer: dict[str, Any] = {}
        try:
            change_models(self._coordinator, self._config, message["what"], message["name"])
        except RequestError as error:
            answer = {"status": error.status, "message": error.message}
        except Exception:
            logger.exception("a change of models failed", extra={"change": message["what"], "model": message["name"]})
            answer = {"status": 500, "message": "the models could not be changed: see the log of the service"}
        with contextlib.suppress(OSError):
            seat.channel.send(do="answer", id=message["id"], **answer)

    def _watch_workers(self) -> None:
        """Feed systemd's watchdog, and end workers that have not been heard of: they are replaced then."""
        patience = self._patience()
        while True:
            time.sleep(self._beat_seconds())
            self._notifier.send("WATCHDOG=1")
            self._engines.check()
            now = time.monotonic()
            for seat in list(self._members.values()):
                if seat.ready and seat.pid and now - seat.heard > patience:
                    logger.error("a worker hangs and is replaced", extra={"worker": seat.index, "pid": seat.pid})
                    seat.ready = False
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(seat.pid, signal.SIGKILL)

    def _watch_store(self) -> None:
        """Serve new versions as they come. What cannot be read is said once, and looked at again."""
        said = ""
        while not self._stopping:
            time.sleep(self._config.store.poll_seconds)
            if len(self._ready) < self.workers:
                continue
            try:
                self._coordinator.poll()
                said = ""
            except ModelError as error:
                if str(error) != said:
                    message = "the model store cannot be read; what was served still is"
                    logger.error(message, extra={"reason": str(error)})  # noqa: TRY400 - the reason is all there is to say
                said = str(error)


class _Seat:
    """What the supervisor knows of one worker."""

    def __init__(self, index: int, channel: Channel, models: tuple[ModelRef, ...]) -> None:
        self.index: Final = index
        self.channel: Final = channel
        self.models: Final = models
        self.member: Final = WorkerMember(channel)
        self.pid: int | None = None
        self.ready = False
        self.heard = time.monotonic()


def _no_loader() -> None:
    raise NotImplementedError("each worker has a loader of its own")


# --------------------------------------------------------------------------------------------------------------------
# Worker
# --------------------------------------------------------------------------------------------------------------------
class Worker:
    """What runs in a process that answers. Created in the supervisor, used after the fork.

    ``others`` are the supervisor's ends of all channels, which came along with the fork: with them held here too, no
    worker would ever learn that the supervisor is gone.
    """

    def __init__(
        self,
        config: Config,
        listener: socket.socket,
        *,
        activated: bool,
        index: int,
        channel: Channel,
        others: Sequence[Channel],
        beat_seconds: float,
        shared: tuple[TelemetryShared, AccessShared, Mapping[int, bytes]],
    ) -> None:
        self._shared = shared
        self._config = config
        self._listener = listener
        self._activated = activated
        self._index = index
        self._channel = channel
        self._others = others
        self._beat_seconds = beat_seconds
        self._service: Service | None = None

    def load(self) -> Callable[..., Any]:
        """Load everything, and only then listen. Ends the process when that fails and ``start`` is strict."""
        # The supervisor's handlers came along with the fork; Granian installs its own when it starts to serve.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        for channel in self._others:
            channel.close()
        handlers = {"drain": self._drain, "prepare": self._prepare, "activate": self._activate}
        link = WorkerLink(self._channel, self._beat_seconds, handlers, _end_this_process)
        # Imported here: the supervisor stays small, and no library of the engine is used on both sides of a fork.
        from ai102_server.api import Application
        from ai102_server.service import Service, Shared

        try:
            service = Service(self._config, worker=self._index, link=link, shared=Shared(*self._shared))
        except ServerError as error:
            logger.critical("not starting", extra={"reason": str(error)})
            link.tell(FAILED, status=f"Not started: {error}"[:400])
            sys.exit(1)
        problems = service.problems()
        if problems and self._config.start == "strict":
            logger.critical("not starting: models are not ready", extra={"problems": problems})
            link.tell(FAILED, status=f"Not started: {'; '.join(problems)}"[:400])
            sys.exit(1)
        application = Application(service).granian
        self._service = service
        # What is registered with atexit is not called in a process that multiprocessing forked.
        multiprocessing.util.Finalize(None, service.close, exitpriority=0)
        # What was loaded lives as long as the process: the collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        # A request leaves no cycles, so looking for them after every few requests finds nothing.
        gc.set_threshold(GARBAGE_THRESHOLD)
        if not self._activated:
            self._listener.listen(self._config.listen.backlog)
        models = sum(1 for _ in service.registry)
        ready = models - len(problems)
        status = f"Serving {ready} of {models} models" + (f"; {'; '.join(problems)}" if problems else "")
        facts = {"models": ready, "release": self._config.release, "worker": self._index}
        logger.info("serving", extra={"address": str(self._listener.getsockname()), **facts})
        link.tell(READY, status=" ".join(status.split())[:400])
        return application

    def _drain(self, _message: dict[str, Any]) -> None:
        if self._service is not None:
            self._service.draining = True

    def _prepare(self, message: dict[str, Any]) -> dict[str, Any]:
        assert self._service is not None  # noqa: S101 - only workers that serve are asked
        failed = self._service.prepare(refs_from_json(message["models"]))
        return {"failed": [[name, version, reason] for (name, version), reason in failed.items()]}

    def _activate(self, message: dict[str, Any]) -> None:
        assert self._service is not None  # noqa: S101 - only workers that serve are asked
        self._service.activate(refs_from_json(message["models"]))


def _end_this_process() -> None:
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
