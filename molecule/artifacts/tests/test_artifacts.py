"""What the role ``artifacts`` leaves on a host."""

from __future__ import annotations

import json

import pytest
from run_module import PROJECT
from testinfra.host import Host


@pytest.fixture
def environment(host: Host) -> str:
    """Return the path of the environment."""
    found = host.check_output("ls -d /opt/ai102/environments/*").splitlines()
    assert len(found) == 1
    return str(found[0])


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


def test_a_bundle_is_a_source(host: Host) -> None:
    """The file of the lock, whose address does not exist, came from the bundle."""
    assert host.file("/opt/greeting/1/greeting.txt").content_string == "hello from the bundle\n"
    assert host.file("/opt/greeting/1/greeting.txt").mode == 0o444
