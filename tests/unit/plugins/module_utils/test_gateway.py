# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The list of inference hosts, who is drained, what runs, and connections in the kernel's tables."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from ansible_collections.ai102.inference.plugins.module_utils import _gateway as g

CONF = """# Managed
upstream inference {
    zone inference 256k;
    least_conn;
    server 192.0.2.11:8443 weight=1 max_fails=3 fail_timeout=10s; # gpu1
    server [2001:db8::12]:8443 weight=3 max_fails=3 fail_timeout=10s down; # gpu2
    server gpu3.example:8443; # gpu3
    server 192.0.2.11:8443 backup max_fails=0; # gpu1
    keepalive 64;
}
"""


def test_upstreams_are_read() -> None:
    assert g.parse_upstreams(CONF) == [
        g.Upstream("gpu1", "192.0.2.11", 8443, False),
        g.Upstream("gpu2", "2001:db8::12", 8443, True),
        g.Upstream("gpu3", "gpu3.example", 8443, False),
    ]


def test_marking_changes_nothing_else() -> None:
    assert g.mark_down(CONF, ["gpu2"]) == CONF
    marked = g.mark_down(CONF, ["gpu1", "gpu3"])
    assert [u.down for u in g.parse_upstreams(marked)] == [True, False, True]
    assert g.mark_down(marked, ["gpu2"]) == CONF
    changed = [(a, b) for a, b in zip(CONF.splitlines(), marked.splitlines(), strict=True) if a != b]
    assert len(changed) == 4
    assert changed[2] == ("    server gpu3.example:8443; # gpu3", "    server gpu3.example:8443 down; # gpu3")


def test_a_name_that_is_part_of_another_is_not_mistaken() -> None:
    text = "    server 192.0.2.1:1; # gpu1\n    server 192.0.2.11:1; # gpu11\n"
    assert [u.down for u in g.parse_upstreams(g.mark_down(text, ["gpu1"]))] == [True, False]


@pytest.mark.parametrize(
    ("drained", "name", "last"),
    [
        ([], "gpu1", False),
        (["gpu2"], "gpu1", False),
        (["gpu2", "gpu3"], "gpu1", True),
        (["gpu1", "gpu3"], "gpu1", False),
    ],
)
def test_last_active_host(drained: list[str], name: str, last: bool) -> None:
    assert g.without_last_active(g.parse_upstreams(CONF), drained, name) is last


def test_drained_hosts_are_remembered(tmp_path: Path) -> None:
    assert g.read_drained(tmp_path) == []
    g.write_drained(tmp_path, ["b", "a", "b"])
    assert g.read_drained(tmp_path) == ["a", "b"]
    assert [p.name for p in tmp_path.iterdir()] == [g.DRAINED]


@pytest.mark.parametrize("text", ["", "[]", '{"drained": "a"}', '{"drained": [1]}'])
def test_damaged_memory_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / g.DRAINED).write_text(text)
    with pytest.raises(g.GatewayError, match=r"drained\.json"):
        g.read_drained(tmp_path)


def test_two_changes_take_turns(tmp_path: Path) -> None:
    order: list[str] = []
    inside = threading.Event()

    def first() -> None:
        with g.locked(tmp_path, 5):
            inside.set()
            time.sleep(0.2)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait(5)
    with pytest.raises(g.GatewayError, match="held"), g.locked(tmp_path, 0):
        pass
    with g.locked(tmp_path, 5):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]


class FakeHost:
    """A made-up /proc with an Nginx, and a systemctl that does what a test wants."""

    def __init__(self, path: Path) -> None:
        self.proc = path / "proc"
        self.commands: list[Sequence[str]] = []
        self.on_reload: Callable[[], None] = lambda: None
        self.status = 0
        self.log = path / "error.log"
        self.nginx = g.Nginx(self.run, pid_file=path / "nginx.pid", proc=self.proc, error_log=self.log)

    def run(self, command: Sequence[str]) -> tuple[int, str]:
        self.commands.append(command)
        if command[:2] == ["systemctl", "reload"]:
            self.on_reload()
            return self.status, "said systemd" if self.status else ""
        return 0, "a line of the journal\n"

    def process(self, pid: int, title: str, parent: int = 1, start: int = 100, uid: int = 33) -> None:
        # All at once, as the kernel does it: somebody may be looking.
        directory = self.proc / f"new-{pid}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "stat").write_text(f"{pid} (nginx (x)) S {parent} " + "0 " * 17 + f"{start} 0\n")
        (directory / "cmdline").write_bytes(title.encode() + b"\0")
        (directory / "status").write_text(f"Name:\tnginx\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n")
        final = self.proc / str(pid)
        final.mkdir(exist_ok=True)
        for path in directory.iterdir():
            path.replace(final / path.name)
        directory.rmdir()

    def start(self, workers: Sequence[int] = (11, 12), start: int = 100) -> None:
        (self.nginx.pid_file).write_text("10\n")
        self.process(10, "nginx: master process /usr/sbin/nginx -c /etc/ai102/gateway/current/nginx.conf", start=start)
        for pid in workers:
            self.process(pid, "nginx: worker process", parent=10)


