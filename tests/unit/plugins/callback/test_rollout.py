# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The callback estimates, reports, keeps secrets out, and never breaks a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from ansible_collections.ai102.inference.plugins.callback import rollout as module
from ansible_collections.ai102.inference.plugins.callback.rollout import Phase, Rollout, TaskTime, clock, render

ROOT = Path(__file__).resolve().parents[4]


def example() -> Rollout:
    rollout = Rollout("site", started=0.0, seconds=75.4, reports_dir="/nowhere")
    rollout.phases = [
        Phase("Preflight", "1", 10.0, True, {"g1"}, 1),
        Phase("Serve", "2", 50.0, True, {"g1"}, 1),
        Phase("Verify", "3"),
    ]
    rollout.tasks = [TaskTime("fast", "Preflight", 0.1), TaskTime("<slow>", "Serve", 40.0, changed=2)]
    rollout.tiers = {"gateways": ["g1"], "inference_hosts": ["i1", "i2"]}
    rollout.stats = {
        "g1": {"ok": 5, "changed": 1, "failures": 0, "unreachable": 0, "skipped": 0, "rescued": 0},
        "i1": {"ok": 5, "changed": 0, "failures": 0, "unreachable": 0, "skipped": 0, "rescued": 0},
    }
    rollout.endpoints = [("service", "https://inference.example:443")]
    rollout.verdicts = [
        {
            "kind": "verify",
            "ok": True,
            "checks": [{"check": "golden", "host": "i1", "status": "pass", "expected": "x", "actual": "y"}],
        }
    ]
    rollout.releases = {("i1", "/opt/x"): {"release": "abc123", "previous": "def456", "changed": "yes"}}
    return rollout


def test_clock() -> None:
    assert [clock(5), clock(65.4), clock(3661), clock(-3)] == ["0:05", "1:05", "1:01:01", "0:00"]


def test_time_left_is_the_rest_of_this_phase_and_of_those_to_come() -> None:
    rollout = example()
    earlier = {"Preflight": 10.0, "Serve": 50.0, "Verify": 20.0}
    assert rollout.time_left(earlier, rollout.phases[0], 0) == 80.0
    assert rollout.time_left(earlier, rollout.phases[1], 30) == 40.0
    assert rollout.time_left(earlier, rollout.phases[1], 90) == 20.0
    assert rollout.time_left({}, rollout.phases[0], 0) is None


def test_result_counts_hosts_and_verdicts() -> None:
    rollout = example()
    assert rollout.ok
    rollout.stats["i1"]["unreachable"] = 1
    assert not rollout.ok
    rollout = example()
    rollout.verdicts[0]["ok"] = False
    assert not rollout.ok


def test_page_has_its_parts_and_escapes() -> None:
    page = render(example())
    for part in (
        "site: PASS",
        "<svg",
        "Tiers and their hosts",
        "gateways",
        "inference hosts (2)",
        "https://inference.example:443",
        "Verdict: verify",
        "abc123",
        "def456",
        "&lt;slow&gt;",
        "1:15",
    ):
        assert part in page, part
    assert "<slow>" not in page
    assert "<script" not in page
    # a phase that was never reached has no time
    assert "<td>Verify</td><td>–</td>" in page


def test_page_shows_failures() -> None:
    rollout = example()
    rollout.failures = [("i2", "Start the server", "it <broke>")]
    rollout.stats["i2"] = {"ok": 1, "changed": 0, "failures": 1, "unreachable": 0, "skipped": 0, "rescued": 0}
    page = render(rollout)
    assert "site: FAIL" in page
    assert "it &lt;broke&gt;" in page
    assert 'class="host failed"' in page


def test_topology_of_many_hosts_stays_a_picture() -> None:
    rollout = example()
    rollout.tiers["inference_hosts"] = [f"gpu{number}" for number in range(400)]
    picture = str(module.topology(rollout))
    assert "inference hosts (400), the first 24" in picture
    assert picture.count('class="host') < 30


