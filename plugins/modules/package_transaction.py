#!/usr/bin/python
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Installs packages so that it can be undone."""

from __future__ import annotations

DOCUMENTATION = r"""
module: package_transaction
short_description: Install packages that belong together so that it can be undone
version_added: "0.1.0"
author: AI-102 inference maintainers (@ai102)
description:
  - Installs, replaces or removes packages in one call of C(apt-get), after it has written down what that will change
    and has made sure that the files of every package that is replaced are on the host.
  - The way back (O(state=previous)) therefore needs neither a network nor a repository that still has the old version.
    It also works after a package's own scripts have failed half-way.
  - A change that fails is undone at once.
attributes:
  check_mode:
    description: Predicts changes without making them, on a host that has never read a package list as well.
    support: full
  diff_mode:
    description: Names the packages and versions before and after.
    support: full
  idempotent:
    description: A second run changes nothing.
    support: full
options:
  path:
    description: Directory of the records and of the kept files. One for each set of packages that belong together.
    type: path
    required: true
  state:
    description:
      - V(present) installs what is missing, and everything in its newest allowed version with O(update).
      - V(previous) undoes the last change that was recorded, and fails when there is none.
      - V(absent) removes what the changes added, and the O(members).
      - V(listed) only looks.
    type: str
    choices: [present, previous, absent, listed]
    default: present
  packages:
    description: Names of the packages, with O(state=present).
    type: list
    elements: str
    default: []
  unwanted:
    description: Patterns of the names of packages that are removed in the same change, because they do not go together
      with the wanted ones though their maintainers allow it. Those in O(packages) stay.
    type: list
    elements: str
    default: []
  logs:
    description: Patterns of the paths of log files. When a change fails, the first errors in those it wrote are part of
      the message; they are looked at before the change is undone.
    type: list
    elements: str
    default: [/var/lib/dkms/*/*/build/make.log]
  members:
    description:
      - Patterns of the names of packages that only work together, such as those of one driver. They are put on hold
        with O(hold), their files are kept for the way back, and O(state=absent) removes them.
    type: list
    elements: str
    default: []
  hold:
    description: Whether the O(members) that are installed are put on hold, so that only this module changes them.
    type: bool
    default: true
  version:
    description:
      - Version that apt may choose for the O(members), with C(*) for what may differ, such as V(580.*). Written to
        apt's preferences, so that an upgrade by hand keeps to it as well. Without it, apt chooses freely.
    type: str
    default: ""
  update:
    description:
      - Whether installed packages get the version that the preferences of apt choose, which may be an older one.
        Otherwise they stay as they are.
    type: bool
    default: false
  cache_valid_time:
    description: Seconds for which a package list that was fetched before is taken as fresh.
    type: int
    default: 3600
  timeout:
    description: Seconds to wait for another program that holds the lock of apt.
    type: int
    default: 300
requirements:
  - C(apt-get), C(apt-mark) and C(dpkg-query)
"""

EXAMPLES = r"""
- name: Install the packages of the driver
  ai102.inference.package_transaction:
    path: /var/lib/ai102/nvidia_driver
    packages: [nvidia-kernel-dkms, nvidia-smi, libcuda1]
    members: ["*nvidia*", libcuda1]
    version: 535.*

- name: Return to what was there before
  ai102.inference.package_transaction:
    path: /var/lib/ai102/nvidia_driver
    state: previous
    members: ["*nvidia*", libcuda1]
"""

RETURN = r"""
added:
  description: Packages that were not there before.
  type: list
  elements: str
  returned: always
replaced:
  description: Packages that got another version.
  type: list
  elements: str
  returned: always
removed:
  description: Packages that were removed.
  type: list
  elements: str
  returned: always
held:
  description: Packages that are on hold now.
  type: list
  elements: str
  returned: always
versions:
  description: The O(members) that are installed now, and their versions.
  type: dict
  returned: always
  sample: {nvidia-smi: 535.309.01-0+deb12u1}
can_go_back:
  description: Whether O(state=previous) has a change to undo.
  type: bool
  returned: always
restored:
  description: Whether a change that failed was undone completely.
  type: bool
  returned: when a change failed
