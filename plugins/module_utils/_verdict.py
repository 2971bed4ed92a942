# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The verdict: the one form in which everything that checks something answers.

A `Check` says what was expected on one host and what was found; a `Verdict` is a list of them and renders itself
as a table for people, a JSON document for machines, JUnit XML for CI and one HTML page to look at.
"""

from __future__ import annotations

import re
import textwrap
import time
import typing as t
import xml.etree.ElementTree as ET
from dataclasses import dataclass

from ansible_collections.ai102.inference.plugins.module_utils import _html

Status = t.Literal["pass", "warn", "fail", "skip"]

#: Order in which people want to read them: what stops them first.
STATUSES: t.Final[tuple[Status, ...]] = ("fail", "warn", "skip", "pass")

SCHEMA: t.Final = 1

#: Characters that XML 1.0 cannot carry at all, not even escaped.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Check:
    """One thing that was checked on one host.

    `check` is a short dotted name (`memory`, `port.443`), `host` the inventory name or `control node`, `expected`
    and `actual` are sentences for people with their units, `hint` says what to do about it.
    """

    check: str
    host: str
    status: Status
    expected: str
    actual: str
    hint: str = ""

    def __post_init__(self) -> None:
        """Refuse a status nobody else understands. Raises `ValueError`."""
        if self.status not in STATUSES:
            raise ValueError(f"check {self.check!r}: status {self.status!r} is none of {', '.join(STATUSES)}")

    def to_dict(self) -> dict[str, str]:
        """The JSON form."""
        return {
            "check": self.check,
            "host": self.host,
            "status": self.status,
            "expected": self.expected,
            "actual": self.actual,
            "hint": self.hint,
        }

    @classmethod
    def from_dict(cls, data: t.Mapping[str, t.Any]) -> Check:
        """Read the JSON form; numbers and None become text. Raises `ValueError` that names what is wrong."""
        if not isinstance(data, t.Mapping):
            raise ValueError(f"a check must be a dictionary, not {type(data).__name__}")
        missing = [key for key in ("check", "host", "status") if not data.get(key)]
        if missing:
            raise ValueError(f"a check lacks {', '.join(missing)}: {dict(data)!r}")
        unknown = sorted(set(data) - {"check", "host", "status", "expected", "actual", "hint"})
        if unknown:
            raise ValueError(f"check {data['check']!r} has unknown keys: {', '.join(unknown)}")
        return cls(
            check=str(data["check"]),
            host=str(data["host"]),
            status=t.cast(Status, str(data["status"])),
            expected=_text(data.get("expected")),
            actual=_text(data.get("actual")),
            hint=_text(data.get("hint")),
        )


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())


def _natural(text: str) -> list[tuple[int, int, str]]:
    """Sort key that puts `gpu2` before `gpu10`."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", text) if part]