class _Options(module.CallbackModule):
    def __init__(self) -> None:
        super().__init__()
        self.warnings: list[str] = []
        self._display = MagicMock(warning=self.warnings.append)

    def get_option(self, k: str, hostvars: object = None) -> Any:
        return {"playbooks": ["site"], "progress": True, "report": True, "slowest": 5, "keep": 2}.get(k)


def test_a_fault_is_one_warning_and_then_silence() -> None:
    callback = _Options()
    callback.v2_playbook_on_start(object())
    callback.v2_playbook_on_start(object())
    callback.v2_playbook_on_stats(object())
    assert len(callback.warnings) == 1
    assert "the rollout report is left out" in callback.warnings[0]


def test_old_pages_are_removed(tmp_path: Path) -> None:
    callback = _Options()
    for number in range(4):
        rollout = example()
        rollout.started = 86400.0 * number
        callback._write_report(rollout, tmp_path)
    assert [path.name for path in sorted(tmp_path.glob("*.html"))] == [
        "rollout-site-19700103T000000Z.html",
        "rollout-site-19700104T000000Z.html",
    ]


def test_times_of_a_failed_run_are_not_kept(tmp_path: Path) -> None:
    rollout = example()
    module.CallbackModule._save_times(rollout, tmp_path)
    assert json.loads((tmp_path / "timings.json").read_text())["site"]["phases"] == {"Preflight": 10.0, "Serve": 50.0}
    rollout.phases[0].seconds = 999
    rollout.stats["g1"]["failures"] = 1
    module.CallbackModule._save_times(rollout, tmp_path)
    assert json.loads((tmp_path / "timings.json").read_text())["site"]["phases"]["Preflight"] == 10.0


PLAYBOOK = """
- name: First phase
  hosts: all
  gather_facts: false
  tasks:
    - name: Verdict
      ai102.inference.verdict:
        kind: verify
        checks: [{check: golden, host: one, status: pass, expected: the same, actual: the same}]
      run_once: true
    - name: Secret
      ansible.builtin.debug: {msg: hunter2-in-the-open}
      no_log: true
    - name: Secret that fails
      ansible.builtin.fail: {msg: hunter3-in-the-open}
      no_log: true
      when: inventory_hostname == 'two'
- name: Second phase
  hosts: gateways
  serial: 1
  gather_facts: false
  tasks:
    - name: Wait
      ansible.builtin.pause: {seconds: 1}
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "hosts.yml").write_text(
        "all: {vars: {ansible_connection: local, ai102_service_name: my.example}, children: "
        "{gateways: {hosts: {one: {ansible_host: 10.0.0.1}, three: {}}}, inference_hosts: {hosts: {two: {}}}}}\n"
    )
    for name in ("site.yml", "other.yml"):
        (tmp_path / name).write_text(PLAYBOOK)
    return tmp_path


def play(site: Path, playbook: str, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "AI102_"))}
    environment |= {
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"),
        "ANSIBLE_CALLBACKS_ENABLED": "ai102.inference.rollout",
        "ANSIBLE_NOCOLOR": "1",
    }
    program = Path(sys.executable).with_name("ansible-playbook")
    done = subprocess.run(
        [program, "-i", "hosts.yml", playbook, *arguments],
        cwd=site,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.stdout + done.stderr


def test_real_run(site: Path) -> None:
    before = time.time()
    output = play(site, "site.yml")
    assert "phase 1/2 · First phase · 3 hosts · 0:00 elapsed" in output
    assert "phase 2/2 · Second phase · 1/2 hosts done" in output
    assert "left out" not in output
    (page,) = (site / "reports").glob("rollout-site-*.html")
    assert page.stat().st_mtime >= before - 1
    text = page.read_text()
    assert "https://my.example:443" in text
    assert "https://10.0.0.1:443" in text
    assert "Verdict: verify" in text
    assert "hidden, as the task carries secrets" in text
    assert "hunter" not in text
    assert "site: FAIL" in text


def test_quiet_for_other_playbooks_and_in_check_mode(site: Path) -> None:
    assert "── phase" not in play(site, "other.yml", "--check")
    assert not (site / "reports").exists()
    assert "── phase 1/2" in play(site, "site.yml", "--check")
    assert not (site / "reports").exists()
