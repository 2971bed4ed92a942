# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Model packages on disk: what they hold, the proof that they hold what was signed, and which of them to serve."""

from __future__ import annotations

from ai102_server.repository.encryption import KeyRing, load_keys
from ai102_server.repository.golden import GoldenRequest, compare_tensors, load_golden, parse_golden
from ai102_server.repository.package import ModelPackage, load_public_keys, open_package
from ai102_server.repository.serving import Batching, Serving
from ai102_server.repository.versions import version_key

__all__ = [
    "Batching",
    "GoldenRequest",
    "KeyRing",
    "ModelPackage",
    "Serving",
    "compare_tensors",
    "load_golden",
    "load_keys",
    "load_public_keys",
    "open_package",
    "parse_golden",
    "version_key",
]
