# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""The HTTP API: the Open Inference Protocol V2, health and metrics."""

from __future__ import annotations

from ai102_server.api.app import create_app
from ai102_server.api.wsgi import Application

__all__ = ["Application", "create_app"]
