"""A host without GPUs is left alone; repositories and changes of packages are tried on it with small packages.

The repository is made here, with a key of its own: NVIDIA's cannot be reached from everywhere this runs. What apt makes
of the files is real.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from applied_role import PROJECT, Apply, packages
from run_module import Module
from testinfra.host import Host

testinfra_hosts = ["docker://ai102-mol-nvidia-driver-none"]
NAME = "ai102-mol-nvidia-driver-none"
PATH = "/var/lib/ai102/demo"
MEMBERS = ["demo-driver", "demo-library"]

# Two packages that need each other's version, as those of a driver do; the last version cannot be configured.
BUILD = r"""
set -eu
rm -rf /srv/repository; mkdir -p /srv/repository
GNUPGHOME=$(mktemp -d); export GNUPGHOME
gpg --batch --quiet --passphrase '' --quick-generate-key 'Test <test@example.com>' ed25519 sign never
build() {
  mkdir -p "/tmp/p/$1/DEBIAN"
  printf 'Package: %s\nVersion: %s\nArchitecture: all\nMaintainer: Test <test@example.com>\nDescription: test\n%s' \
    "$1" "$2" "$3" > "/tmp/p/$1/DEBIAN/control"
  if [ -n "$4" ]; then
    printf '#!/bin/sh\n%s\n' "$4" > "/tmp/p/$1/DEBIAN/postinst"; chmod 755 "/tmp/p/$1/DEBIAN/postinst"
  fi
  dpkg-deb --build --root-owner-group "/tmp/p/$1" /srv/repository > /dev/null; rm -rf /tmp/p
}
for version in 535.1-1 580.1-1 580.2-1; do
  build demo-driver $version "Depends: demo-library (= $version)
" ""
  build demo-library $version "" ""
done
mkdir -p /tmp/log
build demo-driver 595.1-1 "Depends: demo-library (= 595.1-1)
" "mkdir -p /tmp/log; echo '/build/nv.c:7:1: error: no such thing' > /tmp/log/make.log; exit 1"
build demo-library 595.1-1 "" ""
cd /srv/repository
apt-ftparchive packages . > Packages
apt-ftparchive -o APT::FTPArchive::Release::Label='Demo Vendor' release . > Release
gpg --batch --yes --clearsign -o InRelease Release
gpg --armor --export > key.asc
gpg --with-colons --fingerprint | awk -F: '/^fpr/ {print $10; exit}' > fingerprint
gpgconf --kill all
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A signed repository on the host, as a site would declare it."""
    subprocess.run(["docker", "exec", "-i", NAME, "sh"], input=BUILD, text=True, check=True, capture_output=True)
    key = tmp_path_factory.mktemp("key") / "key.asc"
    for name in ("key.asc", "fingerprint"):
        subprocess.run(["docker", "cp", f"{NAME}:/srv/repository/{name}", str(key.with_name(name))], check=True)
    yield {
        "uri": "file:///srv/repository",
        "key_file": str(key),
        "fingerprint": key.with_name("fingerprint").read_text().strip(),
    }


def _declare(module: Module, tmp_path: Path, entry: dict[str, Any], expect: str = "", **options: Any) -> dict[str, Any]:
    return module(
        "package_repository",
        expect=expect,
        name="demo",
        own_repositories={"demo": entry},
        cache_dir=str(tmp_path / "cache"),
        preferences=[{"packages": "*", "pin": "release l=Demo Vendor", "priority": 100}],
        **options,
    )


def _change(module: Module, expect: str, **options: Any) -> dict[str, Any]:
    return module(
        "package_transaction", expect=expect, path=PATH, members=MEMBERS, logs=["/tmp/log/make.log"], **options
    )


def test_a_host_without_gpus_is_left_alone(host: Host, as_prepared: set[str]) -> None:
    assert packages(host) == as_prepared
    assert not host.file("/etc/modprobe.d/ai102-nvidia.conf").exists
    assert not host.file("/var/lib/ai102").exists


def test_a_host_that_should_have_gpus_is_refused(apply: Apply) -> None:
    done = apply(nvidia_driver_gpus=2)
    assert done.returncode != 0
    assert "Nothing was changed" in done.flat
    assert done.changed == 0


def test_a_repository_with_another_key_is_refused(
    module: Module, host: Host, repository: dict[str, Any], tmp_path: Path
) -> None:
    wrong = {**repository, "fingerprint": "EB693B3035CD5710E231E123A4B469963BF863CC"}
    answer = _declare(module, tmp_path, wrong, "failed")
    assert "is not trusted" in answer["msg"]
    assert not host.file("/etc/apt/sources.list.d/ai102-demo.sources").exists


def test_a_repository_that_cannot_be_read_is_taken_back(
    module: Module, host: Host, repository: dict[str, Any], tmp_path: Path
) -> None:
    answer = _declare(module, tmp_path, {**repository, "uri": "file:///srv/nothing"}, "failed")
    assert "cannot be read" in answer["msg"]
    for path in ("sources.list.d/ai102-demo.sources", "keyrings/ai102-demo.asc", "preferences.d/ai102-demo"):
        assert not host.file(f"/etc/apt/{path}").exists


def test_apt_knows_the_repository(module: Module, host: Host, repository: dict[str, Any], tmp_path: Path) -> None:
    _declare(module, tmp_path, repository, "changed")
    _declare(module, tmp_path, repository, "ok")
    targets = host.check_output("apt-get indextargets --format '$(REPO_URI)'").splitlines()
    assert "file:/srv/repository/" in targets
    sources = host.file("/etc/apt/sources.list.d/ai102-demo.sources").content_string
    assert "Signed-By: /etc/apt/keyrings/ai102-demo.asc" in sources
    assert " 100 file:/srv/repository" in host.check_output("apt-cache policy")
    assert oct(host.file("/etc/apt/keyrings/ai102-demo.asc").mode) == "0o644"


def test_nvidia_s_repository_is_written_as_apt_reads_it(module: Module, host: Host, tmp_path: Path) -> None:
    """The lock's own entry, up to the moment when the network would be needed."""
    lock = yaml.safe_load((PROJECT / "roles/artifacts/files/lock.yml").read_text())
    sys.path.insert(0, str(PROJECT / ".collections"))
    resolve = import_module("ansible_collections.ai102.inference.plugins.module_utils._repositories").resolve
    for codename in ("bookworm", "trixie", "jammy", "noble"):
        told = resolve("nvidia-cuda", lock["repositories"], {}, codename, [])
        host.check_output(
            f"mkdir -p /tmp/apt/{codename} && cat > /tmp/apt/{codename}/x.sources <<'E'\n{told.sources()}E"
        )
        listed = host.check_output(
            "apt-get update --print-uris -o Dir::Etc::sourcelist=/dev/null"
            f" -o Dir::Etc::sourceparts=/tmp/apt/{codename}"
        )
        assert f"'{told.uri}InRelease'" in listed


