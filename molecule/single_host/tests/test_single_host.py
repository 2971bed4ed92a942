"""One host in every tier: it serves, and changes without a failed request although there is nobody to take over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rolled_out import Load, Play, SiteHost, another_release


def test_a_new_release_fails_no_request(
    load: Callable[[int], Load], hosts: dict[str, SiteHost], play: Play, tmp_path: Path
) -> None:
    host = hosts["ai102-mol-single-host"]
    before = host.sh("readlink /opt/ai102/inference_server/current")
    source = another_release(tmp_path, "# another release")
    running = load(600)
    played = play("--extra-vars", f"artifacts_server_source={source}")
    assert running.process.poll() is None, "the load ended before the rollout"
    figures = running.end()
    assert played.returncode == 0, played.output[-3000:]
    assert figures["failed"] == 0, figures
    assert figures["requests"] > 100
    assert host.sh("readlink /opt/ai102/inference_server/current") != before


def test_the_only_host_is_not_drained(hosts: dict[str, SiteHost], play: Play) -> None:
    played = play("--limit", "ai102-mol-single-host", playbook="playbooks/drain.yml")
    assert played.returncode != 0
    assert "last" in played.flat


def test_teardown_leaves_nothing(hosts: dict[str, SiteHost], play: Play) -> None:
    refused = play(playbook="playbooks/teardown.yml")
    assert refused.returncode != 0
    assert "teardown_confirm=inference.single.test" in refused.flat
    played = play("--extra-vars", "teardown_confirm=inference.single.test", playbook="playbooks/teardown.yml")
    assert played.returncode == 0, played.output[-3000:]
    host = hosts["ai102-mol-single-host"]
    assert host.sh("ls -d /etc/ai102 /opt/ai102 /var/lib/ai102 2>/dev/null || true") == ""
    assert host.sh("systemctl list-units --all --plain --no-legend 'ai102*'") == ""
    assert "ai102" not in host.sh("nft list tables 2>/dev/null || true")
    assert host.sh("ss -Htln | grep -E ':(443|8443|9443) ' || true") == ""
    assert "ai102" not in host.sh("getent passwd || true")
