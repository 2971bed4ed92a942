# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""The order of a model's versions."""

from __future__ import annotations

import re

__all__ = ["version_key"]


def version_key(version: str) -> list[tuple[int, int, str]]:
    """Key that sorts 1, 2, 10, and 1.9 before 1.10: numbers by their value, everything else as text before them."""
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in re.findall(r"\d+|[^\d]+", version)]
