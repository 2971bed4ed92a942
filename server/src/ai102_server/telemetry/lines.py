# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Access log lines: made of records, and written many at a time by a thread of their own.

A log that cannot keep up (a full pipe, a stuck journal) holds up this thread only. So many lines may wait; more are
dropped and counted.
"""

from __future__ import annotations

import logging
import os
import select
import stat
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final

import orjson

from ai102_server.config import Config
from ai102_server.privacy.masking import Masker
from ai102_server.privacy.pseudonyms import Pseudonyms
from ai102_server.telemetry.record import Record

__all__ = ["AccessLines", "LineWriter"]

ACCESS_LOGGER: Final = "ai102_server.access"
_FAILED: Final = 400
_SERVER_ERROR: Final = 500
_MAX_ERROR: Final = 300
_MAX_NAME: Final = 100
_CACHED: Final = 256
_PLAIN: Final = (
    f'{{"time":"%s.%03dZ","level":"info","logger":"{ACCESS_LOGGER}","message":"infer","request_id":"%s","model":"%s",'
    '"version":"%s","status":%d,"ms":%.3f,"bytes_in":%d,"bytes_out":%d,"queue_ms":%.3f,"inference_ms":%.3f,"batch":%d'
    "%s%s}\n"
)
_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class AccessLines:
    """Turns records into lines. One thread at a time."""

    def __init__(self, config: Config, masker: Masker, pseudonyms: Pseudonyms) -> None:
        self._all: Final = config.log.access
        self._level: Final = _LEVELS[config.log.level]
        self._subject: Final = config.log.subject
        self._masker: Final = masker
        self._pseudonyms: Final = pseudonyms
        self._masked: dict[str, str] = {}
        self._second = -1
        self._date = ""

    def wants(self, record: Record) -> bool:
        """Whether a record gets a line: failed ones always, unless the log's level is above theirs."""
        status = record.status
        if status < _FAILED:
            return self._all and self._level <= logging.INFO
        return self._level <= (logging.ERROR if status == _SERVER_ERROR else logging.WARNING)

    def line(self, record: Record, known: bool, trace_id: str | None) -> bytes:
        """One line of JSON. ``known``: the model is one of the server's, not only what a client wrote."""
        status = record.status
        queue, run = record.queue_seconds, record.inference_seconds
        if (
            status < _FAILED
            and known
            and queue is not None
            and run is not None
            and record.batch
            and self._subject != "plain"
            and record.request_id.replace("-", "").isalnum()
        ):
            return self._plain_line(record, queue, run, trace_id)
        level = "info" if status < _FAILED else "error" if status == _SERVER_ERROR else "warning"
        facts: dict[str, Any] = {
            "time": self._time(record.started + record.seconds),
            "level": level,
            "logger": ACCESS_LOGGER,
            "message": "infer",
            "request_id": record.request_id,
            "model": record.model if known else self._mask(record.model, _MAX_NAME),
            "version": record.version if known else self._mask(record.version, _MAX_NAME),
            "status": status,
            "ms": round(record.seconds * 1000, 3),
            "bytes_in": record.bytes_in,
            "bytes_out": record.bytes_out,
        }
        if record.queue_seconds is not None:
            facts["queue_ms"] = round(record.queue_seconds * 1000, 3)
        if record.inference_seconds is not None:
            facts["inference_ms"] = round(record.inference_seconds * 1000, 3)
        if record.batch:
            facts["batch"] = record.batch
        if trace_id is not None:
            facts["trace_id"] = trace_id
        if record.subject and self._subject != "none":
            facts["subject"] = self.subject(record.subject)
        if record.reason:
            facts["reason"] = record.reason
        if record.error is not None:
            facts["error"] = self._mask(record.error, _MAX_ERROR)
        try:
            return orjson.dumps(facts, option=orjson.OPT_APPEND_NEWLINE)
        except orjson.JSONEncodeError:
            # Half a surrogate pair, from a path that is not UTF-8.
            facts = {key: _printable(value) if isinstance(value, str) else value for key, value in facts.items()}
            return orjson.dumps(facts, option=orjson.OPT_APPEND_NEWLINE)

    def _plain_line(self, record: Record, queue: float, run: float, trace_id: str | None) -> bytes:
        """A line of nothing that would have to be escaped or masked, as nearly all are, at a third of the time."""
        moment = int((record.started + record.seconds) * 1000)
        text = _PLAIN % (
            self._date_of(moment // 1000),
            moment % 1000,
            record.request_id,
            record.model,
            record.version,
            record.status,
            record.seconds * 1000,
            record.bytes_in,
            record.bytes_out,
            queue * 1000,
            run * 1000,
            record.batch,
            "" if trace_id is None else f',"trace_id":"{trace_id}"',
            f',"subject":"{self._pseudonyms.of(record.subject)}"' if record.subject and self._subject != "none" else "",
        )
        return text.encode()

    def subject(self, subject: str) -> str:
        """As configured: hashed or in clear."""
        return self._pseudonyms.of(subject) if self._subject == "hash" else subject[:_MAX_NAME]

    def _time(self, moment: float) -> str:
        milliseconds = int(moment * 1000)
        return f"{self._date_of(milliseconds // 1000)}.{milliseconds % 1000:03d}Z"

    def _date_of(self, second: int) -> str:
        if second != self._second:
            self._second = second
            self._date = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return self._date

    def _mask(self, text: str, longest: int) -> str:
        # Errors repeat: above all those of an overload, when time is scarce.
        masked = self._masked.get(text)
        if masked is None:
            short = text
            if len(text) > 4 * longest:
                # A client can make a long name. Cut between words: half an address would not be recognised as one.
                short = text[: 4 * longest].rpartition(" ")[0] or "[long]"
            masked = self._masker.mask(short)[:longest]
            if len(self._masked) >= _CACHED:
                self._masked = {}
            self._masked[text] = masked
        return masked


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


class LineWriter:
    """Writes lines to a file descriptor. Adding lines never waits for it."""

    def __init__(self, descriptor: int, limit: int) -> None:
        self._descriptor: Final = descriptor
        self._limit: Final = limit
        # Writes of several processes to one pipe are not torn apart up to this size (pipe(7)), and those to a file,
        # which is appended to under a lock, at any size.
        self._block: Final = 1 << 16 if stat.S_ISREG(os.fstat(descriptor).st_mode) else select.PIPE_BUF
        self._lines: Final[deque[bytes]] = deque()
        self._condition: Final = threading.Condition()
        self._busy = False
        self._closed = False
        self.lost = 0
        """Lines that could not be written."""
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    def room(self) -> int:
        """Lines that may still be added."""
        return max(0, self._limit - len(self._lines))

    def add(self, lines: Iterable[bytes]) -> None:
        """Add lines, each with its line break; the caller has looked for room."""
        self._lines.extend(lines)
        with self._condition:
            self._condition.notify()

    def flush(self, seconds: float) -> bool:
        """Wait until all is written, at most so long; whether it is."""
        with self._condition:
            return self._condition.wait_for(lambda: not self._lines and not self._busy, seconds)

    def close(self) -> None:
        """End the thread when it has written what it has."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def _run(self) -> None:
        while True:
            with self._condition:
                self._busy = False
                self._condition.notify_all()
                self._condition.wait_for(lambda: self._lines or self._closed)
                if not self._lines:
                    return
                self._busy = True
            while self._lines:
                block = self._take()
                try:
                    self._write(block)
                except OSError:
                    self.lost += block.count(b"\n")

    def _take(self) -> bytes:
        """As many whole lines as one write may have, and at least one."""
        lines = [self._lines.popleft()]
        size = len(lines[0])
        while self._lines and size + len(self._lines[0]) <= self._block:
            lines.append(self._lines.popleft())
            size += len(lines[-1])
        return b"".join(lines)

    def _write(self, block: bytes) -> None:
        rest = memoryview(block)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:
                # Whoever shares the descriptor may have made it so.
                select.select([], [self._descriptor], [], 1.0)


def pick(records: Sequence[Record], room: int) -> list[Record]:
    """The records that get a line when there is not room for all: those of failures first."""
    if len(records) <= room:
        return list(records)
    failed = [record for record in records if record.status >= _FAILED]
    others = [record for record in records if record.status < _FAILED]
    return (failed + others)[:room]
