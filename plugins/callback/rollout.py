# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shows a long rollout well, and writes a page about it."""

from __future__ import annotations

DOCUMENTATION = r"""
name: rollout
type: aggregate
short_description: Phase, time left and report of a rollout
version_added: "0.1.0"
description:
  - Says at each play which phase of how many it is, how many hosts are through, how much time has passed and how much
    is left (from the times of the run before), and at the end which tasks took longest.
  - Writes one HTML page about the run, with the topology, the releases, the verdicts, the endpoints and the times.
  - Stands beside the callback that prints to the screen. Is silent for playbooks that are not in O(playbooks), and
    never makes a run fail.
author:
  - AI-102 inference maintainers (@ai102)
options:
  playbooks:
    description: Names of the playbooks, without their ending, that are rollouts.
    type: list
    elements: str
    default: [site, rollback]
    ini:
      - {section: callback_rollout, key: playbooks}
    env:
      - {name: AI102_ROLLOUT_PLAYBOOKS}
  progress:
    description: Whether to print phase and times.
    type: bool
    default: true
    ini:
      - {section: callback_rollout, key: progress}
    env:
      - {name: AI102_ROLLOUT_PROGRESS}
  report:
    description: Whether to write the page. None is written in check mode.
    type: bool
    default: true
    ini:
      - {section: callback_rollout, key: report}
    env:
      - {name: AI102_ROLLOUT_REPORT}
  reports_dir:
    description: Directory of the page and of the times. The inventory's C(ai102_reports_dir) when it is not given.
    type: path
    ini:
      - {section: callback_rollout, key: reports_dir}
    env:
      - {name: AI102_ROLLOUT_REPORTS_DIR}
  slowest:
    description: How many of the slowest tasks to list.
    type: int
    default: 8
    ini:
      - {section: callback_rollout, key: slowest}
    env:
      - {name: AI102_ROLLOUT_SLOWEST}
  keep:
    description: How many pages of earlier runs to keep.
    type: int
    default: 20
    ini:
      - {section: callback_rollout, key: keep}
    env:
      - {name: AI102_ROLLOUT_KEEP}
"""

import functools
import json
import os
import platform
import tempfile
import time
import typing as t
from dataclasses import dataclass, field
from pathlib import Path

from ansible import context
from ansible.plugins.callback import CallbackBase
from ansible.release import __version__ as ansible_version
from ansible.template import Templar
from ansible_collections.ai102.inference.plugins.module_utils import _html
from ansible_collections.ai102.inference.plugins.module_utils._verdict import Verdict

#: The tiers in the order in which requests and operators meet them.
TIERS: t.Final = ("gateways", "inference_hosts", "monitoring_hosts", "log_hosts", "backup_hosts", "registry_hosts")

Function = t.TypeVar("Function", bound=t.Callable[..., t.Any])