@pytest.fixture
def fake(tmp_path: Path) -> FakeHost:
    host = FakeHost(tmp_path)
    host.proc.mkdir()
    return host


def test_master_and_workers(fake: FakeHost) -> None:
    assert fake.nginx.master() is None
    fake.start()
    fake.process(13, "nginx: worker process is shutting down", parent=10)
    fake.process(99, "nginx: worker process", parent=98)  # of another Nginx
    fake.process(97, "nginx: cache manager process", parent=10)
    master = fake.nginx.master()
    assert master is not None
    assert master.start == 100
    assert sorted((w.pid, w.retiring) for w in fake.nginx.workers(master)) == [(11, False), (12, False), (13, True)]


def test_a_reused_process_number_is_no_master(fake: FakeHost) -> None:
    fake.start()
    fake.process(10, "/usr/bin/vim")
    assert fake.nginx.master() is None


def test_reload_is_complete_when_new_workers_serve(fake: FakeHost) -> None:
    fake.start()

    def later() -> None:
        time.sleep(0.15)
        fake.process(21, "nginx: worker process", parent=10)
        time.sleep(0.15)
        for pid in (11, 12):
            fake.process(pid, "nginx: worker process is shutting down", parent=10)

    fake.on_reload = threading.Thread(target=later).start
    started = time.monotonic()
    fake.nginx.reload(5)
    assert time.monotonic() - started >= 0.3


def test_reload_that_is_not_taken_fails(fake: FakeHost) -> None:
    fake.start()
    with pytest.raises(g.GatewayError, match="old workers still serve. a line of the journal"):
        fake.nginx.reload(0.1)


def test_reload_that_is_refused_fails_at_once_with_the_reason(fake: FakeHost) -> None:
    fake.start()
    fake.log.write_text("2026/01/01 [emerg] 1#1: of long ago\n")

    def refuse() -> None:
        with fake.log.open("a") as log:
            log.write("2026/01/02 [emerg] 10#10: bind() to 0.0.0.0:443 failed (98: Address already in use)\n")
            log.write("2026/01/02 [emerg] 10#10: still could not bind()\n")

    fake.on_reload = refuse
    started = time.monotonic()
    with pytest.raises(g.GatewayError, match="still could not bind") as e:
        fake.nginx.reload(30)
    assert time.monotonic() - started < 5
    assert "long ago" not in str(e.value)


def test_a_port_that_is_tried_again_is_no_refusal_yet(fake: FakeHost) -> None:
    fake.start()

    def hesitate() -> None:
        fake.log.write_text("2026/01/02 [emerg] 10#10: bind() to 0.0.0.0:443 failed (98: Address already in use)\n")
        time.sleep(0.1)
        fake.process(21, "nginx: worker process", parent=10)
        for pid in (11, 12):
            fake.process(pid, "nginx: worker process is shutting down", parent=10)

    fake.on_reload = threading.Thread(target=hesitate).start
    fake.nginx.reload(5)


def test_reload_that_systemd_refuses_fails(fake: FakeHost) -> None:
    fake.start()
    fake.status = 1
    with pytest.raises(g.GatewayError, match="said systemd"):
        fake.nginx.reload(5)


TABLE = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:01BB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 0A0200C0:A000 0B0200C0:20FB 01 00000000:00000000 00:00000000 00000000    33        0 2 1 0 20 4 24 10 -1
   2: 0A0200C0:A001 0B0200C0:20FB 02 00000000:00000000 00:00000000 00000000    33        0 3 1 0 20 4 24 10 -1
   3: 0A0200C0:A002 0B0200C0:20FB 06 00000000:00000000 00:00000000 00000000    33        0 0 1 0 20 4 24 10 -1
   4: 0A0200C0:A003 0B0200C0:20FB 01 00000000:00000000 00:00000000 00000000  1000        0 5 1 0 20 4 24 10 -1
   5: 0A0200C0:A004 0C0200C0:20FB 01 00000000:00000000 00:00000000 00000000    33        0 6 1 0 20 4 24 10 -1
   6: 0A0200C0:A005 0B0200C0:01BB 01 00000000:00000000 00:00000000 00000000    33        0 7 1 0 20 4 24 10 -1
"""
TABLE6 = """  sl  local_address                         remote_address                        st  uid
   0: 00000000000000000000000001000000:A000 B80D0120000000000000000012000000:20FB 01 0:0 00:0 0  33  0 9 1 0
