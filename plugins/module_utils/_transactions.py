# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes of operating system packages that can be undone.

A change is written down before it is made: which packages it touches and which version each had. Their files are
kept, so that the way back needs neither a network nor a repository that still has the old version (Debian's security
archive has only the newest one). Nothing here runs a program; that is the module's work.
"""

from __future__ import annotations

import fnmatch
import re
import typing as t
from dataclasses import dataclass, field

SCHEMA: t.Final = 1

#: What ``dpkg-query -W`` is asked for.
QUERY: t.Final = "${binary:Package}\\t${Version}\\t${Architecture}\\t${db:Status-Want}\\t${db:Status-Status}\\n"

#: States in which the files of a package are on the host, though its scripts may not have ended well.
_PRESENT: t.Final = (
    "unpacked",
    "half-configured",
    "half-installed",
    "triggers-awaited",
    "triggers-pending",
    "installed",
)

_INSTALL = re.compile(r"^Inst (?P<name>\S+)(?: \[(?P<old>[^\]]+)\])? \((?P<new>\S+)[^)]*?(?: \[(?P<arch>[^\]]+)\])?\)")
_REMOVE = re.compile(r"^(?:Remv|Purg) (?P<name>\S+)(?: \[(?P<old>[^\]]+)\])?")


class TransactionError(ValueError):
    """A change that cannot be made, or cannot be undone."""


@dataclass(frozen=True)
class Package:
    """A package that dpkg knows."""

    name: str
    version: str
    architecture: str
    held: bool
    status: str

    @property
    def present(self) -> bool:
        """Whether its files are on the host."""
        return self.status in _PRESENT

    @property
    def well(self) -> bool:
        """Whether it is installed completely."""
        return self.status in ("installed", "triggers-awaited", "triggers-pending")


def archive_name(name: str, version: str, architecture: str) -> str:
    """The name that apt gives to the file of a package."""
    return f"{name.split(':')[0]}_{version.replace(':', '%3a')}_{architecture}.deb"


def parse_dpkg(text: str, native: str) -> dict[str, Package]:
    """Read the answer to ``QUERY``.

    :param text: the answer.
    :param native: the host's own architecture, whose packages apt names without a suffix.
    """
    found: dict[str, Package] = {}
    for line in text.splitlines():
        parts = line.split("\t")
        if len(parts) != 5:
            continue
        name, version, architecture, want, status = parts
        name = name.removesuffix(f":{native}")
        found[name] = Package(name, version, architecture, want == "hold", status)
    return found


@dataclass
class Plan:
    """What apt would do: package → version before and version after; None where there is none."""

    changes: dict[str, tuple[str | None, str | None]] = field(default_factory=dict)

    @property
    def added(self) -> list[str]:
        """Packages that are new."""
        return sorted(name for name, (old, new) in self.changes.items() if old is None and new is not None)

    @property
    def replaced(self) -> list[str]:
        """Packages that get another version."""
        return sorted(name for name, (old, new) in self.changes.items() if old is not None and new is not None)

    @property
    def removed(self) -> list[str]:
        """Packages that go away."""
        return sorted(name for name, (_old, new) in self.changes.items() if new is None)

    def diff(self) -> dict[str, str]:
        """For Ansible's ``--diff``."""

        def side(number: int) -> str:
            return "".join(
                f"{name} {versions[number]}\n" for name, versions in sorted(self.changes.items()) if versions[number]
            )

        return {"before": side(0), "after": side(1)}


def parse_simulation(text: str, present: t.Mapping[str, Package]) -> Plan:
    """Read what ``apt-get --simulate`` says it would do.

    :param text: its output.
    :param present: what dpkg knows, for the versions that apt does not tell of packages it removes.
    """
    plan = Plan()
    for line in text.splitlines():
        if match := _INSTALL.match(line):
            plan.changes[match["name"]] = (match["old"] or _version(present, match["name"]), match["new"])
        elif match := _REMOVE.match(line):
            plan.changes[match["name"]] = (match["old"] or _version(present, match["name"]), None)
    return plan


def _version(present: t.Mapping[str, Package], name: str) -> str | None:
    package = present.get(name)
    return package.version if package is not None and package.present else None


def matches(name: str, patterns: t.Iterable[str]) -> bool:
    """Whether a package belongs to one of the patterns."""
    return any(fnmatch.fnmatchcase(name.split(":")[0], pattern) for pattern in patterns)


