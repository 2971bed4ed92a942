# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""The two protocols of systemd a service needs: notification and socket activation. Nothing happens without systemd."""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from typing import Final

__all__ = ["Notifier", "inherited_sockets"]

_FIRST_FD: Final = 3


class Notifier:
    """Sends state to the service manager (``sd_notify``)."""

    def __init__(self, address: str | None, watchdog_seconds: float | None) -> None:
        self._address = address
        self.watchdog_seconds: Final = watchdog_seconds
        """The service must be heard of at least this often; None without a watchdog."""

    @classmethod
    def take(cls, environ: MutableMapping[str, str]) -> Notifier:
        """Build from the environment, and take the variables out, so that no child speaks for the service."""
        address = environ.pop("NOTIFY_SOCKET", None)
        microseconds = environ.pop("WATCHDOG_USEC", None)
        pid = environ.pop("WATCHDOG_PID", None)
        ours = pid is None or pid == str(os.getpid())
        watchdog = int(microseconds) / 1e6 if microseconds and microseconds.isdigit() and ours else None
        return cls(address, watchdog or None)

    def send(self, *lines: str) -> None:
        """Send assignments such as ``READY=1``. A service manager that went away is no reason to fail."""
        if not self._address:
            return
        # A leading @ stands for the abstract namespace.
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.settimeout(1.0)
                channel.connect(address)
                channel.sendall("\n".join(lines).encode())
        except OSError:
            return


def inherited_sockets(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """Listening sockets that systemd handed over (``LISTEN_FDS``); their variables are taken out of the environment."""
    pid, count = environ.pop("LISTEN_PID", None), environ.pop("LISTEN_FDS", None)
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count or not count.isdigit():
        return []
    sockets: list[socket.socket] = []
    for descriptor in range(_FIRST_FD, _FIRST_FD + int(count)):
        os.set_inheritable(descriptor, False)
        sockets.append(socket.socket(fileno=descriptor))
    return sockets
