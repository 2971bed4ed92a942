"""Later changes of the host with the driver: another kernel, Secure Boot, programs on the GPUs, removal at last."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from applied_role import Apply, packages
from run_module import Module
from testinfra.host import Host

testinfra_hosts = ["docker://ai102-mol-nvidia-driver"]
PASSWORD = "only-for-tests"

# Stands in for the program that talks to the firmware, which a container does not have.
MOKUTIL = """#!/bin/sh
echo "$@" >> /root/mokutil.calls
case "$1" in
  --list-new) [ -f /root/mok.imported ] && echo '-----BEGIN CERTIFICATE-----'; exit 0 ;;
  --import) test -s "$2" && test "$3" = --hash-file && grep -q '^[$]6[$]' "$4" && touch /root/mok.imported ;;
esac
"""


@pytest.fixture
def hardware(host: Host) -> Iterator[Callable[[str], None]]:
    """Pretend that the host has other hardware, and put back what it had."""
    path = "/etc/ai102-simulated-gpus.json"
    host.check_output(f"cp {path} /root/hardware.json")

    def pretend(name: str) -> None:
        content = (Path(__file__).parents[1] / f"files/{name}.json").read_text()
        host.check_output(f"cat > {path} <<'E'\n{content}E")

    yield pretend
    host.check_output(f"mv /root/hardware.json {path}")


def test_a_later_kernel_gets_its_modules(apply: Apply, module: Module, host: Host) -> None:
    """It came without headers, so that nothing was built for it, and would boot next."""
    release = host.check_output(
        "apt-cache search --names-only '^linux-image-6.1.0-[0-9]+-cloud-amd64$' | awk '{print $1}' | sort -V"
    ).split()[0]
    host.check_output(f"DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends {release}")
    kernel = release.removeprefix("linux-image-")
    before = module("kernel_module_info")
    assert [entry["kernel"] for entry in before["kernels"] if entry["missing"]] == [kernel]
    done = apply()
    assert done.returncode == 0
    after = module("kernel_module_info")
    assert after["ok"], after["problems"]
    assert len(after["kernels"]) == 2
    assert {entry["signature"] for found in after["kernels"] for entry in found["modules"]} == {"valid"}
    assert apply().changed == 0


def test_secure_boot_is_refused_before_anything_is_changed(
    apply: Apply, host: Host, hardware: Callable[[str], None]
) -> None:
    hardware("secure_boot")
    before = packages(host)
    done = apply()
    assert done.returncode != 0
    assert "gpu.secure_boot" in done.flat
    assert "Nothing was changed" in done.flat
    assert packages(host) == before


def test_the_key_is_handed_to_the_firmware_once(apply: Apply, host: Host, hardware: Callable[[str], None]) -> None:
    hardware("secure_boot")
    host.check_output(f"cat > /usr/local/bin/mokutil <<'E'\n{MOKUTIL}E\nchmod 755 /usr/local/bin/mokutil")
    without = apply(nvidia_driver_secure_boot="enrol")
    assert without.returncode != 0
    assert "nvidia_driver_mok_password" in without.flat
    done = apply(
        nvidia_driver_secure_boot="enrol", nvidia_driver_mok_password=PASSWORD, nvidia_driver_reboot="when_needed"
    )
    assert done.returncode == 0
    assert "at its console" in done.flat  # and it was not restarted: nobody would stand there
    assert PASSWORD not in done.output
    calls = host.check_output("grep import /root/mokutil.calls").split()
    assert calls[:2] == ["--import", "/var/lib/dkms/mok.pub"]
    assert not host.file(calls[3]).exists
    again = apply(nvidia_driver_secure_boot="enrol", nvidia_driver_mok_password=PASSWORD)
    assert again.changed == 0
    host.check_output("rm /usr/local/bin/mokutil /root/mokutil.calls /root/mok.imported")
    # The tool is none of the driver's packages: it stays where the role `artifacts` has installed it.
    host.check_output("DEBIAN_FRONTEND=noninteractive apt-get -qq -y purge mokutil libefivar1 > /dev/null 2>&1")


def test_a_driver_in_use_is_not_changed(apply: Apply, host: Host, hardware: Callable[[str], None]) -> None:
    hardware("in_use")
    before = packages(host)
    done = apply(nvidia_driver_version="535.261.*")
    assert done.returncode != 0
    assert "train.py" in done.flat
    assert packages(host) == before


def test_settings_of_gpus_are_there_for_every_start(apply: Apply, host: Host) -> None:
    declared = [{"power_limit_w": 60}, {"gpus": [0], "graphics_clocks_mhz": [300, 1200]}]
    assert apply(nvidia_driver_gpu_settings=declared).returncode == 0
    unit = host.service("ai102-gpu-settings.service")
    assert unit.is_enabled
    assert host.run("systemd-analyze verify /etc/systemd/system/ai102-gpu-settings.service").rc == 0
    # Without a driver there is nothing to set, which is no failure.
    host.check_output("systemctl start ai102-gpu-settings.service")
    assert host.check_output("systemctl is-system-running") == "running"
    told = host.run(
        "/usr/bin/python3 /opt/ai102/nvidia_driver/gpu_settings.py /etc/ai102/nvidia_driver/gpu_settings.json"
    )
    assert told.rc == 1
    assert "nvidia-smi does not answer" in told.stderr
    assert apply(nvidia_driver_gpu_settings=declared).changed == 0
    assert apply().changed > 0
    assert not host.file("/etc/systemd/system/ai102-gpu-settings.service").exists


def test_removal_leaves_a_clean_host(apply: Apply, host: Host, as_prepared: set[str]) -> None:
    done = apply(entry="remove")
    assert done.returncode == 0
    left = {line for line in packages(host) - as_prepared if "linux-image" not in line}
    assert left == set()
    assert as_prepared <= packages(host)
    assert host.run("ls /lib/modules/*/updates").stdout == ""
    assert host.check_output("apt-mark showhold") == ""
    for path in (
        "/etc/modprobe.d/ai102-nvidia.conf",
        "/etc/apt/preferences.d/ai102-nvidia-driver",
        "/etc/systemd/system/nvidia-persistenced.service.d",
        "/var/lib/ai102/nvidia_driver",
    ):
        assert not host.file(path).exists, path
    assert host.run("lsinitramfs /boot/initrd.img-$(ls /lib/modules | tail -1) | grep ai102").stdout == ""
    assert apply(entry="remove").changed == 0
