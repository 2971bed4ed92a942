# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes of packages: what apt would do, what is written down, what undoes it."""

from __future__ import annotations

import pytest
from ansible_collections.ai102.inference.plugins.module_utils._transactions import (
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

# Of a Debian 12 host: dpkg-query -W -f with the module's format.
DPKG = """\
libc6:amd64\t2.36-9+deb12u14\tamd64\tinstall\tinstalled
libc6:i386\t2.36-9+deb12u14\ti386\tinstall\tinstalled
nvidia-smi\t535.261.03-1\tamd64\thold\tinstalled
nvidia-kernel-dkms\t535.309.01-0+deb12u1\tamd64\tinstall\thalf-configured
glx-alternative-nvidia\t1.2.2\tamd64\tdeinstall\tconfig-files
broken line
"""

# Of the same host: apt-get --simulate install.
SIMULATION = """\
NOTE: This is only a simulation!
Remv nvidia-legacy-check [535.261.03-1]
Inst nvidia-smi [535.261.03-1] (535.309.01-0+deb12u1 Debian-Security:12/oldstable-security [amd64])
Inst dkms (3.0.10-8+deb12u1 Debian:12.15/oldstable [all])
Inst libfoo:i386 (1:2.0-1 Debian:12.15/oldstable [i386]) []
Conf nvidia-smi (535.309.01-0+deb12u1 Debian-Security:12/oldstable-security [amd64])
Purg old-thing [1.0]
"""


@pytest.fixture
def present() -> dict[str, Package]:
    return parse_dpkg(DPKG, "amd64")


def test_packages_of_the_own_architecture_have_no_suffix(present: dict[str, Package]) -> None:
    assert sorted(present) == ["glx-alternative-nvidia", "libc6", "libc6:i386", "nvidia-kernel-dkms", "nvidia-smi"]
    assert present["nvidia-smi"].held
    assert not present["libc6"].held


def test_a_package_whose_script_failed_is_present_but_not_well(present: dict[str, Package]) -> None:
    broken = present["nvidia-kernel-dkms"]
    assert broken.present
    assert not broken.well
    assert not present["glx-alternative-nvidia"].present


def test_what_apt_would_do(present: dict[str, Package]) -> None:
    plan = parse_simulation(SIMULATION, present)
    assert plan.added == ["dkms", "libfoo:i386"]
    assert plan.replaced == ["nvidia-smi"]
    assert plan.removed == ["nvidia-legacy-check", "old-thing"]
    assert plan.changes["nvidia-smi"] == ("535.261.03-1", "535.309.01-0+deb12u1")
    assert plan.diff() == {
        "before": "nvidia-legacy-check 535.261.03-1\nnvidia-smi 535.261.03-1\nold-thing 1.0\n",
        "after": "dkms 3.0.10-8+deb12u1\nlibfoo:i386 1:2.0-1\nnvidia-smi 535.309.01-0+deb12u1\n",
    }


def test_a_removal_without_a_version_is_looked_up(present: dict[str, Package]) -> None:
    assert parse_simulation("Remv nvidia-smi\n", present).changes == {"nvidia-smi": ("535.261.03-1", None)}


def test_names_of_files_are_as_apt_writes_them() -> None:
    assert archive_name("libfoo:i386", "1:2.0-1+b1", "i386") == "libfoo_1%3a2.0-1+b1_i386.deb"


def _record() -> Record:
    return Record(
        number=3,
        requested=["nvidia-smi"],
        before={"nvidia-smi": "535.261.03-1", "dkms": None, "gone": "1.0", "broken": "2.0"},
        after={"nvidia-smi": "535.309.01-0+deb12u1", "dkms": "3.0.10-8", "gone": None, "broken": "3.0"},
        manual=["nvidia-smi"],
        held=["nvidia-smi"],
        preferences="Package: x\n",
    )


def _package(name: str, version: str, status: str = "installed") -> Package:
    return Package(name, version, "amd64", False, status)


def test_the_way_back_names_what_differs() -> None:
    present = {
        package.name: package
        for package in (
            _package("nvidia-smi", "535.309.01-0+deb12u1"),
            _package("dkms", "3.0.10-8", "half-configured"),
            _package("broken", "2.0", "half-configured"),
        )
    }
    back = way_back(_record(), present)
    assert back.install == {"broken": "2.0", "gone": "1.0", "nvidia-smi": "535.261.03-1"}
    assert back.remove == ["dkms"]
    assert len(left_over(_record(), present)) == 4


def test_a_way_back_that_was_gone_has_nothing_left() -> None:
    present = {
        package.name: package
        for package in (_package("nvidia-smi", "535.261.03-1"), _package("gone", "1.0"), _package("broken", "2.0"))
    }
    assert way_back(_record(), present).empty
    assert left_over(_record(), present) == []


def test_settings_of_a_package_that_was_new_go_as_well() -> None:
    present = {"dkms": _package("dkms", "3.0", "config-files")}
    assert way_back(_record(), present).remove == ["dkms"]
    assert not [line for line in left_over(_record(), present) if line.startswith("dkms")]


def test_a_record_survives_its_file() -> None:
    assert Record.from_dict(_record().to_dict()) == _record()


@pytest.mark.parametrize("damage", [{"schema": 2}, {"before": 3}, {"number": "x"}])
def test_a_damaged_record_is_refused(damage: dict[str, object]) -> None:
    with pytest.raises(TransactionError):
        Record.from_dict({**_record().to_dict(), **damage})


def test_what_is_written_down(present: dict[str, Package]) -> None:
    record = record_of(1, ["nvidia-smi"], parse_simulation(SIMULATION, present), present, ["nvidia-smi", "vim"], "p")
    assert record.before["dkms"] is None
    assert record.before["nvidia-smi"] == "535.261.03-1"
    assert record.manual == ["nvidia-smi"]
    assert record.held == ["nvidia-smi"]
    assert record.preferences == "p"


def test_removal_takes_what_was_added_but_not_what_is_needed_since() -> None:
    first = Record(1, ["nvidia-smi"], {"nvidia-smi": None, "dkms": None, "gcc": None, "libc6": "1"}, {}, [], [])
    second = Record(2, ["nvidia-smi"], {"nvidia-smi": "1", "extra": None}, {}, [], [])
    names = ("nvidia-smi", "dkms", "gcc", "libc6", "extra", "nvidia-modprobe", "vim")
    present = {name: _package(name, "1") for name in names}
    assert to_remove([first, second], present, ["nvidia-*"], ["nvidia-smi", "gcc"]) == [
        "dkms",
        "extra",
        "nvidia-modprobe",
        "nvidia-smi",
    ]


def test_holds_of_others_are_respected(present: dict[str, Package]) -> None:
    plan = Plan({"nvidia-smi": ("1", "2"), "libc6": ("1", "2")})
    assert foreign_holds(plan, present, []) == ["nvidia-smi"]
    assert foreign_holds(plan, present, ["nvidia-smi"]) == []


def test_patterns_of_members() -> None:
    assert matches("libnvidia-ml1:i386", ["libnvidia-*"])
    assert not matches("libc6", ["libnvidia-*", "nvidia-*"])


def test_preferences_are_apt_s_own_format() -> None:
    text = preferences(["nvidia-*", "libcuda1"], "535.*")
    assert text.splitlines()[1:] == ["Package: nvidia-* libcuda1", "Pin: version 535.*", "Pin-Priority: 1001"]
    assert preferences(["nvidia-*"], "") == ""