"""

import contextlib
import glob
import json
import os
import re
import shutil
import time
import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ai102.inference.plugins.module_utils._kernel_modules import first_errors
from ansible_collections.ai102.inference.plugins.module_utils._transactions import (
    QUERY,
    Package,
    Plan,
    Record,
    TransactionError,
    archive_name,
    foreign_holds,
    left_over,
    matches,
    parse_dpkg,
    parse_simulation,
    preferences,
    record_of,
    to_remove,
    way_back,
)

POLICY = Path("/usr/sbin/policy-rc.d")
PREFERENCES = Path("/etc/apt/preferences.d")


class Packages:
    """The packages of the host, and the records of what was changed."""

    def __init__(self, module: AnsibleModule) -> None:
        """From the module's options."""
        self.module = module
        options = module.params
        self.root = Path(options["path"])
        self.records_path = self.root / "changes"
        self.archive = self.root / "packages"
        self.held_path = self.root / "held.json"
        self.preferences_path = PREFERENCES / f"ai102-{self.root.name.replace('_', '-')}"
        self.members: list[str] = options["members"]
        self.timeout: int = options["timeout"]
        self.native = self._run("dpkg", "--print-architecture")[1].strip()
        self.present = self._query()

    def _run(self, *command: str, check: bool = True) -> tuple[int, str, str]:
        """Run a program, without questions and without restarts of services by needrestart. Raises on failure."""
        environment = {"DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_SUSPEND": "1", "LC_ALL": "C.UTF-8"}
        status, output, errors = self.module.run_command(list(command), environ_update=environment)
        if check and status != 0:
            raise TransactionError(f"{' '.join(command[:3])} ended with {status}: {_last_words(output, errors)}")
        return status, output, errors

    def _query(self) -> dict[str, Package]:
        _status, output, _errors = self._run("dpkg-query", "-W", "-f", QUERY)
        return parse_dpkg(output, self.native)

    def refresh(self) -> None:
        """Look at the packages again."""
        self.present = self._query()

    def apt(self, *arguments: str, check: bool = True) -> tuple[int, str, str]:
        """Run apt-get with what every call needs."""
        return self._run(
            "apt-get",
            "--yes",
            "--no-install-recommends",
            "--allow-downgrades",
            "--allow-change-held-packages",
            "--ignore-hold",  # of our own; a plan that changes what somebody else holds is refused
            "--option=APT::Get::AutomaticRemove=false",
            f"--option=DPkg::Lock::Timeout={self.timeout}",
            "--option=Dpkg::Options::=--force-confdef",
            "--option=Dpkg::Options::=--force-confold",
            f"--option=Dir::Cache::archives={self.archive}/",
            "--option=APT::Keep-Downloaded-Packages=true",
            *arguments,
            check=check,
        )

    def manual(self) -> list[str]:
        """Packages that somebody asked for, as opposed to dependencies."""
        return self._run("apt-mark", "showmanual")[1].split()

    @property
    def held(self) -> list[str]:
        """Packages that this module has put on hold."""
        if not self.held_path.is_file():
            return []
        return [str(name) for name in json.loads(self.held_path.read_text(encoding="utf-8"))]

    def records(self) -> list[Record]:
        """What was changed, the oldest first. Raises `TransactionError`."""
        found = []
        for path in sorted(self.records_path.glob("*.json")) if self.records_path.is_dir() else []:
            try:
                found.append(Record.from_dict(json.loads(path.read_text(encoding="utf-8"))))
            except (OSError, ValueError) as error:
                raise TransactionError(f"{path} cannot be read: {error}") from error
        return found

    def write(self, record: Record) -> None:
        """Write a change down; it is on the disk before anything is changed."""
        self.records_path.mkdir(parents=True, exist_ok=True, mode=0o755)
        path = self.records_path / f"{record.number:06d}.json"
        temporary = path.with_suffix(".new")
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(record.to_dict(), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    def forget(self, record: Record) -> None:
        """Remove the record of a change that was undone."""
        (self.records_path / f"{record.number:06d}.json").unlink()

    @property
    def preferences(self) -> str:
        """What apt's preferences for these packages say."""
        return self.preferences_path.read_text(encoding="utf-8") if self.preferences_path.is_file() else ""

    def prefer(self, content: str) -> None:
        """Write apt's preferences for these packages, or remove them."""
        if not content:
            self.preferences_path.unlink(missing_ok=True)
        elif content != self.preferences:
            self.preferences_path.write_text(content, encoding="utf-8")
            self.preferences_path.chmod(0o644)

    def prepare(self) -> None:
        """Make the directory that apt keeps files in; apt fetches them without being root."""
        partial = self.archive / "partial"
        partial.mkdir(parents=True, exist_ok=True, mode=0o755)
        with contextlib.suppress(LookupError):  # no such user: apt then fetches as root
            shutil.chown(partial, user="_apt")

    def plan(self, packages: list[str]) -> Plan:
        """Ask apt what installing would do. Raises `TransactionError`."""
        status, output, errors = self.apt("--simulate", "install", *packages, check=False)
        if status != 0:
            raise TransactionError(f"apt cannot install {', '.join(packages)}: {_last_words(output, errors)}")
        return parse_simulation(output, self.present)

    def update_lists(self, valid: int) -> None:
        """Fetch the lists of packages when they are older than `valid` seconds."""
        newest = max((path.stat().st_mtime for path in Path("/var/lib/apt/lists").glob("*_Packages*")), default=0.0)
        if time.time() - newest > valid:
            self._run("apt-get", f"--option=DPkg::Lock::Timeout={self.timeout}", "update")

    def keep_files(self, plan: Plan) -> None:
        """Make sure that the file of every package that is replaced or removed is there. Raises `TransactionError`."""
        lost = []
        for name in [*plan.replaced, *plan.removed]:
            package = self.present[name]
            file = archive_name(name, package.version, package.architecture)
            if (self.archive / file).is_file():
                continue
            common = Path("/var/cache/apt/archives") / file
            if common.is_file():
                shutil.copyfile(common, self.archive / file)
                continue
            status, _output, _errors = self.module.run_command(
                ["apt-get", "download", f"{name}={package.version}"], cwd=str(self.archive)
            )
            if status != 0 or not (self.archive / file).is_file():
                lost.append(f"{name} {package.version}")
        if lost:
            raise TransactionError(
                f"there would be no way back: no file and no repository has {', '.join(lost)}. Put the files into"
                f" {self.archive}, or remove these packages first"
            )

    @contextlib.contextmanager
    def no_services(self) -> t.Iterator[None]:
        """Keep daemons from being started by the scripts of their packages: they are not configured yet."""
        if POLICY.exists():
            yield
            return
        POLICY.write_text("#!/bin/sh\nexit 101\n", encoding="utf-8")
        POLICY.chmod(0o755)
        try:
            yield
        finally:
            POLICY.unlink()

    def undo(self, record: Record) -> list[str]:
        """Undo a change; return what is still not as it was."""
        self.prefer(record.preferences)
        self.refresh()
        back = way_back(record, self.present)
        if not back.empty:
            self._run("apt-mark", "unhold", *sorted({*back.install, *self._known(back.remove)}), check=False)
            files = []
            for name, version in back.install.items():
                known = self.present.get(name)
                pattern = archive_name(name, version, known.architecture if known else "*")
                found = sorted(self.archive.glob(_escape(pattern)))
                if not found:
                    raise TransactionError(f"the file of {name} {version} is gone from {self.archive}")
                files.append(str(found[-1]))
            with self.no_services():
                # Together, so that apt never has to find a host in which only half of a driver is there.
                self.apt("install", "--purge", *files, *[f"{name}-" for name in back.remove], check=False)
                self.refresh()
                remaining = way_back(record, self.present)
                if remaining.remove:
                    # What apt would first repair (a package whose script has failed) dpkg simply removes.
                    self._run("dpkg", "--purge", "--force-remove-reinstreq", *remaining.remove, check=False)
            self.refresh()
        dependencies = [name for name, version in record.before.items() if version and name not in record.manual]
        self.mark("auto", dependencies)
        self.mark("manual", [name for name in record.manual if name in self.present])
        self._hold(record.held)
        self.refresh()
        return left_over(record, self.present)

    def _known(self, names: t.Iterable[str]) -> list[str]:
        return [name for name in names if name in self.present]

    def mark(self, mark: str, names: list[str]) -> None:
        """Mark packages as asked for, as dependencies, or as held."""
        if names:
            self._run("apt-mark", mark, *names)

    def _hold(self, names: list[str]) -> None:
        """Have exactly these packages held, of those that this module holds."""
        before = self.held
        gone = [name for name in before if name not in names and name in self.present]
        self.mark("unhold", gone)
        self.mark("hold", [name for name in names if not (name in self.present and self.present[name].held)])
        if names != before:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o755)
            self.held_path.write_text(json.dumps(sorted(names)), encoding="utf-8")

    def installed_members(self) -> dict[str, str]:
        """The members that are installed, with their versions."""
        return {
            name: package.version
            for name, package in sorted(self.present.items())
            if package.well and matches(name, self.members)
        }

    def holds_to_change(self, wanted: bool) -> bool:
        """Whether a package would be put on hold, or released."""
        names = sorted(self.installed_members()) if wanted else []
        return names != self.held or any(not self.present[name].held for name in names)

    def hold(self, wanted: bool) -> None:
        """Put the members on hold, or release them."""
        self._hold(sorted(self.installed_members()) if wanted else [])
        self.refresh()

    def prune(self) -> None:
        """Throw away files that no way back needs."""
        needed: set[tuple[str, str]] = set(self.installed_members().items())
        for record in self.records()[-1:]:
            needed |= {(name, version) for name, version in record.before.items() if version}
        patterns = [_escape(archive_name(name, version, "*")) for name, version in needed]
        keep = {path for pattern in patterns for path in self.archive.glob(pattern)}
        for path in self.archive.glob("*.deb"):
            if path not in keep:
                path.unlink()


