# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""A few cases of the fuzzing of images and packages; the scripts in ``fuzz`` run as many as they are told."""

from __future__ import annotations

import pytest

from fuzz import fuzz_images, fuzz_packages


@pytest.mark.filterwarnings("ignore:::PIL")
def test_damaged_images() -> None:
    found = fuzz_images.run(1500, seed=7)
    # Both happen, or nothing would be tried.
    assert found["refused"] > 300
    assert found["taken"] > 100


def test_damaged_packages() -> None:
    found = fuzz_packages.run(150, seed=7)
    assert found["refused"] > 50
    assert found["taken"] > 10
