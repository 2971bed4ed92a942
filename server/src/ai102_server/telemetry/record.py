# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""What is kept of a request until its metrics, log line and spans are made."""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["REASONS", "STATUSES", "Record", "reason_of"]

STATUSES: Final = (200, 400, 401, 403, 404, 405, 408, 409, 411, 413, 415, 422, 429, 431, 499, 500, 501, 503, 504)
"""Statuses with a series of their own; others are counted as ``other``."""

REASONS: Final = (
    "unauthenticated", "forbidden", "rate_limit", "concurrency_limit", "queue_full", "queue_timeout", "deadline",
    "not_ready", "draining", "too_large", "slow_client", "abandoned", "overload", "other",
)  # fmt: skip
"""Why a request was rejected."""

_REASON_OF_STATUS: Final = {
    401: "unauthenticated",
    403: "forbidden",
    408: "slow_client",
    413: "too_large",
    429: "rate_limit",
    499: "abandoned",
    503: "overload",
    504: "deadline",
}


class Record(NamedTuple):
    """One inference request that was answered.

    Times are in seconds; None says that the request did not come so far. The phases follow one another in the order
    read, decode, queue, run, encode.
    """

    model: str
    """As the client wrote it; it becomes a label only when it is registered."""
    version: str
    """Version that answered; empty when none was found."""
    status: int
    """HTTP status of the answer."""
    started: float
    """``time.time()`` when the request was taken."""
    seconds: float
    """From then to the answer built."""
    queue_seconds: float | None = None
    """Waited for a place, or for a batch to fill."""
    inference_seconds: float | None = None
    """In ONNX Runtime, with all requests of the batch."""
    bytes_in: int = 0
    """Size of the body."""
    bytes_out: int = 0
    """Size of the answer's body."""
    request_id: str = ""
    """``X-Request-ID``."""
    traceparent: str | None = None
    """The W3C header as it came."""
    subject: str = ""
    """Who asked, in clear; empty for nobody."""
    error: str | None = None
    """What the client was told, or the type of an unexpected error."""
    batch: int = 0
    """Rows of the batch in which it ran; 0 when it did not run."""
    reason: str = ""
    """Of ``REASONS``, when it was rejected; empty: as the status says."""
    tracestate: str | None = None
    """The W3C header as it came."""
    read_seconds: float | None = None
    """Reading the body."""
    decode_seconds: float | None = None
    """Decoding it to arrays, and pre-processing."""
    encode_seconds: float | None = None
    """Post-processing, and encoding the answer."""


def reason_of(record: Record) -> str | None:
    """Why a request was rejected, of ``REASONS``; None when it was answered, or failed for another cause."""
    if record.reason:
        return record.reason if record.reason in REASONS else "other"
    return _REASON_OF_STATUS.get(record.status)