def _escape(name: str) -> str:
    """A file name in which only the star of the architecture is a pattern."""
    return re.sub(r"([\[?])", r"[\1]", name)


def _last_words(output: str, errors: str) -> str:
    """What of apt's output says why."""
    lines = [line.strip() for line in f"{output}\n{errors}".splitlines() if line.strip()]
    told = [
        line
        for line in lines
        if line.startswith(("E: ", "Error", "dpkg: error")) or "unmet" in line or "Depends:" in line
    ]
    return "; ".join((told or lines)[-6:]) or "it gave no reason"


def present(packages: Packages, options: dict[str, t.Any], check: bool) -> dict[str, t.Any]:
    """Install. Raises `TransactionError`."""
    asked: list[str] = options["packages"]
    missing = [name for name in asked if name not in packages.present or not packages.present[name].well]
    unwanted = [
        f"{name}-"
        for name, package in sorted(packages.present.items())
        if package.present and matches(name, options["unwanted"]) and name not in asked
    ]
    before = packages.preferences
    preferred = preferences(options["members"], options["version"])
    wanted = [*(asked if options["update"] else missing), *unwanted]
    if not wanted:
        changed = packages.holds_to_change(options["hold"]) or preferred != before
        if changed and not check:
            packages.prefer(preferred)
            packages.hold(options["hold"])
        return {"changed": changed}
    if check:
        try:
            plan = packages.plan(wanted)
        except TransactionError:
            # A host that has never read a package list; what is missing is all that can be told.
            plan = Plan(dict.fromkeys(missing, (None, "newest")))
        changed = bool(plan.changes) or preferred != before or packages.holds_to_change(options["hold"])
        return {"changed": changed, **_told(plan)}
    packages.update_lists(options["cache_valid_time"])
    packages.prepare()
    packages.prefer(preferred)
    try:
        plan = packages.plan(wanted)
        changed = bool(plan.changes) or preferred != before
        if plan.changes:
            _change(packages, wanted, plan, before, options["logs"])
    except TransactionError:
        packages.prefer(before)
        raise
    if packages.holds_to_change(options["hold"]):
        packages.hold(options["hold"])
        changed = True
    packages.prune()
    return {"changed": changed, **_told(plan)}