"""


@pytest.mark.skipif(sys.byteorder != "little", reason="recorded on a little-endian machine")
def test_connections_of_the_workers(fake: FakeHost) -> None:
    fake.start()
    (fake.proc / "10" / "net").mkdir()
    (fake.proc / "10" / "net" / "tcp").write_text(TABLE)
    (fake.proc / "10" / "net" / "tcp6").write_text(TABLE6)
    # established and being established; not the one that is closing, another user's, another host's, another port's
    assert fake.nginx.connections(["192.0.2.11"], 8443) == 2
    assert fake.nginx.connections(["192.0.2.11", "192.0.2.12"], 8443) == 3
    assert fake.nginx.connections(["2001:db8::12"], 8443) == 1
    assert fake.nginx.connections(["192.0.2.99"], 8443) == 0


def test_waiting_ends_when_nothing_is_left_or_the_time_is_over(fake: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    left = [2, 1, 0, 1, 0, 0, 0]
    monkeypatch.setattr(g.Nginx, "connections", lambda *a: left.pop(0))
    upstream = g.Upstream("gpu1", "192.0.2.11", 8443, True)
    g.wait_until_unused(fake.nginx, upstream, 5)
    assert len(left) == 1  # twice none in a row
    monkeypatch.setattr(g.Nginx, "connections", lambda *a: 3)
    with pytest.raises(g.GatewayError, match="3 connections to gpu1"):
        g.wait_until_unused(fake.nginx, upstream, 0.1)


@pytest.fixture
def gateway(fake: FakeHost, tmp_path: Path) -> g.Gateway:
    store = tmp_path / "etc/ai102/gateway"
    for release in ("one", "two"):
        directory = store / "releases" / release
        directory.mkdir(parents=True)
        (directory / "drop.conf").write_text("[Service]\n")
        service = {"links": {}, "drop_in": "drop.conf", "watch": [str(tmp_path / "cert.pem")], "health": "", "log": ""}
        (directory / g.SERVICE).write_text(json.dumps(service))
    (store / "current").symlink_to("releases/one")
    (tmp_path / "cert.pem").write_text("first")
    return g.Gateway(store, fake.nginx, tmp_path / "record.json")


def action(gateway: g.Gateway) -> str:
    service = g.read_service(gateway.current)
    return gateway.action(service, gateway.wanted(service, gateway.current.readlink().name))


def tell(gateway: g.Gateway) -> None:
    service = g.read_service(gateway.current)
    gateway.remember(gateway.wanted(service, gateway.current.readlink().name))


def test_what_is_to_be_done(gateway: g.Gateway, fake: FakeHost, tmp_path: Path) -> None:
    assert action(gateway) == "start"
    fake.start(start=500)
    assert action(gateway) == "restart"  # runs another configuration: the path in its title is not this one's
    tell(gateway)
    assert action(gateway) == ""
    (tmp_path / "cert.pem").write_text("renewed")
    assert action(gateway) == "reload"
    tell(gateway)
    assert action(gateway) == ""
    gateway.current.unlink()
    gateway.current.symlink_to("releases/two")
    assert action(gateway) == "reload"
    tell(gateway)
    (gateway.current / "drop.conf").write_text("[Service]\nNice=1\n")
    assert action(gateway) == "restart"
    tell(gateway)
    fake.start(start=600)  # another master, which the record does not know
    assert action(gateway) == "restart"


def test_a_master_of_a_later_boot_needs_nothing(gateway: g.Gateway, fake: FakeHost) -> None:
    fake.start()
    title = f"nginx: master process /usr/sbin/nginx -c {gateway.current}/nginx.conf"
    ticks = int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))
    fake.process(10, title, start=ticks + 500)  # after everything was written
    assert action(gateway) == ""
    fake.process(10, title, start=max(ticks - 1000, 0))  # before
    assert action(gateway) == "restart"
    fake.process(
        10, "nginx: master process /usr/sbin/nginx", start=ticks + 500
    )  # with the distribution's configuration
    assert action(gateway) == "restart"


@pytest.mark.parametrize("text", ["", "{}", '{"links": [], "drop_in": "", "watch": [], "health": "", "log": ""}'])
def test_malformed_service_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / g.SERVICE).write_text(text)
    with pytest.raises(g.GatewayError, match=r"service\.json cannot be used"):
        g.read_service(tmp_path)


def test_health_of_nobody_is_told() -> None:
    with pytest.raises(g.GatewayError, match="does not answer"):
        g.wait_healthy("https://127.0.0.1:9/health", 0.1)
    with pytest.raises(g.GatewayError, match="is not an address"):
        g.wait_healthy("http://127.0.0.1/health", 0.1)


def test_names_that_are_unknown_have_no_addresses() -> None:
    assert g.addresses_of("192.0.2.11") == ["192.0.2.11"]
    assert g.addresses_of("does-not-exist.invalid") == []
