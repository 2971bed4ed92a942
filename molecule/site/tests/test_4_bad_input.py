"""What is wrong is said before anything is changed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from rolled_out import Play, SiteHost

WATCHED = "/etc /opt /usr /var/lib/ai102 /root"


@pytest.fixture(autouse=True)
def _nothing_changes(hosts: dict[str, SiteHost]) -> Iterator[None]:
    for host in hosts.values():
        host.sh("touch /run/before && sleep 0.05")
    yield
    for host in hosts.values():
        touched = host.sh(
            f"find $(ls -d {WATCHED} 2>/dev/null) -newer /run/before -not -path '*/__pycache__*' "
            "-not -path '/root/.ansible*' -not -type d -print"
        )
        assert not touched, f"{host.name}: {touched}"


def test_a_host_below_its_profile(play: Play) -> None:
    played = play("--extra-vars", "preflight_profile=production")
    assert played.returncode != 0
    assert not played.changed
    for name in ("gateway1", "inference1", "inference2", "ops1"):
        assert name in played.flat
    assert "cores" in played.flat.lower()


def test_a_mistyped_variable(play: Play) -> None:
    played = play("--extra-vars", "gateway_balancng=ip_hash")
    assert played.returncode != 0
    assert not played.changed
    assert "gateway_balancng" in played.flat
    assert "gateway_balancing" in played.flat


def test_a_value_that_is_no_choice(play: Play) -> None:
    played = play("--extra-vars", "gateway_balancing=fastest")
    assert played.returncode != 0
    assert not played.changed
    assert "least_connections" in played.flat


def test_a_missing_secret(play: Play) -> None:
    played = play("--extra-vars", json.dumps({"ai102_secrets_passphrase": "{{ undef(hint='set it in the vault') }}"}))
    assert played.returncode != 0
    assert not played.changed
    assert "ai102_secrets_passphrase" in played.flat


def test_an_unreachable_host(play: Play, tmp_path: Path) -> None:
    inventory = tmp_path / "hosts.yml"
    inventory.write_text(
        "all: {children: {inference_hosts: {hosts: {inference3: "
        "{test_host_address: 198.18.42.99, ansible_ssh_timeout: 3}}}}}\n"
    )
    played = play("--inventory", str(inventory))
    assert played.returncode != 0
    assert not played.changed
    assert "inference3" in played.flat
    assert "reach" in played.flat


def test_a_full_disk(play: Play, hosts: dict[str, SiteHost]) -> None:
    host = hosts["inference1"]
    host.sh(
        "mkdir -p /mnt/full && mount -t tmpfs -o size=4m tmpfs /mnt/full && head -c 3m /dev/zero > /mnt/full/filler"
    )
    try:
        played = play("--extra-vars", json.dumps({"preflight_paths": ["/mnt/full"]}), "--limit", "inference1,localhost")
        assert played.returncode != 0
        assert not played.changed
        assert "/mnt/full" in played.flat
    finally:
        host.sh("umount /mnt/full && rmdir /mnt/full")