def _change(packages: Packages, asked: list[str], plan: Plan, before: str, logs: list[str]) -> None:
    """Make the change of a plan, or undo what of it was made. Raises `TransactionError`."""
    if others := foreign_holds(plan, packages.present, packages.held):
        raise TransactionError(
            f"{', '.join(others)} would be changed, but somebody has put it on hold. If that is no longer meant:"
            f" apt-mark unhold {' '.join(others)}"
        )
    packages.keep_files(plan)
    records = packages.records()
    number = records[-1].number + 1 if records else 1
    record = record_of(number, asked, plan, packages.present, packages.manual(), before)
    packages.write(record)
    begun = time.time()
    try:
        with packages.no_services():
            packages.apt("install", *asked)
    except TransactionError as error:
        told = errors_in(logs, begun)
        problems = packages.undo(record)
        if not problems:
            packages.forget(record)
        reason = f"{error}. The build says: {' | '.join(told)}" if told else str(error)
        raise Failed(reason, not problems, problems) from error
    packages.refresh()


def errors_in(patterns: list[str], since: float) -> list[str]:
    """The first errors in the log files that were written since a time."""
    found: list[str] = []
    for pattern in patterns:
        for name in sorted(glob.glob(pattern)):
            path = Path(name)
            if path.stat().st_mtime >= since:
                text = path.read_text(encoding="utf-8", errors="replace")
                found += [line for line in first_errors(text) if line not in found]
    return found


