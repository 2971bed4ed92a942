# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""What is hidden from whom: masked logs, salted hashes, and sealed fields that are handed over between systems."""

from __future__ import annotations

from ai102_server.privacy.keys import Keyring, KeySource, new_key_line
from ai102_server.privacy.logs import MaskingFilter
from ai102_server.privacy.masking import DEFAULT_KINDS, KINDS, Masker
from ai102_server.privacy.patterns import CustomPattern
from ai102_server.privacy.pseudonyms import Pseudonyms
from ai102_server.privacy.sealing import Sealer, SealError

__all__ = [
    "DEFAULT_KINDS",
    "KINDS",
    "CustomPattern",
    "KeySource",
    "Keyring",
    "Masker",
    "MaskingFilter",
    "Pseudonyms",
    "SealError",
    "Sealer",
    "new_key_line",
]
