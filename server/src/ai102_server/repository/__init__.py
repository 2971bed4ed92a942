# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Model packages on disk: what they hold, and the proof that they hold what was signed."""

from __future__ import annotations

from ai102_server.repository.golden import GoldenRequest, compare_tensors, load_golden
from ai102_server.repository.package import ModelPackage, load_public_key, open_package

__all__ = [
    "GoldenRequest",
    "ModelPackage",
    "compare_tensors",
    "load_golden",
    "load_public_key",
    "open_package",
]