class Verdict:
    """The checks of one occasion (`kind`: preflight, verify, canary, …) and what follows from them."""

    def __init__(self, kind: str, checks: t.Iterable[Check], created: str | None = None) -> None:
        """`created` is an ISO 8601 time; now when it is not given."""
        self.kind = kind
        self.created = created or _now()
        self.checks: list[Check] = sorted(
            checks, key=lambda check: (STATUSES.index(check.status), _natural(check.host), _natural(check.check))
        )

    @classmethod
    def from_dicts(cls, kind: str, checks: t.Iterable[t.Mapping[str, t.Any]]) -> Verdict:
        """Build from the JSON form of checks. Raises `ValueError`."""
        return cls(kind, [Check.from_dict(check) for check in checks])

    @property
    def ok(self) -> bool:
        """True when something was checked and nothing failed. A verdict about nothing is no success."""
        return bool(self.checks) and not self.failures

    @property
    def failures(self) -> list[Check]:
        """The checks that failed."""
        return [check for check in self.checks if check.status == "fail"]

    @property
    def hosts(self) -> list[str]:
        """The hosts that were checked, in natural order."""
        return sorted({check.host for check in self.checks}, key=_natural)

    @property
    def summary(self) -> dict[str, int]:
        """How many checks have each status."""
        return {
            status: sum(check.status == status for check in self.checks) for status in ("pass", "warn", "fail", "skip")
        }

    def sentence(self) -> str:
        """One line that says it all: `preflight: FAIL, 2 of 31 checks failed: gpu1, gpu2 (3 warnings)`."""
        counts = self.summary
        total = len(self.checks)
        if not total:
            return f"{self.kind}: FAIL, nothing was checked"
        if self.ok:
            text = f"PASS, {counts['pass']} of {total} checks passed"
        else:
            where = list(dict.fromkeys(check.host for check in self.failures))
            more = f" and {len(where) - 5} more" if len(where) > 5 else ""
            text = f"FAIL, {counts['fail']} of {total} checks failed: {', '.join(where[:5])}{more}"
        extra = [
            _count(counts[status], noun)
            for status, noun in (("warn", "warning"), ("skip", "skipped"))
            if counts[status]
        ]
        return f"{self.kind}: {text}" + (f" ({', '.join(extra)})" if extra else "")

    def to_dict(self) -> dict[str, t.Any]:
        """The JSON document."""
        return {
            "schema": SCHEMA,
            "kind": self.kind,
            "ok": self.ok,
            "created": self.created,
            "summary": self.summary,
            "checks": [check.to_dict() for check in self.checks],
        }

    def table(self, width: int = 110, passes: t.Literal["auto", "all", "hosts", "count", "none"] = "auto") -> str:
        """The table for people, `width` columns wide: failures first, hints beneath, what passed in few lines.

        `passes` says how much of what passed is listed: every check, one line for each host, one line in all, or
        nothing; `auto` is one line for each host up to 20 hosts and one line in all beyond.
        """
        if passes == "auto":
            passes = "hosts" if len(self.hosts) <= 20 else "count"
        listed = [check for check in self.checks if check.status != "pass" or passes == "all"]
        rows = _together(listed)
        host_width = min(max([len(host) for host in self.hosts] + [len(hosts) for _check, hosts in rows] + [4]), 24)
        check_width = min(max([len(check.check) for check in listed] + [5]), 28 if width < 100 else 40)
        # status, host, check and the two columns that remain, with two blanks between
        left = max(width - (4 + host_width + check_width + 8), 40)
        widths = (4, host_width, check_width, left // 2, left - left // 2)
        rule = "─" * (sum(widths) + 8)
        lines = [rule, self.sentence(), rule]
        if listed:
            lines.append(_row(("", "host", "check", "found", "expected"), widths))
        for check, hosts in rows:
            lines.extend(
                _cells((check.status.upper(), hosts, check.check, check.actual or "–", check.expected or "–"), widths)
            )
            if check.hint and check.status != "pass":
                indent = " " * 6 + "→ "
                lines.extend(textwrap.wrap(check.hint, len(rule), initial_indent=indent, subsequent_indent=" " * 8))
        passed = [check for check in self.checks if check.status == "pass"]
        if passed and passes == "hosts":
            for host in self.hosts:
                names = [check.check for check in passed if check.host == host]
                if names:
                    text = f"{len(names)}: {', '.join(names)}"
                    head = f"PASS  {host[:host_width]:<{host_width}}  "
                    lines.extend(
                        textwrap.wrap(
                            text,
                            len(rule),
                            initial_indent=head,
                            subsequent_indent=" " * len(head),
                            break_on_hyphens=False,
                        )
                    )
        elif passed and passes == "count":
            lines.append(f"PASS  {_count(len(passed), 'check')} on {_count(len({c.host for c in passed}), 'host')}")
        lines.append(rule)
        return "\n".join(line.rstrip() for line in lines)

    def failure_text(self, limit: int = 50) -> str:
        """The failures as lines for an error message; at most `limit` of them."""
        lines = [self.sentence()]
        for check in self.failures[:limit]:
            lines.append(f"{check.host}: {check.check}: {check.actual or '–'}; expected: {check.expected or '–'}")
            if check.hint:
                lines.append(f"    → {check.hint}")
        if len(self.failures) > limit:
            lines.append(f"… and {len(self.failures) - limit} more")
        return "\n".join(lines)

    def junit(self) -> str:
        """JUnit XML as GitLab, Jenkins and GitHub actions read it; warnings go to `system-out` of a passed case."""
        counts = self.summary
        totals = {"tests": str(len(self.checks)), "failures": str(counts["fail"]), "skipped": str(counts["skip"])}
        root = ET.Element("testsuites", {"name": _xml(self.kind), **totals, "errors": "0"})
        for host in self.hosts:
            checks = [check for check in self.checks if check.host == host]
            suite = ET.SubElement(
                root,
                "testsuite",
                {
                    "name": _xml(host),
                    "timestamp": self.created,
                    "tests": str(len(checks)),
                    "failures": str(sum(check.status == "fail" for check in checks)),
                    "skipped": str(sum(check.status == "skip" for check in checks)),
                    "errors": "0",
                    "time": "0",
                },
            )
            for check in checks:
                case = ET.SubElement(
                    suite,
                    "testcase",
                    {"classname": _xml(f"{self.kind}.{host}"), "name": _xml(check.check), "time": "0"},
                )
                text = _xml(f"found: {check.actual}\nexpected: {check.expected}\n{check.hint}".strip())
                if check.status == "fail":
                    ET.SubElement(case, "failure", {"message": _xml(check.actual), "type": "check"}).text = text
                elif check.status == "skip":
                    ET.SubElement(case, "skipped", {"message": _xml(check.actual)})
                elif check.status == "warn":
                    ET.SubElement(case, "system-out").text = _xml(f"warning\n{text}")
        ET.indent(root)
        return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"

    def html_section(self) -> _html.Markup:
        """The verdict as a part of a page: cards with the counts, then every check."""
        counts = self.summary
        cards = [("verdict", "PASS" if self.ok else "FAIL", "pass" if self.ok else "fail")]
        cards += [(status, str(counts[status]), status) for status in STATUSES if counts[status] or status == "fail"]
        cards.append(("hosts", str(len(self.hosts)), ""))
        rows = [
            (
                _html.status_badge(check.status),
                check.host,
                _html.tag("code", check.check),
                check.actual or "–",
                _html.join(
                    [check.expected or "–"]
                    + ([_html.tag("span", f"→ {check.hint}", class_="hint")] if check.hint else [])
                ),
            )
            for check in self.checks
        ]
        return _html.join(
            [
                _html.tag(
                    "div",
                    *(
                        _html.tag(
                            "div", _html.tag("b", value, class_=style or None), _html.tag("span", label), class_="card"
                        )
                        for label, value, style in cards
                    ),
                    class_="cards",
                ),
                _html.table(("status", "host", "check", "found", "expected"), rows),
            ]
        )

    def html(self) -> str:
        """One self-contained page."""
        return _html.page(
            f"{self.kind}: {'PASS' if self.ok else 'FAIL'}",
            _html.tag("h1", f"Verdict: {self.kind}"),
            _html.tag("p", f"{self.sentence()}. Made {self.created}.", class_="lead"),
            self.html_section(),
        )


def _together(checks: t.Sequence[Check], names: int = 6) -> list[tuple[Check, str]]:
    """Rows that differ in the host alone become one, with the hosts' names."""
    same: dict[tuple[str, ...], list[Check]] = {}
    for check in checks:
        # What passed is only listed for those who ask for every single row.
        alone = (check.host,) if check.status == "pass" else ()
        key = (check.status, check.check, check.expected, check.actual, check.hint, *alone)
        same.setdefault(key, []).append(check)
    return [
        (
            group[0],
            ", ".join(check.host for check in group[:names])
            + (f" and {len(group) - names} more" if len(group) > names else ""),
        )
        for group in same.values()
    ]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 or noun.endswith("ed") else f"{number} {noun}s"


def _xml(text: str) -> str:
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)


def _row(cells: t.Sequence[str], widths: t.Sequence[int]) -> str:
    return "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()


def _cells(cells: t.Sequence[str], widths: t.Sequence[int]) -> list[str]:
    """One logical row, its long cells broken into several lines."""
    wrapped = [
        textwrap.wrap(cell, width, break_on_hyphens=False) or [""] for cell, width in zip(cells, widths, strict=True)
    ]
    height = max(len(cell) for cell in wrapped)
    return [_row([cell[line] if line < len(cell) else "" for cell in wrapped], widths) for line in range(height)]
