# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Who may ask for what, and how often: accounts, tokens, keys, policy, limits, audit log."""

from __future__ import annotations

from ai102_server.access.audit import REQUEST_ID_KEY
from ai102_server.access.endpoints import blueprint
from ai102_server.access.gate import Access, AccessShared, Ticket
from ai102_server.access.identity import Identity, ModelRefLike

__all__ = ["REQUEST_ID_KEY", "Access", "AccessShared", "Identity", "ModelRefLike", "Ticket", "blueprint"]
