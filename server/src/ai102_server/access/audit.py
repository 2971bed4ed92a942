# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""The audit log: who was let in or not, and what administrators did. Never a token, never a password."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from ai102_server.access.identity import ANONYMOUS, Identity
from ai102_server.config.access import Audit as AuditConfig

__all__ = ["REQUEST_ID_KEY", "AuditLog", "request_id_of"]

REQUEST_ID_KEY: Final = "ai102.request_id"
"""Key of the WSGI environment under which the server may have put the id that it gave a request."""

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:+/=-]{1,128}")
_LONGEST: Final = 200


def request_id_of(environ: Mapping[str, Any]) -> str:
    """The id of a request; "" when neither server nor caller gave it one that can stand in a log."""
    given = environ.get(REQUEST_ID_KEY) or environ.get("HTTP_X_REQUEST_ID") or ""
    return given if _REQUEST_ID.fullmatch(given) else ""


class AuditLog:
    """Writes facts to the logger ``ai102_server.audit``, whatever the level of the other logs is."""

    def __init__(self, config: AuditConfig) -> None:
        self.allowed: Final = config.allowed
        self._per_second = config.denied_per_second
        self._logger = logging.getLogger("ai102_server.audit")
        self._logger.setLevel(logging.INFO)
        self._lock = threading.Lock()
        self._second = 0
        self._written = 0
        self._suppressed = 0
        self.observe: Callable[[str], None] = lambda _event: None
        """Told of every event that is logged, to count them."""

    def event(
        self,
        event: str,
        outcome: str,
        *,
        who: Identity = ANONYMOUS,
        environ: Mapping[str, Any] | None = None,
        **facts: object,
    ) -> None:
        """Log an event such as ``token.issued``. ``outcome`` is ``success``, ``denied`` or ``failure``."""
        self.observe(event)
        line: dict[str, object] = {"event": event, "outcome": outcome, "subject": who.subject, "role": who.role}
        line |= {"tenant": who.tenant, "jti": who.jti}
        if environ is not None:
            line["request_id"] = request_id_of(environ)
        line |= facts
        # A client decides how long some of these are.
        extra = {key: value[:_LONGEST] if isinstance(value, str) else value for key, value in line.items() if value}
        level = logging.INFO if outcome == "success" else logging.WARNING
        self._logger.log(level, event, extra=extra)

    def unproven(
        self, event: str, *, who: Identity = ANONYMOUS, environ: Mapping[str, Any] | None = None, **facts: object
    ) -> None:
        """Log a refusal of somebody who proved nothing, unless there were too many of them in this second."""
        second = int(time.time())
        with self._lock:
            suppressed = 0
            if second != self._second:
                suppressed, self._suppressed = self._suppressed, 0
                self._second, self._written = second, 0
            if self._written >= self._per_second:
                self._suppressed += 1
                return
            self._written += 1
        if suppressed:
            self.event("suppressed", "denied", count=suppressed)
        self.event(event, "denied", who=who, environ=environ, **facts)
