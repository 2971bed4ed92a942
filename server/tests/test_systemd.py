# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from ai102_server.serving.systemd import Notifier, inherited_sockets


@pytest.mark.parametrize("abstract", [False, True])
def test_notification(tmp_path: Path, abstract: bool) -> None:
    name = f"ai102-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}" if abstract else str(tmp_path / name))
        manager.settimeout(5)
        environ = {"NOTIFY_SOCKET": f"@{name}" if abstract else str(tmp_path / name), "WATCHDOG_USEC": "3000000"}
        notifier = Notifier.take(environ)
        assert environ == {}
        assert notifier.watchdog_seconds == 3.0
        notifier.send("READY=1", "STATUS=ok")
        assert manager.recv(1000) == b"READY=1\nSTATUS=ok"


def test_without_systemd(tmp_path: Path) -> None:
    notifier = Notifier.take({})
    assert notifier.watchdog_seconds is None
    notifier.send("READY=1")
    Notifier(str(tmp_path / "gone"), None).send("READY=1")


def test_watchdog_of_another_process() -> None:
    assert Notifier.take({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}).watchdog_seconds is None
    assert Notifier.take({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": str(os.getpid())}).watchdog_seconds == 1.0


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_FDS": "1"},
        {"LISTEN_FDS": "1", "LISTEN_PID": "1"},
        {"LISTEN_FDS": "x", "LISTEN_PID": str(os.getpid())},
        {"LISTEN_FDS": "0", "LISTEN_PID": str(os.getpid())},
    ],
)
def test_sockets_of_others_are_left_alone(environ: dict[str, str]) -> None:
    assert inherited_sockets(environ) == []
    assert environ == {}