def harmless(function: Function) -> Function:
    """Turn whatever goes wrong in a callback into one warning: a report must never cost a rollout."""

    @functools.wraps(function)
    def guarded(self: CallbackModule, *args: t.Any, **kwargs: t.Any) -> t.Any:
        if self.broken:
            return None
        try:
            return function(self, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 that is the point of it
            self.broken = True
            self._display.warning(
                f"the rollout report is left out: {function.__name__}: {type(error).__name__}: {error}"
            )
            return None

    return t.cast(Function, guarded)


def clock(seconds: float) -> str:
    """`1:05` or `1:02:09`."""
    total = max(0, round(seconds))
    hours, rest = divmod(total, 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@dataclass
class Phase:
    """One play: its name, its time in seconds, the hosts it has touched."""

    name: str
    uuid: str
    seconds: float = 0.0
    started: bool = False
    hosts: set[str] = field(default_factory=set)
    of_hosts: int = 0


@dataclass
class TaskTime:
    """One task of one phase and how long it took on all its hosts."""

    name: str
    phase: str
    seconds: float = 0.0
    changed: int = 0


@dataclass
class Rollout:
    """Everything that is known about the run; holds no value of a variable and no result but verdicts and releases."""

    playbook: str
    started: float
    phases: list[Phase] = field(default_factory=list)
    tasks: list[TaskTime] = field(default_factory=list)
    verdicts: list[dict[str, t.Any]] = field(default_factory=list)
    releases: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    tiers: dict[str, list[str]] = field(default_factory=dict)
    endpoints: list[tuple[str, str]] = field(default_factory=list)
    versions: list[tuple[str, str]] = field(default_factory=list)
    stats: dict[str, dict[str, int]] = field(default_factory=dict)
    failures: list[tuple[str, str, str]] = field(default_factory=list)
    reports_dir: str = ""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether no host failed or was lost, and no verdict says no."""
        lost = any(counts["failures"] or counts["unreachable"] for counts in self.stats.values())
        return not lost and all(verdict["ok"] for verdict in self.verdicts)

    def time_left(self, earlier: t.Mapping[str, float], current: Phase, spent: float) -> float | None:
        """Seconds that are left by the times of the run before; None when it did not know these plays."""
        if current.name not in earlier:
            return None
        position = self.phases.index(current)
        rest = sum(earlier.get(phase.name, 0.0) for phase in self.phases[position + 1 :])
        return max(0.0, earlier[current.name] - spent) + rest


class CallbackModule(CallbackBase):
    """The callback."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "ai102.inference.rollout"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        """Nothing is known yet."""
        super().__init__()
        self.broken = False
        self.rollout: Rollout | None = None
        self.phase: Phase | None = None
        self.task: TaskTime | None = None
        self.earlier: dict[str, float] = {}
        self._phase_since = 0.0
        self._task_since = 0.0

    # -------------------------------------------------------------------------------------------------- the events

    @harmless
    def v2_playbook_on_start(self, playbook: t.Any) -> None:
        """Learn the phases; stay silent for playbooks that are no rollout."""
        name = Path(str(playbook._file_name)).stem
        if name not in self.get_option("playbooks"):
            return
        self.rollout = Rollout(name, time.time())
        self.rollout.phases = [
            Phase(str(play.get_name()).strip() or "play", str(play._uuid)) for play in playbook.get_plays()
        ]
        self.rollout.versions = [
            ("ansible-core", ansible_version),
            ("Python of the control node", platform.python_version()),
            ("ai102.inference", _collection_version()),
        ]

    @harmless
    def v2_playbook_on_play_start(self, play: t.Any) -> None:
        """A play, or its next batch of hosts, begins."""
        rollout = self.rollout
        if rollout is None:
            return
        self._close_task()
        self._close_phase()
        name, uuid = str(play.get_name()).strip(), str(play._uuid)
        phase = next((phase for phase in rollout.phases if phase.uuid == uuid), None) or next(
            (phase for phase in rollout.phases if phase.name == name and not phase.started), None
        )
        if phase is None:
            phase = Phase(name, uuid)
            rollout.phases.append(phase)
        phase.started = True
        self.phase = phase
        self._phase_since = time.monotonic()
        manager = play.get_variable_manager()
        inventory = getattr(manager, "_inventory", None)
        if inventory is not None:
            phase.of_hosts = len(inventory.get_hosts(play.hosts, ignore_restrictions=True))
            if not rollout.reports_dir:
                self._learn_site(play, manager, inventory)
        self._progress(phase)

    def _task_started(self, task: t.Any) -> None:
        if self.rollout is None:
            return
        self._close_task()
        self.task = TaskTime(str(task.get_name()).strip(), self.phase.name if self.phase else "")
        self._task_since = time.monotonic()

    @harmless
    def v2_playbook_on_task_start(self, task: t.Any, is_conditional: bool) -> None:  # noqa: ARG002 ansible-core hands it over
        """A task begins."""
        self._task_started(task)

    @harmless
    def v2_playbook_on_handler_task_start(self, task: t.Any) -> None:
        """A handler begins."""
        self._task_started(task)

    @harmless
    def v2_runner_on_ok(self, result: t.Any) -> None:
        """A host is through with a task."""
        self._result(result)

    @harmless
    def v2_runner_on_failed(self, result: t.Any, ignore_errors: bool = False) -> None:
        """A host failed."""
        self._result(result)
        if self.rollout is not None and not ignore_errors:
            self._failed(result)

    @harmless
    def v2_runner_on_unreachable(self, result: t.Any) -> None:
        """A host does not answer."""
        if self.rollout is not None:
            self._failed(result)

    @harmless
    def v2_runner_on_skipped(self, result: t.Any) -> None:
        """A task is not for this host."""
        if self.rollout is not None and self.phase is not None:
            self.phase.hosts.add(_host(result))

    @harmless
    def v2_playbook_on_stats(self, stats: t.Any) -> None:
        """The end: slowest tasks, times for the next run, the page."""
        rollout = self.rollout
        if rollout is None:
            return
        self._close_task()
        self._close_phase()
        rollout.seconds = time.time() - rollout.started
        rollout.stats = {str(host): dict(stats.summarize(host)) for host in stats.processed}
        if self.get_option("progress"):
            self._summary(rollout)
        check = bool(context.CLIARGS.get("check"))
        if not rollout.reports_dir or check:
            return
        directory = Path(rollout.reports_dir)
        self._save_times(rollout, directory)
        if self.get_option("report"):
            self._write_report(rollout, directory)

    # ------------------------------------------------------------------------------------------------- what it does

    def _learn_site(self, play: t.Any, manager: t.Any, inventory: t.Any) -> None:
        """Where reports go, the tiers, and the endpoints, from the inventory."""
        rollout = t.cast(Rollout, self.rollout)
        hosts = [
            host
            for host in inventory.get_hosts("all", ignore_limits=True, ignore_restrictions=True)
            if host.name != "localhost"
        ]
        rollout.tiers = {
            tier: [host.name for host in inventory.groups[tier].get_hosts()]
            for tier in TIERS
            if tier in inventory.groups
        }
        first = hosts[0] if hosts else None
        variables = manager.get_vars(play=play, host=first) if first else manager.get_vars(play=play)
        default = os.path.join(str(variables.get("inventory_dir") or "."), "reports")
        chosen = self.get_option("reports_dir") or self._value(variables, "ai102_reports_dir", default)
        rollout.reports_dir = str(Path(str(chosen)).expanduser())
        port = self._value(variables, "ai102_gateway_port", 443)
        name = self._value(variables, "ai102_service_name", "inference.example.internal")
        rollout.endpoints = [("service", f"https://{name}:{port}")]
        for gateway in rollout.tiers.get("gateways", []):
            own = manager.get_vars(play=play, host=inventory.get_host(gateway))
            address = next(
                (self._value(own, key, "") for key in ("ai102_address", "ansible_host") if key in own), gateway
            )
            rollout.endpoints.append((gateway, f"https://{address or gateway}:{port}"))
        try:
            times = json.loads((Path(rollout.reports_dir) / "timings.json").read_text())
            self.earlier = {str(key): float(value) for key, value in times[rollout.playbook]["phases"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self.earlier = {}

    @staticmethod
    def _value(variables: t.Mapping[str, t.Any], name: str, default: t.Any) -> t.Any:
        if name not in variables:
            return default
        try:
            return Templar(loader=None, variables=variables).template(variables[name])
        except Exception:  # noqa: BLE001 an inventory may hold anything, and preflight says so
            return default

    def _progress(self, phase: Phase) -> None:
        rollout = t.cast(Rollout, self.rollout)
        if not self.get_option("progress"):
            return
        elapsed = time.time() - rollout.started
        parts = [f"phase {rollout.phases.index(phase) + 1}/{len(rollout.phases)}", phase.name]
        if phase.hosts and phase.of_hosts:
            parts.append(f"{len(phase.hosts)}/{phase.of_hosts} hosts done")
        elif phase.of_hosts:
            parts.append(f"{phase.of_hosts} host{'' if phase.of_hosts == 1 else 's'}")
        parts.append(f"{clock(elapsed)} elapsed")
        left = rollout.time_left(self.earlier, phase, phase.seconds)
        if left is not None:
            parts.append(f"about {clock(left)} left")
        self._display.display("── " + " · ".join(parts), color="bright blue")

    def _close_task(self) -> None:
        if self.task is not None and self.rollout is not None:
            self.task.seconds = time.monotonic() - self._task_since
            self.rollout.tasks.append(self.task)
        self.task = None

    def _close_phase(self) -> None:
        if self.phase is not None:
            self.phase.seconds += time.monotonic() - self._phase_since
        self.phase = None

    def _result(self, result: t.Any) -> None:
        rollout = self.rollout
        if rollout is None:
            return
        host = _host(result)
        if self.phase is not None:
            self.phase.hosts.add(host)
        data = _data(result)
        if data.get("changed") and self.task is not None:
            self.task.changed += 1
        if data.get("_ansible_no_log") or data.get("censored"):
            return
        verdict = data.get("verdict")
        if isinstance(verdict, dict) and {"kind", "ok", "checks"} <= set(verdict):
            rollout.verdicts.append(verdict)
        # What the module `release` says; its files and diff are none of the report's business.
        if isinstance(data.get("release"), str) and isinstance(data.get("path"), str) and "current" in data:
            place = str(data["path"]).partition("/releases/")[0]
            rollout.releases[(host, place)] = {
                "release": str(data["release"]),
                "previous": str(data.get("previous") or ""),
                "changed": "yes" if data.get("changed") else "no",
            }

    def _failed(self, result: t.Any) -> None:
        rollout = t.cast(Rollout, self.rollout)
        data = _data(result)
        hidden = data.get("_ansible_no_log") or data.get("censored")
        message = "hidden, as the task carries secrets" if hidden else str(data.get("msg") or "no message")
        name = self.task.name if self.task else ""
        rollout.failures.append((_host(result), name, message[:1000]))

    def _summary(self, rollout: Rollout) -> None:
        slowest = sorted(rollout.tasks, key=lambda task: -task.seconds)[: self.get_option("slowest")]
        lines = [f"── {rollout.playbook}: {clock(rollout.seconds)} in all; slowest tasks:"]
        lines += [f"   {task.seconds:7.1f} s  {task.name}" for task in slowest if task.seconds >= 0.05]
        for verdict in rollout.verdicts:
            lines.append("── " + Verdict.from_dicts(verdict["kind"], verdict["checks"]).sentence())
        self._display.display("\n".join(lines), color="bright blue")

    @staticmethod
    def _save_times(rollout: Rollout, directory: Path) -> None:
        """Times of a good run, for the estimate of the next."""
        if not rollout.ok:
            return
        path = directory / "timings.json"
        try:
            times = json.loads(path.read_text())
            if not isinstance(times, dict):
                times = {}
        except (OSError, ValueError):
            times = {}
        times[rollout.playbook] = {
            "seconds": round(rollout.seconds, 1),
            "phases": {phase.name: round(phase.seconds, 1) for phase in rollout.phases if phase.started},
        }
        directory.mkdir(parents=True, exist_ok=True)
        _write(path, json.dumps(times, indent=2) + "\n")

    def _write_report(self, rollout: Rollout, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(rollout.started))
        path = directory / f"rollout-{rollout.playbook}-{moment}.html"
        _write(path, render(rollout, self.get_option("slowest")))
        pages = sorted(directory.glob(f"rollout-{rollout.playbook}-*.html"))
        for old in pages[: -max(1, self.get_option("keep"))]:
            old.unlink(missing_ok=True)
        self._display.display(f"── report: {path}", color="bright blue")


def _host(result: t.Any) -> str:
    host = getattr(result, "host", None) or result._host
    return str(host.get_name())


def _data(result: t.Any) -> dict[str, t.Any]:
    data = getattr(result, "result", None)
    if not isinstance(data, dict):
        data = result._result
    return t.cast(dict[str, t.Any], data)


def _collection_version() -> str:
    root = Path(__file__).resolve().parents[2]
    try:
        return str(json.loads((root / "MANIFEST.json").read_text())["collection_info"]["version"])
    except (OSError, ValueError, KeyError):
        pass
    try:
        lines = (root / "galaxy.yml").read_text().splitlines()
    except OSError:
        return "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("version:")), "unknown")


def _write(path: Path, content: str) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(content)
    os.chmod(name, 0o644)
    os.replace(name, path)


# ---------------------------------------------------------------------------------------------------------- the page


def render(rollout: Rollout, slowest: int = 8) -> str:
    """The page about a rollout."""
    word = "PASS" if rollout.ok else "FAIL"
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(rollout.started))
    body: list[object] = [
        _html.tag("h1", f"Rollout: {rollout.playbook}"),
        _html.tag("p", f"Started {when}, took {clock(rollout.seconds)}.", class_="lead"),
        _cards(rollout, word),
        _html.tag("h2", "Topology"),
        topology(rollout),
    ]
    if rollout.failures:
        body += [_html.tag("h2", "What failed"), _html.table(("host", "task", "message"), rollout.failures)]
    body += [_html.tag("h2", "Endpoints"), _html.table(("where", "address"), rollout.endpoints)]
    for verdict in rollout.verdicts:
        made = Verdict.from_dicts(verdict["kind"], verdict["checks"])
        body += [_html.tag("h2", f"Verdict: {made.kind}"), _html.tag("p", made.sentence(), class_="lead")]
        body.append(made.html_section())
    versions: list[t.Sequence[object]] = [(name, version, "", "") for name, version in rollout.versions]
    versions += [
        (f"{host}: {place}", release["release"], release["previous"], release["changed"])
        for (host, place), release in sorted(rollout.releases.items())
    ]
    body += [_html.tag("h2", "Versions"), _html.table(("what", "release", "before", "changed"), versions)]
    body += [_html.tag("h2", "Hosts"), _host_table(rollout)]
    longest = max([phase.seconds for phase in rollout.phases] + [0.001])
    body += [
        _html.tag("h2", "Times"),
        _html.table(
            ("phase", "seconds", ""),
            [
                (phase.name, f"{phase.seconds:.1f}", _bar(phase.seconds / longest))
                if phase.started
                else (phase.name, "–", "")
                for phase in rollout.phases
            ],
        ),
    ]
    slow = sorted(rollout.tasks, key=lambda task: -task.seconds)[:slowest]
    body += [
        _html.tag("h3", "Slowest tasks"),
        _html.table(
            ("task", "phase", "seconds", "changed"),
            [(task.name, task.phase, f"{task.seconds:.1f}", str(task.changed)) for task in slow],
        ),
    ]
    return _html.page(f"{rollout.playbook}: {word}", *body)


def _bar(share: float) -> _html.Markup:
    return _html.tag("div", "", class_="bar", style=f"width:{max(0.0, min(1.0, share)) * 100:.0f}%")


def _cards(rollout: Rollout, word: str) -> _html.Markup:
    changed = sum(bool(counts["changed"]) for counts in rollout.stats.values())
    lost = sum(bool(counts["failures"] or counts["unreachable"]) for counts in rollout.stats.values())
    cards = [
        ("result", word, word.lower()),
        ("hosts", str(len(rollout.stats)), ""),
        ("changed", str(changed), "warn" if changed else ""),
        ("failed", str(lost), "fail" if lost else ""),
        ("time", clock(rollout.seconds), ""),
    ]
    return _html.tag(
        "div",
        *(
            _html.tag("div", _html.tag("b", value, class_=style or None), _html.tag("span", label), class_="card")
            for label, value, style in cards
        ),
        class_="cards",
    )


def _host_table(rollout: Rollout) -> _html.Markup:
    columns = ("ok", "changed", "unreachable", "failures", "skipped", "rescued")
    rows: list[t.Sequence[object]] = [
        (host, *(str(counts.get(column, 0)) for column in columns)) for host, counts in sorted(rollout.stats.items())
    ]
    return _html.table(("host", *columns), rows)


def _state(rollout: Rollout, host: str) -> str:
    counts = rollout.stats.get(host)
    if counts is None:
        return ""
    if counts["failures"] or counts["unreachable"]:
        return "failed"
    return "changed" if counts["changed"] else "ok"


def topology(rollout: Rollout, per_row: int = 6) -> _html.Markup:
    """The tiers as a picture: clients above, gateways, inference hosts, and what watches them below."""
    width, box, gap, left = 960, 132, 12, 16
    tiers = [(tier, hosts) for tier, hosts in rollout.tiers.items() if hosts]
    y = 56.0
    shapes: list[_html.Markup] = [
        _html.tag("rect", "", class_="host", x=width / 2 - 66, y=8, width=132, height=28, rx=6),
        _html.tag("text", "clients (TLS)", x=width / 2, y=27, text_anchor="middle"),
    ]
    before = 36.0
    for tier, hosts in tiers:
        shown = hosts[: per_row * 4]
        rows = (len(shown) + per_row - 1) // per_row
        height = 34 + rows * 46
        if tier in ("gateways", "inference_hosts"):
            shapes.append(_html.tag("path", "", class_="flow", d=f"M{width / 2:.0f} {before:.0f}V{y:.0f}"))
        shapes.append(_html.tag("rect", "", class_="tier", x=8, y=y, width=width - 16, height=height, rx=8))
        label = tier.replace("_", " ") + (f" ({len(hosts)})" if len(hosts) > 1 else "")
        if len(shown) < len(hosts):
            label += f", the first {len(shown)}"
        shapes.append(_html.tag("text", label, class_="small", x=left + 4, y=y + 18))
        for number, host in enumerate(shown):
            x = left + (number % per_row) * (box + gap + 12)
            top = y + 26 + (number // per_row) * 46
            state = _state(rollout, host)
            short = host if len(host) <= 18 else host[:17] + "…"
            shapes.append(
                _html.tag(
                    "g",
                    _html.tag("title", f"{host}: {state or 'not touched'}"),
                    _html.tag("rect", "", class_=f"host {state}".strip(), x=x, y=top, width=box + 12, height=36, rx=6),
                    _html.tag("text", short, x=x + 8, y=top + 16),
                    _html.tag("text", state or "not touched", class_="small", x=x + 8, y=top + 30),
                )
            )
        before = y + height
        y = before + 20
    return _html.tag("svg", *shapes, viewBox=f"0 0 {width} {y:.0f}", role="img", aria_label="Tiers and their hosts")
