# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Salted hashes: the same person is the same in all lines of a log, and nobody without the key can say who.

A hash without a key would be undone by hashing every name there is. HMAC-SHA256 with 32 secret bytes cannot be.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from ai102_server.privacy.keys import Keyring

__all__ = ["Pseudonyms"]

_HEX: Final = 32
_CACHED: Final = 4096


class Pseudonyms:
    """Turns names into 32 hexadecimal characters (128 bits). Safe to share between threads."""

    def __init__(self, keyring: Keyring) -> None:
        # Keys of one file serve two ends, so each gets a key of its own.
        self._key: Final = hmac.digest(keyring.current[1], b"ai102 pseudonyms", hashlib.sha256)
        self._known: dict[str, str] = {}

    def of(self, name: str) -> str:
        """The hash of a name; the empty name, which is nobody's, stays empty."""
        if not name:
            return ""
        known = self._known.get(name)
        if known is None:
            known = hmac.digest(self._key, name.encode("utf-8", "surrogatepass"), hashlib.sha256).hex()[:_HEX]
            if len(self._known) >= _CACHED:
                self._known = {}
            self._known[name] = known
        return known