class Failed(TransactionError):
    """A change that failed after it had begun."""

    def __init__(self, reason: str, restored: bool, problems: list[str]) -> None:
        """Say what became of it."""
        then = "everything is as it was before" if restored else f"what is not as before: {'; '.join(problems)}"
        super().__init__(f"{reason}. It was undone: {then}")
        self.restored = restored


def previous(packages: Packages, options: dict[str, t.Any], check: bool) -> dict[str, t.Any]:
    """Undo the last change. Raises `TransactionError`."""
    records = packages.records()
    if not records:
        raise TransactionError(f"{packages.root} has no record of a change that could be undone")
    record = records[-1]
    back = way_back(record, packages.present)
    plan = Plan({name: (_present_version(packages, name), version) for name, version in back.install.items()})
    plan.changes.update({name: (_present_version(packages, name), None) for name in back.remove})
    if not check:
        problems = packages.undo(record)
        if problems:
            raise TransactionError(f"the way back did not succeed: {'; '.join(problems)}")
        packages.forget(record)
        packages.hold(options["hold"])
        packages.prune()
    return {"changed": True, **_told(plan)}


def _present_version(packages: Packages, name: str) -> str | None:
    package = packages.present.get(name)
    return package.version if package is not None else None


def absent(packages: Packages, check: bool) -> dict[str, t.Any]:
    """Remove. Raises `TransactionError`."""
    names = to_remove(packages.records(), packages.present, packages.members, packages.manual())
    plan = Plan({name: (packages.present[name].version, None) for name in names})
    if names:
        arguments = ("remove", "--purge", *names)
        status, output, errors = packages.apt("--simulate", *arguments, check=False)
        if status != 0:
            raise TransactionError(f"apt cannot remove them: {_last_words(output, errors)}")
        others = sorted(set(parse_simulation(output, packages.present).removed) - set(names))
        if others:
            raise TransactionError(
                f"{', '.join(others)} would be removed as well, because it needs one of {', '.join(names[:5])}…;"
                " remove it first if that is meant"
            )
        if not check:
            packages.mark("unhold", names)
            packages.apt(*arguments)
    changed = bool(names) or packages.root.exists() or bool(packages.preferences)
    if not check:
        packages.prefer("")
        shutil.rmtree(packages.root, ignore_errors=True)
        packages.refresh()
    return {"changed": changed, **_told(plan)}


def _told(plan: Plan) -> dict[str, t.Any]:
    answer: dict[str, t.Any] = {"added": plan.added, "replaced": plan.replaced, "removed": plan.removed}
    if plan.changes:
        answer["diff"] = plan.diff()
    return answer


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["present", "previous", "absent", "listed"], "default": "present"},
            "packages": {"type": "list", "elements": "str", "default": []},
            "unwanted": {"type": "list", "elements": "str", "default": []},
            "logs": {"type": "list", "elements": "str", "default": ["/var/lib/dkms/*/*/build/make.log"]},
            "members": {"type": "list", "elements": "str", "default": []},
            "hold": {"type": "bool", "default": True},
            "version": {"type": "str", "default": ""},
            "update": {"type": "bool", "default": False},
            "cache_valid_time": {"type": "int", "default": 3600},
            "timeout": {"type": "int", "default": 300},
        },
        supports_check_mode=True,
    )
    options = module.params
    try:
        packages = Packages(module)
        if options["state"] == "present":
            answer = present(packages, options, module.check_mode)
        elif options["state"] == "previous":
            answer = previous(packages, options, module.check_mode)
        elif options["state"] == "absent":
            answer = absent(packages, module.check_mode)
        else:
            answer = {"changed": False}
        known = packages.records()
    except Failed as error:
        module.fail_json(msg=str(error), restored=error.restored)
    except (TransactionError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        **{"added": [], "replaced": [], "removed": [], **answer},
        held=packages.held,
        versions=packages.installed_members(),
        can_go_back=bool(known),
    )


if __name__ == "__main__":
    main()