def test_a_version_is_chosen_held_and_recorded(module: Module, host: Host) -> None:
    done = _change(module, "changed", packages=["demo-driver"], version="580.1-*")
    assert done["added"] == ["demo-driver", "demo-library"]
    assert done["versions"] == {"demo-driver": "580.1-1", "demo-library": "580.1-1"}
    assert done["held"] == ["demo-driver", "demo-library"]
    assert host.check_output("apt-mark showauto demo-library") == "demo-library"
    _change(module, "ok", packages=["demo-driver"], version="580.1-*")
    _change(module, "ok", packages=["demo-driver"], version="580.1-*", update=True)


def test_an_upgrade_and_the_way_back_without_the_repository(module: Module, host: Host) -> None:
    done = _change(module, "changed", packages=["demo-driver"], version="580.*", update=True)
    assert done["replaced"] == ["demo-driver", "demo-library"]
    host.check_output("mv /srv/repository /srv/away")
    try:
        back = _change(module, "changed", state="previous")
    finally:
        host.check_output("mv /srv/away /srv/repository")
    assert back["versions"] == {"demo-driver": "580.1-1", "demo-library": "580.1-1"}
    assert back["held"] == ["demo-driver", "demo-library"]
    assert "Pin: version 580.1-*" in host.check_output("cat /etc/apt/preferences.d/*")
    assert host.check_output("apt-mark showauto demo-library") == "demo-library"


def test_a_downgrade(module: Module) -> None:
    done = _change(module, "changed", packages=["demo-driver"], version="535.*", update=True)
    assert done["versions"]["demo-driver"] == "535.1-1"
    _change(module, "changed", state="previous")


def test_a_change_that_fails_is_undone_at_once(module: Module, host: Host) -> None:
    before = packages(host)
    answer = _change(module, "failed", packages=["demo-driver"], version="595.*", update=True)
    assert answer["restored"]
    assert "nv.c:7:1: error: no such thing" in answer["msg"]
    assert "everything is as it was before" in answer["msg"]
    assert packages(host) == before
    assert "595" not in host.check_output("cat /etc/apt/preferences.d/*")
    assert host.check_output("dpkg --audit") == ""


def test_what_somebody_else_holds_is_not_touched(module: Module, host: Host) -> None:
    host.check_output("apt-mark unhold demo-driver && rm /var/lib/ai102/demo/held.json && apt-mark hold demo-driver")
    answer = _change(module, "failed", packages=["demo-driver"], version="580.2-*", update=True)
    assert "somebody has put it on hold" in answer["msg"]
    host.check_output("apt-mark unhold demo-driver")
    _change(module, "changed", packages=["demo-driver"], version="580.1-*")


def test_what_cannot_be_returned_to_is_not_changed(module: Module, host: Host) -> None:
    host.check_output(
        "rm -f /var/lib/ai102/demo/packages/*.deb && mv /srv/repository/demo-driver_580.1-1_all.deb /root"
    )
    try:
        answer = _change(module, "failed", packages=["demo-driver"], version="580.2-*", update=True)
        assert "there would be no way back" in answer["msg"]
    finally:
        host.check_output("mv /root/demo-driver_580.1-1_all.deb /srv/repository")


def test_everything_goes_again(module: Module, host: Host, as_prepared: set[str], tmp_path: Path) -> None:
    done = _change(module, "changed", state="absent")
    assert done["removed"] == ["demo-driver", "demo-library"]
    module("package_repository", expect="changed", name="demo", state="absent", cache_dir=str(tmp_path))
    _change(module, "ok", state="absent")
    assert packages(host) == as_prepared
    assert not host.file(PATH).exists
    assert "demo" not in host.check_output("ls /etc/apt/sources.list.d /etc/apt/preferences.d /etc/apt/keyrings")
