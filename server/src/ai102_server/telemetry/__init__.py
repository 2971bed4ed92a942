# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""What operators see: Prometheus metrics and JSON logs. Payloads appear in neither."""

from __future__ import annotations

from ai102_server.telemetry.logs import configure_logging, logging_config
from ai102_server.telemetry.metrics import Metrics
from ai102_server.telemetry.request_id import REQUEST_ID_HEADER, request_id

__all__ = ["REQUEST_ID_HEADER", "Metrics", "configure_logging", "logging_config", "request_id"]
