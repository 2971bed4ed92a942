# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Logs: one JSON object for each line on standard error, where systemd and containers collect it."""

from __future__ import annotations

import logging
import logging.config
import time
from typing import Any, Final

import orjson

__all__ = ["JsonFormatter", "configure_logging", "logging_config"]

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """Formats a record and its ``extra`` fields as one line of JSON. Times are UTC (RFC 3339)."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        seconds, fraction = divmod(record.created, 1)
        line: dict[str, Any] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{int(fraction * 1000):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name.removeprefix("_"),
            "message": record.getMessage(),
        }
        line.update((key, value) for key, value in vars(record).items() if key not in _STANDARD)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def logging_config(level: str) -> dict[str, Any]:
    """Configuration for ``logging.config.dictConfig``, for this package and for Granian. ``level`` as in the file."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": "ai102_server.telemetry.logs.JsonFormatter"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "stream": "ext://sys.stderr", "formatter": "json"}},
        "root": {"handlers": ["stderr"], "level": "WARNING"},
        "loggers": {
            "ai102_server": {"level": level.upper()},
            "_granian": {"level": "WARNING"},
        },
    }


def configure_logging(level: str) -> None:
    """Set up logging of this process."""
    logging.config.dictConfig(logging_config(level))