@dataclass
class Record:
    """A change as it was written down before it was made."""

    number: int
    requested: list[str]
    before: dict[str, str | None]
    after: dict[str, str | None]
    manual: list[str]
    held: list[str]
    preferences: str = ""  #: what apt's preferences for these packages said before

    def to_dict(self) -> dict[str, t.Any]:
        """For the file."""
        return {
            "schema": SCHEMA,
            "number": self.number,
            "requested": self.requested,
            "before": self.before,
            "after": self.after,
            "manual": self.manual,
            "held": self.held,
            "preferences": self.preferences,
        }

    @classmethod
    def from_dict(cls, data: t.Mapping[str, t.Any]) -> Record:
        """Read the file. Raises `TransactionError`."""
        if data.get("schema") != SCHEMA:
            raise TransactionError(f"a record of schema {data.get('schema')!r}; this version reads {SCHEMA}")
        try:
            return cls(
                number=int(data["number"]),
                requested=[str(name) for name in data["requested"]],
                before=dict(data["before"]),
                after=dict(data["after"]),
                manual=[str(name) for name in data["manual"]],
                held=[str(name) for name in data["held"]],
                preferences=str(data["preferences"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise TransactionError(f"a record that is not well formed: {error}") from error


def record_of(
    number: int,
    requested: t.Sequence[str],
    plan: Plan,
    present: t.Mapping[str, Package],
    manual: t.Iterable[str],
    preferences: str = "",
) -> Record:
    """Write down what a plan will change."""
    before = {name: old for name, (old, _new) in sorted(plan.changes.items())}
    touched = set(before)
    return Record(
        number=number,
        requested=sorted(requested),
        before=before,
        after={name: new for name, (_old, new) in sorted(plan.changes.items())},
        manual=sorted(touched & set(manual)),
        held=sorted(name for name in touched if name in present and present[name].held),
        preferences=preferences,
    )


def preferences(members: t.Sequence[str], version: str) -> str:
    """Apt's preferences that allow one version of the members only, an older one than the installed as well.

    :param version: a version, with ``*`` for what may differ; empty means none.
    """
    if not version or not members:
        return ""
    return (
        "# Written by Ansible (ai102.inference): changes are overwritten.\n"
        f"Package: {' '.join(members)}\nPin: version {version}\nPin-Priority: 1001\n"
    )


@dataclass(frozen=True)
class WayBack:
    """What has to be done to undo a change."""

    install: dict[str, str]  #: package → version
    remove: list[str]

    @property
    def empty(self) -> bool:
        """Whether nothing has to be done."""
        return not self.install and not self.remove


def way_back(record: Record, present: t.Mapping[str, Package]) -> WayBack:
    """Tell what undoes a change, from what is on the host now.

    A package of the change that somebody has removed or replaced since is put back as well: the packages of a driver
    only work together.
    """
    install: dict[str, str] = {}
    remove: list[str] = []
    for name, version in sorted(record.before.items()):
        package = present.get(name)
        if version is None:
            if package is not None and (package.present or package.status == "config-files"):
                remove.append(name)
        elif package is None or not package.well or package.version != version:
            install[name] = version
    return WayBack(install, remove)


def left_over(record: Record, present: t.Mapping[str, Package]) -> list[str]:
    """Say in which way the host differs from what was before a change; empty when it does not."""
    problems = []
    for name, version in sorted(record.before.items()):
        package = present.get(name)
        if version is None and package is not None and package.present:
            problems.append(f"{name} {package.version} is still there ({package.status})")
        elif version is not None and (package is None or package.version != version):
            found = package.version if package is not None and package.present else "absent"
            problems.append(f"{name} is {found}, not {version}")
        elif version is not None and package is not None and not package.well:
            problems.append(f"{name} {version} is {package.status}")
    return problems


def to_remove(
    records: t.Sequence[Record], present: t.Mapping[str, Package], members: t.Sequence[str], manual: t.Iterable[str]
) -> list[str]:
    """Name the packages that go away when everything is removed.

    Those that the changes added, and those that are members; but not what came along as a dependency and was since
    asked for by somebody (``apt-mark showmanual``), because it is needed for something else now.
    """
    added: dict[str, bool] = {}
    for record in records:
        for name, version in record.before.items():
            if version is None:
                added.setdefault(name, name in record.requested)
    wanted = set(manual)
    names = {
        name
        for name, package in present.items()
        if (package.present or package.status == "config-files")
        and (matches(name, members) or (name in added and (added[name] or name not in wanted)))
    }
    return sorted(names)


def foreign_holds(plan: Plan, present: t.Mapping[str, Package], ours: t.Iterable[str]) -> list[str]:
    """Name the packages that a plan would change though somebody else has put them on hold."""
    own = set(ours)
    return sorted(
        name for name in plan.changes if name in present and present[name].held and name.split(":")[0] not in own
    )
