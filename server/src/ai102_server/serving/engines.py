# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""The engine processes, as the supervisor sees them: one for each device, replaced when it dies or hangs.

The supervisor holds the socket of each for as long as it lives. So workers may connect before the process is there, or
while it is replaced: they are answered when it is. An engine process ends when the supervisor tells it to, or is gone;
signals to the group are the supervisor's to understand.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from ai102_server.config import Config
from ai102_server.serving.control import READY, Channel, WorkerLink

__all__ = ["Engines"]

logger = logging.getLogger(__name__)

_BACKLOG: Final = 1024
_STOP_SECONDS: Final = 5.0
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 10.0
_STEADY_SECONDS: Final = 60.0


class _Engine:
    """One of them. ``pause`` before it is started again grows while it dies young.

    ``ready``: it has loaded its libraries, and reports that it lives.
    """

    def __init__(self, device: int) -> None:
        self.device: Final = device
        self.listener: Final = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # A name that the kernel chooses and no file; who connects must be of the same user.
        self.listener.bind("")
        self.listener.listen(_BACKLOG)
        self.process: Any = None
        self.channel: Channel | None = None
        self.ready = False
        self.heard = 0.0
        self.pause = _FIRST_PAUSE


class Engines:
    """Starts engine processes, and replaces them.

    Args:
        config: As the workers have it.
        beat_seconds: How often each reports that it lives.
        patience: After so many seconds without a report it is replaced.
        forking: Held while a process is forked.
        others: Gives the supervisor's ends of the channels of the workers.

    """

    def __init__(
        self,
        config: Config,
        beat_seconds: float,
        patience: float,
        forking: threading.Lock,
        others: Callable[[], Iterable[Channel]],
    ) -> None:
        self._forking: Final = forking
        self._others: Final = others
        self._config: Final = config
        self._beat_seconds: Final = beat_seconds
        self._patience: Final = patience
        self._stopping: Final = threading.Event()
        devices = dict.fromkeys(config.execution.gpus()) if config.execution.engine_processes else {}
        self._engines: Final = [_Engine(device) for device in devices]

    @property
    def addresses(self) -> Mapping[int, bytes]:
        """Sockets by number of the GPU; none when workers have the sessions."""
        return {engine.device: engine.listener.getsockname() for engine in self._engines}

    @property
    def channels(self) -> list[Channel]:
        """The supervisor's ends, which processes that are forked from it must close."""
        return [engine.channel for engine in self._engines if engine.channel is not None]

    def start(self) -> None:
        """Start all."""
        for engine in self._engines:
            self._start(engine)
            threading.Thread(target=self._attend, args=(engine,), name="engine", daemon=True).start()

    def stop(self) -> None:
        """End all; their workers must have ended."""
        with self._forking:
            self._stopping.set()
        for channel in self.channels:
            with contextlib.suppress(OSError):
                channel.send(do="stop", id=0)
        until = time.monotonic() + _STOP_SECONDS
        for engine in self._engines:
            if engine.process is not None:
                engine.process.join(max(until - time.monotonic(), 0))
                if engine.process.is_alive():
                    engine.process.kill()
                    engine.process.join()

    def check(self) -> None:
        """End those that have not been heard of for too long: they are replaced then."""
        now = time.monotonic()
        for engine in self._engines:
            if engine.ready and now - engine.heard > self._patience and engine.process.is_alive():
                logger.error("an engine process hangs and is replaced", extra={"device": engine.device})
                engine.process.kill()

    def _start(self, engine: _Engine) -> None:
        """Start one, unless all are being ended."""
        with self._forking:
            if self._stopping.is_set():
                return
            ours, theirs = Channel.pair()
            # With the supervisor's ends held here too, nobody would learn that it is gone.
            inherited = [*self.channels, *self._others(), ours]
            engine.ready = False
            engine.process = multiprocessing.Process(
                target=_run, args=(self._config, engine.device, engine.listener, theirs, inherited, self._beat_seconds)
            )
            engine.process.start()
            theirs.close()
            engine.channel = ours

    def _attend(self, engine: _Engine) -> None:
        """Hear one, and start it again when it ends."""
        while (channel := engine.channel) is not None:
            started = time.monotonic()
            while (message := channel.receive()) is not None:
                engine.heard = time.monotonic()
                engine.ready = engine.ready or message.get("event") == READY
            engine.ready = False
            engine.process.join()
            engine.channel = None
            channel.close()
            if self._stopping.is_set():
                return
            facts = {"device": engine.device, "exit_status": engine.process.exitcode}
            logger.error("an engine process ended and is started again", extra=facts)
            if time.monotonic() - started > _STEADY_SECONDS:
                engine.pause = _FIRST_PAUSE
            if self._stopping.wait(engine.pause):
                return
            engine.pause = min(2 * engine.pause, _LONGEST_PAUSE)
            self._start(engine)


def _run(
    config: Config,
    device: int,
    listener: socket.socket,
    channel: Channel,
    inherited: list[Channel],
    beat_seconds: float,
) -> None:
    """What the process does."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    for other in inherited:
        other.close()
    # Imported here: no library of the engine is used on both sides of a fork.
    from ai102_server.engine.process.host import EngineHost

    host = EngineHost(config, device)
    stop = threading.Event()

    def told(_message: dict[str, Any]) -> None:
        stop.set()

    def gone() -> None:
        # Workers whose supervisor is gone finish what they have.
        until = time.monotonic() + config.limits.drain_seconds
        while host.lanes and time.monotonic() < until:
            time.sleep(0.05)
        stop.set()

    WorkerLink(channel, beat_seconds, {"stop": told}, gone).tell(READY)
    threading.Thread(target=host.serve, args=(listener,), name="accept", daemon=True).start()
    stop.wait()
    # Its threads wait in system calls, and nothing is left to be written.
    os._exit(0)
