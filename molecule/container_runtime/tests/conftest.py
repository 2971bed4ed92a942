"""Images for the hosts' engines, runs of the role, and a registry that is real."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from testinfra.host import Host

SCENARIO = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"])
# pytest's import mode `importlib` does not.
sys.path[:0] = [str(SCENARIO / "tests"), str(SCENARIO.parent / "shared")]

from applied_role import Apply, applier  # noqa: E402 - needs the path above
from engines import IMAGE, MAKE_IMAGE, PODMAN_LIMITS, PREFIX, REGISTRY, REGISTRY_SERVES, docker  # noqa: E402 - needs the path above


@pytest.fixture(scope="session")
def image_file() -> bytes:
    """A tar archive of the image's files; its maker also serves it as a registry, by TLS."""
    docker("exec", f"{PREFIX}-registry", "sh", "-c", MAKE_IMAGE)
    archive = docker("exec", f"{PREFIX}-registry", "cat", "/root/image.tar")
    docker("exec", f"{PREFIX}-registry", "sh", "-c", f"systemctl is-active --quiet test-registry || {REGISTRY_SERVES}")
    return archive


@pytest.fixture(scope="module")
def engine(host: Host, image_file: bytes) -> str:
    """The command of the host's engine, which has the image."""
    name = host.backend.name
    command = "podman" if name.endswith("podman") else "docker"
    if host.run(f"{command} image inspect {IMAGE}").rc != 0:
        docker("exec", "-i", name, command, "import", "-", IMAGE, stdin=image_file)
    return command


@pytest.fixture(scope="module")
def pushed(host: Host, engine: str) -> str:
    """The image's reference in the registry, by digest, pushed by the host."""
    host.check_output(f"{engine} tag {IMAGE} {REGISTRY}/test:1")
    host.check_output(f"{engine} push {REGISTRY}/test:1")
    program = (
        "import ssl, urllib.request as web;"
        'context = ssl.create_default_context(cafile="/etc/ai102/pki/server_ca.pem");'
        f'request = web.Request("https://{REGISTRY}/v2/test/manifests/1", headers={{"Accept": '
        '"application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json"});'
        'print(web.urlopen(request, context=context).headers["Docker-Content-Digest"], end="")'
    )
    digest = host.check_output(f"python3 -c '{program}'")
    return f"{REGISTRY}/test@{digest}"


@pytest.fixture(scope="module")
def pushed_by_docker(image_file: bytes) -> str:
    """The image's reference in the registry, pushed by another host."""
    docker("exec", "-i", PREFIX, "docker", "import", "-", f"{REGISTRY}/test:2", stdin=image_file)
    docker("exec", PREFIX, "docker", "push", f"{REGISTRY}/test:2")
    return f"{REGISTRY}/test:2"


@pytest.fixture
def container(host: Host, engine: str) -> Iterator[Callable[..., str]]:
    """Start containers that go away with the test."""
    names: list[str] = []

    def start(*options: str, command: str = "sleep 600") -> str:
        name = f"test{len(names)}"
        host.run(f"{engine} rm --force {name}")
        limits = PODMAN_LIMITS if engine == "podman" else ""
        host.check_output(f"{engine} run --detach --name {name} {limits} {' '.join(options)} {IMAGE} {command}")
        names.append(name)
        return name

    yield start
    for name in names:
        host.run(f"{engine} rm --force --time 0 {name} || {engine} rm --force {name}")


@pytest.fixture
def apply(host: Host) -> Apply:
    """Apply the role to the host, with other variables."""
    return applier(SCENARIO, host)
