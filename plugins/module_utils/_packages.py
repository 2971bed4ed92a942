# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which operating system packages a host is asked to have, and which of them it has."""

from __future__ import annotations

import typing as t

#: The key of a package set that holds on every release.
EVERYWHERE = "all"


class PackageSetError(ValueError):
    """A package set that is not declared or not well formed."""


def parse_os_release(text: str) -> dict[str, str]:
    """Read the assignments of an ``os-release`` file.

    :param text: content of ``/etc/os-release``.
    :returns: the assignments, quotes removed.
    """
    values: dict[str, str] = {}
    for line in text.splitlines():
        name, sign, value = line.strip().partition("=")
        if sign and not name.startswith("#"):
            values[name] = value.strip().strip("\"'")
    return values


def resolve(
    declared: t.Mapping[str, t.Mapping[str, t.Sequence[str]]], names: t.Sequence[str], codename: str
) -> list[str]:
    """Name the packages that some sets mean on one release of an operating system.

    :param declared: package sets: set name → ``all`` or the codename of a release → package names.
    :param names: the sets that are wanted.
    :param codename: of the host's release, such as ``bookworm``.
    :returns: package names, sorted, each once.
    :raises PackageSetError: a set that is not declared, or is not a mapping of lists.
    """
    packages: set[str] = set()
    for name in names:
        if name not in declared:
            raise PackageSetError(f"unknown package set {name!r}; the lock has: {', '.join(sorted(declared))}")
        by_release = declared[name]
        if not hasattr(by_release, "get"):
            raise PackageSetError(f"package set {name!r} is not a mapping of releases to package names")
        for key in (EVERYWHERE, codename):
            listed = by_release.get(key, ())
            if isinstance(listed, str):
                raise PackageSetError(f"package set {name!r}: {key!r} must be a list of package names")
            packages.update(listed)
    return sorted(packages)


def missing(wanted: t.Iterable[str], dpkg_query: str) -> list[str]:
    """Tell which packages are not installed.

    :param wanted: package names.
    :param dpkg_query: output of ``dpkg-query -W -f '${db:Status-Status} ${Package} ${Provides}\\n'``.
    :returns: the wanted packages that are neither installed nor provided by an installed one, sorted.
    """
    present: set[str] = set()
    for line in dpkg_query.splitlines():
        status, _sign, rest = line.partition(" ")
        if status != "installed":
            continue
        package, _sign, provides = rest.partition(" ")
        present.add(package)
        present.update(part.split(" ")[0].split(":")[0] for part in provides.split(", ") if part)
    return sorted(set(wanted) - present)
