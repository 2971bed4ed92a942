"""A Docker that cannot check its configuration: one that it does not start with is taken back."""

from __future__ import annotations

import re
from collections.abc import Callable

from applied_role import Apply
from engines import CONFIG, PREFIX, pid
from testinfra.host import Host

testinfra_hosts = [f"docker://{PREFIX}"]


def test_a_configuration_that_does_not_start_is_taken_back(
    host: Host, engine: str, container: Callable[..., str], apply: Apply
) -> None:
    name = container()
    running, before = pid(host, name), host.file(CONFIG).content_string
    refused = apply(container_runtime_settings={"no-such-option": 1})
    assert refused.returncode != 0
    assert "no-such-option" in refused.flat  # Docker's own words
    assert "What was in force before is in force again." in refused.flat
    assert host.file(CONFIG).content_string == before
    assert host.service("docker").is_running
    assert pid(host, name) == running
    assert apply().changed == 0


def test_containers_are_not_lost_from_sight(
    host: Host, engine: str, container: Callable[..., str], apply: Apply
) -> None:
    running = pid(host, container())
    refused = apply(container_runtime_data_root="/var/lib/elsewhere")
    assert refused.returncode != 0
    assert "Docker keeps 1 containers in /var/lib/docker" in refused.flat
    assert pid(host, "test0") == running
    assert apply().changed == 0


def test_verify_says_whether_it_runs(host: Host, engine: str, apply: Apply) -> None:
    good = apply("verify")
    assert (good.returncode, good.changed) == (0, 0)
    assert len(re.findall(r"status\W+pass", good.flat)) == 3
    host.check_output("systemctl stop docker docker.socket")
    try:
        bad = apply("verify")
        assert (bad.returncode, bad.changed) == (0, 0)
        assert re.search(r"status\W+fail", bad.flat)
        assert "it does not answer" in bad.flat
    finally:
        assert apply().returncode == 0
    assert host.service("docker").is_running
