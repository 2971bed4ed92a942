# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Subsets of the conformance runs; ``conformance/`` has them whole."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from conformance.clients import build_models, check_kserve, check_triton
from conformance.nodes import Report, collect, prepare, run
from conformance.server import serving

KSERVE = shutil.which(os.environ.get("AI102_KSERVE_PYTHON", ""))


def test_official_clients(tmp_path: Path) -> None:
    with serving(tmp_path / "server", build_models(tmp_path)) as server:
        address = f"127.0.0.1:{server.config['listen']['port']}"
        assert check_triton(address) > 100
        if KSERVE is not None:
            assert check_kserve(KSERVE, address) > 40


@pytest.mark.skipif(KSERVE is None, reason="AI102_KSERVE_PYTHON names no interpreter that has the package kserve")
def test_kserve_was_asked() -> None:
    """The test above has asked it; this one is skipped visibly where it has not."""


def test_onnx_nodes(tmp_path: Path) -> None:
    # Every datatype, text, no inputs, empty tensors, scalars, several outputs, NaN and infinities.
    modules = ["cast", "constant", "string_concat", "isnan", "isinf", "split", "size", "topk", "reducesum", "where"]
    report = Report()
    cases = prepare(collect(modules=modules), report)
    run(cases, report, tmp_path)
    assert report.failed == []
    assert report.passed["binary"] > 50
    assert report.passed["JSON"] > 45
    # What V2 cannot carry is named, and not sent.
    assert any("float8" in reason for reason in report.skipped)
