# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The verdict says what failed first, and its four forms agree."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest
from ansible_collections.ai102.inference.plugins.module_utils._verdict import Check, Verdict

PASS = Check("cpu", "gpu2", "pass", "at least 16 cores", "32 cores")
WARN = Check("memory", "gpu2", "warn", "64 GB", "48 GB", "Add memory.")
FAIL = Check("disk./var", "gpu10", "fail", "at least 1 TB", "480 GB", "Use a larger disk for /var.")
SKIP = Check("gpu", "gpu2", "skip", "", "not asked for")


def test_dict_form_is_the_agreed_one() -> None:
    document = Verdict("preflight", [PASS, FAIL], created="2026-01-02T03:04:05+00:00").to_dict()
    assert document == {
        "schema": 1,
        "kind": "preflight",
        "ok": False,
        "created": "2026-01-02T03:04:05+00:00",
        "summary": {"pass": 1, "warn": 0, "fail": 1, "skip": 0},
        "checks": [
            {
                "check": "disk./var",
                "host": "gpu10",
                "status": "fail",
                "expected": "at least 1 TB",
                "actual": "480 GB",
                "hint": "Use a larger disk for /var.",
            },
            {
                "check": "cpu",
                "host": "gpu2",
                "status": "pass",
                "expected": "at least 16 cores",
                "actual": "32 cores",
                "hint": "",
            },
        ],
    }
    assert json.loads(json.dumps(document)) == document


def test_warnings_and_skips_do_not_fail() -> None:
    assert Verdict("preflight", [PASS, WARN, SKIP]).ok


def test_a_verdict_about_nothing_is_not_good() -> None:
    verdict = Verdict("preflight", [])
    assert not verdict.ok
    assert verdict.sentence() == "preflight: FAIL, nothing was checked"


def test_failures_come_first_and_hosts_sort_naturally() -> None:
    more = Check("disk./var", "gpu9", "fail", "x", "y")
    verdict = Verdict("preflight", [PASS, SKIP, WARN, FAIL, more])
    assert [(check.status, check.host) for check in verdict.checks] == [
        ("fail", "gpu9"),
        ("fail", "gpu10"),
        ("warn", "gpu2"),
        ("skip", "gpu2"),
        ("pass", "gpu2"),
    ]
    assert verdict.hosts == ["gpu2", "gpu9", "gpu10"]


def test_round_trip() -> None:
    for check in (PASS, WARN, FAIL, SKIP):
        assert Check.from_dict(check.to_dict()) == check


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"check": "a", "host": "b"}, "lacks status"),
        ({"check": "a", "host": "b", "status": "ok"}, "'ok' is none of"),
        ({"check": "a", "host": "b", "status": "pass", "hints": "typo"}, "unknown keys: hints"),
        ("text", "must be a dictionary, not str"),
    ],
)
def test_wrong_checks_are_refused(data: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Check.from_dict(data)


def test_sentence_counts() -> None:
    assert (
        Verdict("preflight", [PASS, WARN, SKIP, FAIL]).sentence()
        == "preflight: FAIL, 1 of 4 checks failed: gpu10 (1 warning, 1 skipped)"
    )
    assert Verdict("verify", [PASS]).sentence() == "verify: PASS, 1 of 1 checks passed"
    many = Verdict("verify", [Check("cpu", f"h{n}", "fail", "a", "b") for n in range(7)])
    assert many.sentence() == "verify: FAIL, 7 of 7 checks failed: h0, h1, h2, h3, h4 and 2 more"


def test_table_is_fixed_width_with_failures_first_and_hints_beneath() -> None:
    long = Check(
        "port.443", "gateway-with-a-very-long-inventory-name", "fail", "free " * 30, "held " * 30, "Stop it. " * 20
    )
    text = Verdict("preflight", [PASS, WARN, FAIL, long]).table(width=100)
    lines = text.splitlines()
    assert all(len(line) <= 100 for line in lines), text
    starts = [index for index, line in enumerate(lines) if line.startswith(("FAIL", "WARN", "PASS"))]
    assert [lines[index][:4] for index in starts] == ["FAIL", "FAIL", "WARN", "PASS"]
    found = next(index for index, line in enumerate(lines) if line.startswith("FAIL  gpu10"))
    assert "480 GB" in lines[found]
    assert "at least 1 TB" in lines[found]
    assert lines[found + 1].strip() == "→ Use a larger disk for /var."


def test_table_folds_what_passed_on_many_hosts() -> None:
    checks = [Check("cpu", f"gpu{number}", "pass", "a", "b") for number in range(400)]
    text = Verdict("preflight", [*checks, FAIL]).table()
    assert "PASS  400 checks on 400 hosts" in text
    assert len(text.splitlines()) < 12
    assert len(Verdict("preflight", checks).table(passes="all").splitlines()) > 400


def test_table_puts_hosts_with_the_same_shortfall_into_one_row() -> None:
    checks = [Check("clock", f"h{number}", "warn", "kept", "not kept", "Enable it.") for number in range(9)]
    text = Verdict("preflight", [*checks, Check("clock", "other", "warn", "kept", "unknown", "Enable it.")]).table()
    assert text.count("WARN") == 2
    assert "h0, h1, h2" in text
    column = "".join(line[6:30].strip() + " " for line in text.splitlines())
    assert "h4, h5 and 3 more" in " ".join(column.split())


def test_failure_text_names_host_check_numbers_and_hint() -> None:
    text = Verdict("preflight", [PASS, FAIL]).failure_text()
    assert "gpu10: disk./var: 480 GB; expected: at least 1 TB" in text
    assert "→ Use a larger disk for /var." in text
    many = Verdict("preflight", [Check("cpu", f"h{n}", "fail", "a", "b") for n in range(60)])
    assert "… and 10 more" in many.failure_text()


def test_junit_counts_agree_and_carries_what_xml_cannot() -> None:
    odd = Check("port", "h", "fail", "<free> & quiet", "noise \x00\x1b[31m", 'say "no"')
    root = ET.fromstring(Verdict("preflight", [PASS, WARN, FAIL, SKIP, odd]).junit())
    assert root.get("tests") == "5"
    assert root.get("failures") == "2"
    assert root.get("skipped") == "1"
    assert {suite.get("name") for suite in root} == {"gpu2", "gpu10", "h"}
    assert len(root.findall(".//failure")) == 2
    assert "warning" in (root.find(".//system-out").text or "")  # type: ignore[union-attr]  # proven by the test itself


class _Balanced(HTMLParser):
    VOID = frozenset({"meta", "br", "link", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.add(tag)
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag


def test_html_is_one_page_that_loads_and_runs_nothing() -> None:
    evil = Check("<script>alert(1)</script>", "h", "fail", '"><img src=x>', "<b>&", "</td><script>")
    page = Verdict("preflight", [PASS, evil]).html()
    parser = _Balanced()
    parser.feed(page)
    assert parser.stack == []
    assert not parser.seen & {"script", "img", "link", "iframe", "b" if "<b>&" in page else "script"}
    assert "http://" not in page
    assert "https://" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
