"""containerd, whose configuration the distribution brings."""

from __future__ import annotations

from applied_role import Apply
from engines import PREFIX, REGISTRY, docker
from testinfra.host import Host

testinfra_hosts = [f"docker://{PREFIX}-registry"]
CONFIG = "/etc/containerd/config.toml"


def test_its_configuration_is_merged(host: Host) -> None:
    text = host.file(CONFIG).content_string
    assert '[plugins."io.containerd.grpc.v1.cri".cni]\n      bin_dir = "/usr/lib/cni"' in text  # as Debian wrote it
    effective = host.check_output("containerd config dump")
    for line in ('bin_dir = "/usr/lib/cni"', 'config_path = "/etc/containerd/certs.d"', "enable_cdi = true"):
        assert line in effective


def test_a_registry_is_trusted_by_the_sites_authority(host: Host, image_file: bytes, pushed_by_docker: str) -> None:
    pull = f"ctr images pull --hosts-dir /etc/containerd/certs.d {pushed_by_docker}"
    assert "done" in host.check_output(pull)
    aside = f"/etc/containerd/certs.d/{REGISTRY}"
    host.check_output(f"mv {aside} /root/aside; ctr images rm {pushed_by_docker}")
    try:
        refused = host.run(pull)
        assert refused.rc != 0
        assert "unknown authority" in refused.stderr + refused.stdout
    finally:
        host.check_output(f"mv /root/aside {aside}")


def test_a_container_runs(host: Host, pushed_by_docker: str) -> None:
    host.check_output(f"ctr images pull --hosts-dir /etc/containerd/certs.d {pushed_by_docker}")
    # A host that is a container itself has no controller of processors.
    assert "PATH=" in host.check_output(f"ctr run --rm --cpu-shares 0 {pushed_by_docker} test1 /bin/env")


def test_teardown_leaves_the_distributions_file(host: Host, apply: Apply) -> None:
    assert apply("teardown").returncode == 0
    # On another host Docker is the engine, and containerd's file as it came.
    original = docker("exec", PREFIX, "cat", CONFIG).decode()
    left = host.file(CONFIG).content_string
    assert [line for line in left.splitlines() if line] == [line for line in original.splitlines() if line]
    assert not host.service("containerd").is_running
    assert apply("teardown").changed == 0
