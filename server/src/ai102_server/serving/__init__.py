# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""How the service runs: processes, sockets, TLS, and the conversation with systemd."""

from __future__ import annotations

from ai102_server.serving.server import serve
from ai102_server.serving.tls import check_tls

__all__ = ["check_tls", "serve"]
