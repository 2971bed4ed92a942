"""What the role ``artifacts`` leaves on a host, and what its modules do to it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from run_module import PROJECT, Module
from testinfra.host import Host


@pytest.fixture
def environment(host: Host) -> str:
    """Return the path of the environment."""
    found = host.check_output("ls -d /opt/ai102/environments/*").splitlines()
    assert len(found) == 1
    return str(found[0])


def _files(tmp_path: Path, **contents: bytes) -> list[dict[str, Any]]:
    """Write files on the control node; return them as entries of ``content``."""
    entries = []
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        entries.append({"path": name, "sha256": hashlib.sha256(content).hexdigest(), "src": str(tmp_path / name)})
    return entries


def test_the_server_and_its_runtime_work(host: Host, environment: str) -> None:
    """The environment computes, with the host's own Python."""
    code = (
        "import ai102_server, numpy, onnxruntime, granian, flask, sys;"
        "print(onnxruntime.get_available_providers()[-1], '%d.%d' % sys.version_info[:2])"
    )
    version = host.check_output("/usr/bin/python3 -c \"import sys; print('%d.%d' % sys.version_info[:2])\"")
    assert host.check_output(f'{environment}/bin/python -I -c "{code}"') == f"CPUExecutionProvider {version}"
    assert host.run(f"{environment}/bin/ai102-server --help").rc == 0


def test_what_is_installed_is_what_is_locked(host: Host, environment: str) -> None:
    """Every project of the lock is installed in the locked version, and nothing else but our own and the installer."""
    record = json.loads(host.file(f"{environment}/.complete.json").content_string)
    lock = PROJECT / f"roles/artifacts/files/python/server-cpu-cp{record['python'].replace('.', '')}.txt"
    lines = [line.split(" ")[0] for line in lock.read_text().splitlines() if not line.startswith("#")]
    locked = dict(line.split("==") for line in lines)
    installed = {name.lower().replace("_", "-"): version for name, version in record["versions"].items()}
    assert {name: installed.get(name) for name in locked} == locked
    assert set(installed) - set(locked) <= {"ai102-server", "pip", "setuptools"}


def test_wheels_are_on_the_disk_once(host: Host, environment: str) -> None:
    """A wheel and its blob are the same file."""
    digest = environment.rpartition("/")[2]
    links = host.check_output(f"stat -c %h /var/lib/ai102/wheelhouses/{digest}/*").splitlines()
    assert len(links) > 15
    assert {"1"}.isdisjoint(links)


def test_a_daemon_is_not_started_by_its_installation(host: Host, module: Module) -> None:
    """Nginx is installed by the set, listens nowhere, and installing it again changes nothing."""
    options = {"sets": {"gateway": {"all": ["nginx-light"]}}, "names": ["gateway"]}
    module("package_set", expect="changed", **options)
    assert host.package("nginx-light").is_installed
    assert not host.service("nginx").is_running
    assert not host.file("/usr/sbin/policy-rc.d").exists
    module("package_set", expect="ok", **options)


def test_a_package_that_does_not_exist_is_named(module: Module) -> None:
    """The message says which package could not be installed."""
    result = module("package_set", sets={"x": {"all": ["no-such-package-ai102"]}}, names=["x"], expect="failed")
    assert "cannot install no-such-package-ai102" in result["msg"]


def test_a_bundle_is_a_source(host: Host) -> None:
    """The file of the lock, whose address does not exist, came from the bundle."""
    assert host.file("/opt/greeting/1/greeting.txt").content_string == "hello from the bundle\n"
    assert host.file("/opt/greeting/1/greeting.txt").mode == 0o444


def test_content_is_transferred_once(host: Host, module: Module, tmp_path: Path) -> None:
    """A second directory with the same content costs no transfer, a third only what is new."""
    one, two = _files(tmp_path, one=b"first " + host.backend.name.encode(), two=b"second")
    try:
        assert module("content", dest="/opt/content/1", files=[one], expect="changed")["transferred"] == 1
        assert module("content", dest="/opt/content/1", files=[one], expect="ok")["transferred"] == 0
        assert module("content", dest="/opt/content/2", files=[one], expect="changed")["transferred"] == 0
        assert module("content", dest="/opt/content/3", files=[one, two], expect="changed")["transferred"] == 1
        assert host.check_output("stat -c %h /opt/content/1/one") == "4"
    finally:
        for number in ("1", "2", "3"):
            module("content", dest=f"/opt/content/{number}", state="absent")
    assert not host.file(f"/var/lib/ai102/blobs/{one['sha256']}").exists


def test_content_does_not_change_under_its_name(host: Host, module: Module, tmp_path: Path) -> None:
    """Other content for the same directory is refused, a damaged directory as well, until it may be replaced."""
    (old,) = _files(tmp_path, a=b"old")
    module("content", dest="/opt/immutable/1", files=[old], expect="changed")
    (new,) = _files(tmp_path, a=b"new")
    result = module("content", dest="/opt/immutable/1", files=[new], expect="failed")
    assert "must not change: a: other content" in result["msg"]
    assert host.file("/opt/immutable/1/a").content_string == "old"
    module("content", dest="/opt/immutable/1", files=[new], replace=True, expect="changed")
    assert host.file("/opt/immutable/1/a").content_string == "new"
    module("content", dest="/opt/immutable/1", state="absent", expect="changed")


def test_content_that_is_not_what_it_says_is_refused(host: Host, module: Module, tmp_path: Path) -> None:
    """A file whose sha256 is another one is not sent at all."""
    (entry,) = _files(tmp_path, a=b"good")
    (tmp_path / "a").write_bytes(b"evil")
    result = module("content", dest="/opt/evil/1", files=[entry], expect="failed")
    assert "has changed since it was described" in result["msg"]
    assert not host.file("/opt/evil/1").exists
