"""Installing packages and delivering content on a host. Each call is a run of Ansible, so on one host only."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from run_module import Module
from testinfra.host import Host

testinfra_hosts = ["docker://ai102-mol-artifacts"]


def _files(tmp_path: Path, **contents: bytes) -> list[dict[str, Any]]:
    """Write files on the control node; return them as entries of ``content``."""
    entries = []
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        entries.append({"path": name, "sha256": hashlib.sha256(content).hexdigest(), "src": str(tmp_path / name)})
    return entries


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


def test_content_is_transferred_once(host: Host, module: Module, tmp_path: Path) -> None:
    """A second directory with the same content costs no transfer, a third only what is new."""
    one, two = _files(tmp_path, one=b"first", two=b"second")
    assert module("content", dest="/opt/content/1", files=[one], expect="changed")["transferred"] == 1
    assert module("content", dest="/opt/content/1", files=[one], expect="ok")["transferred"] == 0
    assert module("content", dest="/opt/content/2", files=[one], expect="changed")["transferred"] == 0
    assert module("content", dest="/opt/content/3", files=[one, two], expect="changed")["transferred"] == 1
    assert host.check_output("stat -c %h /opt/content/1/one") == "4"
    host.check_output("rm -r /opt/content/1 /opt/content/2")
    module("content", dest="/opt/content/3", state="absent", expect="changed")
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


def test_content_that_is_not_what_it_says_is_refused(host: Host, module: Module, tmp_path: Path) -> None:
    """A file whose sha256 is another one is not sent at all."""
    (entry,) = _files(tmp_path, a=b"good")
    (tmp_path / "a").write_bytes(b"evil")
    result = module("content", dest="/opt/evil/1", files=[entry], expect="failed")
    assert "has changed since it was described" in result["msg"]
    assert not host.file("/opt/evil/1").exists
