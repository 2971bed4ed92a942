# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""What the server tells nobody."""

from __future__ import annotations

import os
import subprocess
import sys

THREADS = """
import ai102_server, onnxruntime, os
print(len(os.listdir("/proc/self/task")))
"""


def _threads(telemetry: str | None) -> int:
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    if telemetry is not None:
        environment["ORT_DISABLE_TELEMETRY"] = telemetry
    done = subprocess.run([sys.executable, "-c", THREADS], env=environment, capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_onnx_runtime_does_not_report_its_use() -> None:
    """Its reporting runs in a thread of its own, which is not there unless somebody asks for it."""
    assert _threads(None) == _threads("1") < _threads("0")
