# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""The processes of the service.

Two of them: the *supervisor*, which owns the socket and speaks with systemd, and one *worker*, forked by Granian, which
loads the models and answers. The worker tells the supervisor through a pipe that it is ready, why it is not, and, as
long as it lives, that it lives. So only the main process notifies systemd (``NotifyAccess=main`` will do), and a worker
whose interpreter hangs is noticed by the watchdog. A second pipe leads the other way: it says that the end is near, and
its closing says that the supervisor is gone. It is no signal, because the kernel may deliver the second of two signals
to another thread than the first, and Python's main thread then sleeps on.

A socket of our own is bound by the supervisor, so that an address in use is an error at once, but it listens only when
the models are ready: until then connections are refused and a gateway asks another host. A socket handed over by
systemd listens all the time, so connections wait while the service restarts.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import multiprocessing
import os
import select
import signal
import socket
import stat
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import orjson
from granian._granian import SocketHolder
from granian.constants import HTTPModes, Interfaces, SSLProtocols
from granian.log import LogLevels
from granian.server.mp import MPServer

from ai102_server.config import Config, Listen
from ai102_server.errors import ServerError
from ai102_server.serving.systemd import Notifier, inherited_sockets
from ai102_server.serving.tls import check_tls
from ai102_server.telemetry.logs import logging_config

if TYPE_CHECKING:
    from flask import Flask

    from ai102_server.service import Service

__all__ = ["serve"]

logger = logging.getLogger(__name__)

SPARE_THREADS: Final = 4
"""Threads beyond those that run or wait for inference, so that health and metrics always find one."""
BEAT_SECONDS: Final = 2.0
READY: Final = "ready"
FAILED: Final = "failed"
BEAT: Final = "beat"


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
        # A restart must not wait for connections of the last run to time out. Not SO_REUSEPORT: it would let a second
        # server share the address silently.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise ServerError(f"cannot listen on {where}: {error.strerror or error}") from error
    return listener


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
            workers=1,
            blocking_threads=1,
            http=HTTPModes.http1,
            websockets=False,
            backlog=config.listen.backlog,
            log_level=LogLevels.warning,
            log_dictconfig=logging_config(config.log.level),
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
        self._from_worker, self._status = os.pipe()
        self._control, self._to_worker = os.pipe()
        self._stopping = False

    def run(self) -> None:
        """Serve until a signal ends it. Raises ``SystemExit`` when the worker failed."""
        worker = Worker(
            self._config,
            self._listener,
            self._activated,
            Pipes(self._status, self._control, (self._from_worker, self._to_worker)),
            self._notifier.watchdog_seconds,
        )
        self.serve(target_loader=worker.load, wrap_loader=False)

    # What Granian calls ------------------------------------------------------------------------------------------
    def _init_shared_socket(self) -> None:
        self._ssp = None
        self._listener.setblocking(False)
        is_uds = self._listener.family == socket.AF_UNIX
        if not is_uds:
            # Connections inherit it. Without it an answer of more than one packet waits for the peer's delayed
            # acknowledgement: 40 ms for 2 ms of work.
            self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._shd = SocketHolder(self._listener.fileno(), is_uds, self.backlog)
        self._sfd = self._listener.fileno()
        self._sso = self._listener

    def startup(self, spawn_target: object, target_loader: object) -> None:
        """Start the worker."""
        # Set here and not in the constructor: Granian warns of more threads than cores, but most of these only wait.
        self.blocking_threads = self._config.threads + self._config.limits.queue + SPARE_THREADS
        super().startup(spawn_target, target_loader)

    def _spawn_workers(self, spawn_target: object, target_loader: object) -> None:
        super()._spawn_workers(spawn_target, target_loader)
        os.close(self._status)
        os.close(self._control)
        threading.Thread(target=self._listen_to_worker, name="worker-pipe", daemon=True).start()

    def signal_handler_interrupt(self, *_args: object) -> None:
        """SIGTERM or SIGINT: drain. The second one does not wait for the notice period."""
        again, self._stopping = self._stopping, True
        logger.info("stopping", extra={"drain_seconds": self._config.limits.drain_seconds})
        self._notifier.send("STOPPING=1", "STATUS=Finishing requests in flight")
        with contextlib.suppress(OSError):
            os.write(self._to_worker, b"d")
        notice = self._config.limits.drain_notice_seconds
        if again or not notice:
            super().signal_handler_interrupt()
            return
        timer = threading.Timer(notice, super().signal_handler_interrupt)
        timer.daemon = True
        timer.start()

    def signal_handler_reload(self, *_args: object) -> None:
        """SIGHUP: Granian would replace the worker whether the new one comes up or not, so nothing is done."""
        logger.warning("SIGHUP is ignored: restart the service to read its configuration and certificates again")

    # What the worker says ----------------------------------------------------------------------------------------
    def _listen_to_worker(self) -> None:
        with os.fdopen(self._from_worker, "rb") as stream:
            for line in stream:
                message = orjson.loads(line)
                event = message["event"]
                if event == BEAT:
                    self._notifier.send("WATCHDOG=1")
                elif event == READY:
                    self._notifier.send("READY=1", f"STATUS={message['status']}", "WATCHDOG=1")
                elif event == FAILED:
                    self._notifier.send(f"STATUS={message['status']}")


