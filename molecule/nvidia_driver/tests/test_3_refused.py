"""Debian 13, whose open modules do not build for its kernel: noticed before a restart, and everything is as it was."""

from __future__ import annotations

from applied_role import Apply, packages
from testinfra.host import Host

testinfra_hosts = ["docker://ai102-mol-nvidia-driver-trixie"]


def _nothing_is_left(host: Host, before: set[str]) -> None:
    # What the role needs for its checks stays: they are no part of the driver.
    assert packages(host) == before
    assert host.run("ls /lib/modules/*/updates/dkms /etc/modprobe.d/ai102-nvidia.conf").stdout == ""
    assert host.check_output("apt-mark showhold") == ""
    assert not host.file("/etc/apt/preferences.d/ai102-nvidia-driver").exists
    assert host.check_output("dpkg --audit") == ""


def test_a_missing_component_is_named(apply: Apply, host: Host, as_prepared: set[str]) -> None:
    host.check_output("cp /etc/apt/sources.list /root/sources && sed -i 's/ contrib.*//' /etc/apt/sources.list")
    try:
        done = apply()
    finally:
        host.check_output("cp /root/sources /etc/apt/sources.list")
    assert done.returncode != 0
    assert "gpu.components" in done.flat
    assert "non-free" in done.flat
    _nothing_is_left(host, as_prepared)


def test_a_build_that_fails_is_undone(apply: Apply, host: Host, as_prepared: set[str]) -> None:
    done = apply()
    assert done.returncode != 0
    assert "The driver was refused on ai102-mol-nvidia-driver-trixie" in done.flat
    assert "pci_resize_resource" in done.flat  # what the compiler said
    assert "there is no driver" in done.flat
    assert "What to do" in done.flat
    _nothing_is_left(host, as_prepared)
