# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Errors that the package raises on purpose. Anything else that escapes is a bug and is answered with a bare 500."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["ConfigError", "ModelError", "RequestError", "ServerError"]


class ServerError(Exception):
    """Base of the errors below."""


class ConfigError(ServerError):
    """The configuration file cannot be used.

    ``problems`` holds one line for each mistake, each with the path of the key and how to mend it.
    """

    def __init__(self, source: str, problems: list[str]) -> None:
        self.source = source
        self.problems = problems
        super().__init__("\n".join(f"{source}: {problem}" for problem in problems))


class ModelError(ServerError):
    """A model package cannot be served; the message says which one and why."""


class RequestError(ServerError):
    """A request cannot be answered: ``status`` is the HTTP status, the message is shown to the client.

    ``retry_after`` is the number of seconds after which a client may try again; None when trying again is of no use.
    ``headers`` go into the answer besides. ``reason`` is one of ``telemetry.REASONS``, by which refusals are counted,
    where the status does not say it.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
        reason: str = "",
    ) -> None:
        self.reason = reason
        self.status = status
        self.message = message
        self.retry_after = retry_after
        self.headers: dict[str, str] = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(retry_after)
        super().__init__(message)
