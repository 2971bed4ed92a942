"""The driver that Debian 12 builds: for the installed kernel, signed, held, and quiet until it can be loaded."""

from __future__ import annotations

from run_module import Module
from testinfra.host import Host

testinfra_hosts = ["docker://ai102-mol-nvidia-driver"]
MODULES = ("nvidia-current", "nvidia-current-modeset", "nvidia-current-drm", "nvidia-current-uvm")


def _kernels(host: Host) -> list[str]:
    return sorted(str(host.check_output("ls /lib/modules")).split())


def _version(host: Host) -> str:
    """The upstream version of the driver that Debian has now."""
    told = host.check_output("dpkg-query -W -f '${Version}' nvidia-kernel-dkms")
    return str(told).split("-")[0]


def test_every_module_is_of_the_driver_for_the_kernel_and_signed(host: Host) -> None:
    kernels = _kernels(host)
    assert kernels
    for kernel in kernels:
        for name in MODULES:
            path = f"/lib/modules/{kernel}/updates/dkms/{name}.ko"
            assert host.check_output(f"modinfo -F version {path}") == _version(host)
            assert host.check_output(f"modinfo -F vermagic {path}").split()[0] == kernel
            assert host.check_output(f"modinfo -F signer {path}") == "DKMS module signing key"
            assert host.check_output(f"modinfo -F sig_hashalgo {path}") == "sha256"


def test_the_compiler_s_cache_was_used(host: Host) -> None:
    """Without it the builds of the scenarios take twice as long."""
    assert host.check_output("ls /var/cache/ccache") != ""


def test_dkms_says_so_too(host: Host) -> None:
    for kernel in _kernels(host):
        assert f"{_version(host)}, {kernel}, x86_64: installed" in host.check_output("dkms status")


def test_signatures_are_of_the_key_of_the_host(host: Host, module: Module) -> None:
    found = module("kernel_module_info", expect="ok", version=_version(host))
    assert found["ok"], found["problems"]
    assert {entry["signature"] for kernel in found["kernels"] for entry in kernel["modules"]} == {"valid"}
    assert [kernel["next"] for kernel in found["kernels"]][-1] is True


def test_a_module_that_was_tampered_with_is_noticed(host: Host, module: Module) -> None:
    path = f"/lib/modules/{_kernels(host)[-1]}/updates/dkms/nvidia-current-uvm.ko"
    host.check_output(f"cp {path} /root/kept.ko")
    try:
        host.check_output(f"printf X | dd of={path} bs=1 seek=70000 conv=notrunc")
        found = module("kernel_module_info")
        assert not found["ok"]
        assert "not of the key of this host" in found["problems"][0]
    finally:
        host.check_output(f"mv /root/kept.ko {path}")


def test_a_kernel_that_lost_its_module_is_noticed(host: Host, module: Module) -> None:
    path = f"/lib/modules/{_kernels(host)[-1]}/updates/dkms/nvidia-current.ko"
    host.check_output(f"mv {path} /root/kept.ko")
    try:
        found = module("kernel_module_info")
        assert not found["ok"]
        assert found["kernels"][-1]["missing"] == ["nvidia"]
    finally:
        host.check_output(f"mv /root/kept.ko {path}")


def test_nothing_but_the_role_changes_the_driver(host: Host) -> None:
    held = host.check_output("apt-mark showhold").split()
    assert {"nvidia-kernel-dkms", "libcuda1", "nvidia-smi"} <= set(held)
    assert "gcc-12" not in held
    policy = host.check_output("apt-cache policy nvidia-kernel-dkms")
    assert "1001" in policy


def test_headers_come_with_later_kernels(host: Host) -> None:
    assert host.package("linux-headers-cloud-amd64").is_installed


def test_nouveau_is_kept_away_from_the_first_moment(host: Host) -> None:
    assert "blacklist nouveau" in host.check_output("modprobe --showconfig | grep -w nouveau")
    for kernel in _kernels(host):
        assert "etc/modprobe.d/ai102-nvidia.conf" in host.check_output(f"lsinitramfs /boot/initrd.img-{kernel}")


def test_daemons_wait_for_the_driver(host: Host) -> None:
    assert host.service("nvidia-persistenced.service").is_enabled
    assert host.check_output("systemctl is-system-running") == "running"


def test_the_way_back_is_on_the_host(host: Host) -> None:
    files = host.check_output("ls /var/lib/ai102/nvidia_driver/packages")
    assert "nvidia-kernel-dkms_" in files
    assert "gcc-12_" not in files  # only what belongs to the driver
    assert host.file("/var/lib/ai102/nvidia_driver/changes/000001.json").is_file
