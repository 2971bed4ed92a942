# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""What the server tells nobody."""

from __future__ import annotations

import os
import subprocess
import sys

THREADS = """
import ai102_server, onnxruntime, os, sys, time
most, until = 0, time.monotonic() + float(sys.argv[2])
while most < int(sys.argv[1]) and time.monotonic() < until:  # a thread of it may start late
    most = max(most, len(os.listdir("/proc/self/task")))
    time.sleep(0.02)
print(most)
"""

# ONNX Runtime reports nothing where one of these is set, so the last assertion would have nothing to see.
CI_VARIABLES = {
    *("CI", "TF_BUILD", "GITHUB_ACTIONS", "GITLAB_CI", "CIRCLECI", "TRAVIS", "JENKINS_URL", "CODEBUILD_BUILD_ID"),
    *("BUILDKITE", "TEAMCITY_VERSION", "APPVEYOR", "BITBUCKET_BUILD_NUMBER"),
}


def _threads(telemetry: str | None, wanted: int = 1000, seconds: float = 2) -> int:
    """The most threads seen, looking until there are as many as wanted or the time is over."""
    left_out = CI_VARIABLES | {"ORT_DISABLE_TELEMETRY"}
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    if telemetry is not None:
        environment["ORT_DISABLE_TELEMETRY"] = telemetry
    command = [sys.executable, "-c", THREADS, str(wanted), str(seconds)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_onnx_runtime_does_not_report_its_use() -> None:
    """Its reporting runs in a thread of its own, which is not there unless somebody asks for it."""
    quiet = _threads(None)
    assert quiet == _threads("1")
    assert quiet < _threads("0", wanted=quiet + 1, seconds=30)
