# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Logs: one JSON object for each line on standard error, where systemd and containers collect it.

What must not be in a log is masked before a handler sees it, see ``ai102_server.privacy``.
"""

from __future__ import annotations

import logging
import logging.config
import time
from typing import Any, Final

import orjson

from ai102_server.privacy.masking import Masker

__all__ = ["JsonFormatter", "configure_logging", "logging_config"]

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "_masked_by"}


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
        # The text is there already when the record was masked, and only the text was.
        if record.exc_text:
            line["exception"] = record.exc_text
        elif record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        return _dumps(line)


def _dumps(line: dict[str, Any]) -> str:
    try:
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except orjson.JSONEncodeError:
        # Half a surrogate pair, a number beyond 64 bits: rather a line in other words than none.
        return orjson.dumps({key: _printable(str(value)) for key, value in line.items()}).decode()


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def logging_config(level: str, masker: Masker | None = None) -> dict[str, Any]:
    """Configuration for ``logging.config.dictConfig``, for this package and for Granian.

    ``level`` as in the file; ``masker`` as ``config.privacy.masker()`` gives it, by default one of all default kinds.
    """
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": "ai102_server.telemetry.logs.JsonFormatter"}},
        "filters": {"mask": {"()": "ai102_server.privacy.logs.MaskingFilter", "masker": masker or Masker()}},
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "stream": "ext://sys.stderr",
                "formatter": "json",
                "filters": ["mask"],
            }
        },
        "root": {"handlers": ["stderr"], "level": "WARNING"},
        "loggers": {
            "ai102_server": {"level": level.upper()},
            "_granian": {"level": "WARNING"},
        },
    }


def configure_logging(level: str, masker: Masker | None = None) -> None:
    """Set up logging of this process."""
    logging.config.dictConfig(logging_config(level, masker))
