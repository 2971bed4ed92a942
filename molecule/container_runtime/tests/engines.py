"""What the tests have in common: names, the control node's Docker, connections between hosts."""

from __future__ import annotations

import subprocess

from testinfra.host import Host

PREFIX = "ai102-mol-container_runtime"
REGISTRY = "198.18.41.114:5000"
IMAGE = "localhost/test:1"
# The least that is an image: a shell and the programs of busybox, which one host has downloaded.
MAKE_IMAGE = """
set -e
apt-get -qq update
apt-get -qq install --yes --no-install-recommends busybox-static docker-registry >/dev/null 2>&1
systemctl disable --quiet --now docker-registry
cat > /root/registry.yml <<'CONFIG'
version: 0.1
storage: {filesystem: {rootdirectory: /var/lib/test-registry}}
http:
  addr: 0.0.0.0:5000
  tls: {certificate: /etc/ai102/pki/server/fullchain.pem, key: /etc/ai102/pki/server/key.pem}
CONFIG
rm -rf /root/image && mkdir -p /root/image/bin
cp /bin/busybox /root/image/bin/
for name in sh sleep cat env nc httpd wget ip; do ln -s busybox /root/image/bin/$name; done
tar --create --file /root/image.tar --directory /root/image .
"""
REGISTRY_SERVES = "systemd-run --quiet --unit test-registry docker-registry serve /root/registry.yml"
# A host that is a container itself has no controllers to give to Podman's containers.
PODMAN_LIMITS = "--cgroups disabled"

NEIGHBOUR, OTHER = f"{PREFIX}-registry", PREFIX
# A server on port 8000 of a container.
SERVE = "httpd -f -p 8000 -h /bin"
# What Docker is configured by.
CONFIG = "/etc/docker/daemon.json"


def docker(*arguments: str, stdin: bytes | None = None) -> bytes:
    """Run Docker of the control node, which has the hosts."""
    done = subprocess.run(["docker", *arguments], input=stdin, capture_output=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    return done.stdout


def reaches(source: str, address: str, port: int) -> bool:
    """Whether a connection from a host succeeds."""
    code = f"import socket; socket.create_connection(({address!r}, {port}), timeout=2)"
    done = subprocess.run(["docker", "exec", source, "python3", "-c", code], capture_output=True, check=False)
    return done.returncode == 0


def pid(host: Host, name: str) -> str:
    """Whether a container of Docker's runs, and as which process."""
    return str(host.check_output(f"docker inspect {name} --format '{{{{.State.Running}}}} {{{{.State.Pid}}}}'"))
