"""Building the environment on a host again, and refusing one that does not work. Takes long, so on one host only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from run_module import PROJECT, Module
from testinfra.host import Host

testinfra_hosts = ["docker://ai102-mol-artifacts"]

CACHE = str(Path("~/.cache/ai102").expanduser())
#: Everything that leaves the control node would go to a port where nobody listens.
NO_NETWORK = {
    "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
    "PIP_EXTRA_INDEX_URL": "",
    "PIP_FIND_LINKS": "",
    "PIP_CONFIG_FILE": "/dev/null",
    "http_proxy": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
}


@pytest.fixture
def environment(host: Host) -> str:
    """Return the path of the environment."""
    found = host.check_output("ls -d /opt/ai102/environments/*").splitlines()
    assert len(found) == 1
    return str(found[0])


def _options(**changes: Any) -> dict[str, Any]:
    """Return the options of ``python_environment`` as the role gives them."""
    role = PROJECT / "roles/artifacts"
    return {
        "lock_dir": str(role / "files/python"),
        "flavour": "cpu",
        "project": str(PROJECT / ".cache/molecule/artifacts/server"),
        "modules": ["ai102_server", "onnxruntime"],
        "left_out": ["huggingface-hub"],
        "cache_dir": CACHE,
        **changes,
    }


def test_an_environment_is_rebuilt_without_network_and_a_tampered_wheel_is_not_believed(
    host: Host, environment: str, module: Module
) -> None:
    """The control node's cache and the host's store are enough; only the wheel that was written to comes again."""
    wheel = host.check_output("ls /var/lib/ai102/wheelhouses/*/flask-*.whl")
    before = host.file(wheel).sha256sum
    host.check_output(f"sh -c 'echo tampered >> {wheel}'")
    host.check_output(f"rm -rf {environment}")
    built = module("python_environment", environment=NO_NETWORK, expect="changed", **_options())
    assert built["environment"] == environment
    assert built["transferred"] == 1
    assert host.file(wheel).sha256sum == before
    module("python_environment", environment=NO_NETWORK, expect="ok", **_options())


def test_an_environment_that_does_not_work_leaves_nothing(
    host: Host, environment: str, module: Module, tmp_path: Path
) -> None:
    """A server that cannot be imported is refused with the reason; the environment before stays."""
    project = tmp_path / "server"
    (project / "src/ai102_server").mkdir(parents=True)
    (project / "src/ai102_server/__init__.py").write_text('__version__ = "0"\nraise ImportError("broken on purpose")\n')
    (project / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "ai102-server"\nversion = "0"\nrequires-python = ">=3.10"\n'
        '[tool.hatch.build.targets.wheel]\npackages = ["src/ai102_server"]\n'
    )
    result = module("python_environment", expect="failed", **_options(project=str(project)))
    assert "broken on purpose" in result["msg"]
    assert result["transferred"] == 1
    assert host.check_output("ls -d /opt/ai102/environments/*").splitlines() == [environment]