# --------------------------------------------------------------------------------------------------------------------
# Worker
# --------------------------------------------------------------------------------------------------------------------
class Pipes(NamedTuple):
    """File descriptors of the worker: where it reports, where it is told, and the other ends, which it must close."""

    status: int
    control: int
    others: tuple[int, int]


class Worker:
    """What runs in the process that answers. Created in the supervisor, used after the fork."""

    def __init__(
        self,
        config: Config,
        listener: socket.socket,
        activated: bool,
        pipes: Pipes,
        watchdog_seconds: float | None,
    ) -> None:
        self._config = config
        self._listener = listener
        self._activated = activated
        self._pipes = pipes
        self._service: Service | None = None
        self._beat_seconds = BEAT_SECONDS if watchdog_seconds is None else min(BEAT_SECONDS, watchdog_seconds / 3)

    def load(self) -> Flask:
        """Load everything, and only then listen. Ends the process when that fails and ``start`` is strict."""
        # The supervisor's handlers came along with the fork; Granian installs its own when it starts to serve.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        # With the supervisor's ends held here too, this process would never learn that the supervisor died.
        for descriptor in self._pipes.others:
            os.close(descriptor)
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
        # Imported here: the supervisor stays small, and no library of the engine is used on both sides of a fork.
        from ai102_server.api import create_app
        from ai102_server.service import Service

        service = Service.load(self._config)
        problems = service.problems()
        if problems and self._config.start == "strict":
            logger.critical("not starting: models are not ready", extra={"problems": problems})
            self._tell(FAILED, f"Not started: {'; '.join(problems)}")
            sys.exit(1)
        app = create_app(service)
        self._service = service
        # What was loaded lives as long as the process: the collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        if not self._activated:
            self._listener.listen(self._config.listen.backlog)
        models = sum(1 for _ in service.registry)
        ready = models - len(problems)
        self._tell(READY, f"Serving {ready} of {models} models" + (f"; {'; '.join(problems)}" if problems else ""))
        logger.info(
            "serving",
            extra={"address": str(self._listener.getsockname()), "models": ready, "release": self._config.release},
        )
        return app

    def _tell(self, event: str, status: str = "") -> None:
        # One write of less than PIPE_BUF bytes is atomic, so that threads need no lock.
        line = orjson.dumps({"event": event, "status": " ".join(status.split())[:400]})
        os.write(self._pipes.status, line + b"\n")

    def _beat(self) -> None:
        """Tell the supervisor that this process lives, and listen to it; end this process when it is gone."""
        poller = select.poll()
        poller.register(self._pipes.control, select.POLLIN)
        while True:
            told = poller.poll(self._beat_seconds * 1000)
            try:
                if told and not os.read(self._pipes.control, 64):
                    break
                self._tell(BEAT)
            except OSError:
                break
            if told and self._service is not None:
                self._service.draining = True
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
