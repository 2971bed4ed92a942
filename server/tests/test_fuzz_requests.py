# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Some of the mutated requests; ``fuzz/fuzz_requests.py`` sends as many as one likes."""

from __future__ import annotations

from pathlib import Path

from fuzz.fuzz_requests import build_app, run_app, run_codec


def test_codec() -> None:
    ends, found = run_codec(8000, seed=2026)
    assert found == []
    # A fuzzer whose requests are all refused for their first byte would find nothing.
    assert ends["200"] > 2000
    assert ends["400"] > 2000


def test_application(tmp_path: Path) -> None:
    ends, found = run_app(build_app(tmp_path), 2000, seed=2026)
    assert found == []
    assert ends["200"] > 300
    assert {"400", "404", "415"} <= set(ends)
