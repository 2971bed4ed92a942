# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""What operators see: Prometheus metrics, JSON logs, OpenTelemetry traces. Payloads appear in none of them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

from ai102_server.telemetry.logs import configure_logging, logging_config
from ai102_server.telemetry.record import REASONS, Record
from ai102_server.telemetry.request_id import REQUEST_ID_HEADER, request_id

if TYPE_CHECKING:
    from ai102_server.telemetry.recorder import Telemetry
    from ai102_server.telemetry.shared import TelemetryShared

__all__ = [
    "REASONS",
    "REQUEST_ID_HEADER",
    "Record",
    "Telemetry",
    "TelemetryShared",
    "configure_logging",
    "logging_config",
    "request_id",
]

# Imported when they are asked for: the supervisor needs the logs, and numpy and ONNX Runtime, which start threads, must
# not be there before the fork.
_LAZY: Final = {"Telemetry": "recorder", "TelemetryShared": "shared"}


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
