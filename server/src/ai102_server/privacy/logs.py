# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""The filter that stands before every handler of a log."""

from __future__ import annotations

import logging
from typing import Final

from ai102_server.privacy.masking import Masker

__all__ = ["MaskingFilter"]

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
# Identifiers of ours that are there to be searched for, and could look like a number of some kind.
_KEPT: Final = frozenset({"request_id", "trace_id", "span_id", "subject", "sha256", "release"})
_FORMATTER: Final = logging.Formatter()
_SCALARS: Final = (bool, int, float, type(None))


class MaskingFilter(logging.Filter):
    """Masks message, arguments, extra fields and traceback of a record, whoever formats it then.

    The record itself is changed: another handler must not get what this one may not. A record that passed a filter once
    is not masked again.
    """

    def __init__(self, masker: Masker) -> None:
        super().__init__()
        self._masker: Final = masker

    def filter(self, record: logging.LogRecord) -> bool:
        """Mask; every record passes."""
        facts = vars(record)
        if facts.get("_masked_by") is self._masker:
            return True
        try:
            message = record.getMessage()
        except Exception as error:  # noqa: BLE001  # whatever a formatting mistake raises, logging must not
            message = f"a log message could not be formatted: {type(error).__name__}"
        record.msg, record.args = self._masker.mask(message), None
        if record.exc_info and not record.exc_text:
            record.exc_text = _FORMATTER.formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = self._masker.mask(record.exc_text)
        if record.stack_info:
            record.stack_info = self._masker.mask(record.stack_info)
        for name in [name for name in facts if name not in _STANDARD and name not in _KEPT]:
            facts[name] = self._masker.mask_value(_textual(facts[name]), name)
        record._masked_by = self._masker
        return True


def _textual(value: object) -> object:
    """Values as a formatter would write them: what is no JSON becomes text, so that it can be masked."""
    if isinstance(value, (str, *_SCALARS)):
        return value
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(key): _textual(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_textual(item) for item in value]
    return str(value)
