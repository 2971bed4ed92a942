# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""What all processes must know and a restart must not forget: revocations, lock-outs, keys of others.

SQLite with a write-ahead log: readers never wait for writers. Connections are opened after the fork, one for reading
and one for writing in each process. Times are seconds since the epoch.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from ai102_server.access.identity import Identity
from ai102_server.config.access import Lockout
from ai102_server.errors import ServerError

__all__ = ["State", "account_key", "source_key"]

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS revoked_tokens (jti TEXT PRIMARY KEY, expires REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS revoked_subjects
  (subject TEXT PRIMARY KEY, before REAL NOT NULL, expires REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS failures
  (key TEXT PRIMARY KEY, count INTEGER NOT NULL, last REAL NOT NULL, until REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS failures_last ON failures (last);
CREATE TABLE IF NOT EXISTS documents (name TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT OR IGNORE INTO counters VALUES ('revocations', 0);
"""
_BUSY_SECONDS: Final = 5.0
MOST_FAILURES: Final = 100_000
"""Names that do not exist are counted as well, so that somebody could fill the table; the oldest make room."""
_DOUBLINGS: Final = 40


def account_key(name: str) -> str:
    """Key under which failures of an account are counted. People type passwords where names belong: it is hashed."""
    return "a:" + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def source_key(network: str) -> str:
    """Key under which failures of a source network are counted."""
    return f"s:{network}"


class State:
    """The state file of a server. Raises ``ServerError`` when it cannot be used."""

    def __init__(self, path: Path, lockout: Lockout) -> None:
        self._path = path
        self._lockout = lockout
        try:
            # Made here and not by SQLite, which would let others read it.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._writer = self._connect()
            self._writer.execute("PRAGMA journal_mode=WAL")
            self._writer.executescript(_SCHEMA)
            self._reader = self._connect()
        except (OSError, sqlite3.Error) as error:
            raise ServerError(f"state file {path} cannot be used: {error}") from error
        self._write_lock = threading.Lock()
        self._read_lock = threading.Lock()

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)

    def close(self) -> None:
        """Close the file."""
        with self._write_lock, self._read_lock:
            self._reader.close()
            self._writer.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._write_lock:
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
            except BaseException:
                self._writer.execute("ROLLBACK")
                raise
            self._writer.execute("COMMIT")

    def _row(self, statement: str, *values: object) -> Any:  # noqa: ANN401  # as SQLite has it
        with self._read_lock:
            return self._reader.execute(statement, values).fetchone()

    # Revocation --------------------------------------------------------------------------------------------------
    def revoke_token(self, jti: str, expires: float) -> None:
        """Refuse the token of that id from now on; ``expires`` is when it ends by itself."""
        with self._writing() as connection:
            connection.execute(
                "INSERT INTO revoked_tokens VALUES (?, ?) "
                "ON CONFLICT (jti) DO UPDATE SET expires = max(expires, excluded.expires)",
                (jti, expires),
            )
            self._count_revocation(connection)

    def revoke_subject(self, subject: str, before: float, expires: float) -> None:
        """Refuse all tokens of a subject that were issued up to ``before``; the last of them ends at ``expires``."""
        with self._writing() as connection:
            connection.execute(
                "INSERT INTO revoked_subjects VALUES (?, ?, ?) ON CONFLICT (subject) DO UPDATE SET "
                "before = max(before, excluded.before), expires = max(expires, excluded.expires)",
                (subject, before, expires),
            )
            self._count_revocation(connection)

    @staticmethod
    def _count_revocation(connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE counters SET value = value + 1 WHERE name = 'revocations'")

    def revocations(self) -> int:
        """How often something was revoked, by whatever process."""
        return int(self._row("SELECT value FROM counters WHERE name = 'revocations'")[0])

    def revoked(self, identity: Identity) -> bool:
        """Whether the token of an identity was revoked."""
        if identity.jti and self._row("SELECT 1 FROM revoked_tokens WHERE jti = ?", identity.jti):
            return True
        return identity.issued <= self.revoked_before(identity.subject)

    def revoked_before(self, subject: str) -> float:
        """When all tokens of a subject were revoked for the last time; minus infinity if never."""
        row = self._row("SELECT before FROM revoked_subjects WHERE subject = ?", subject)
        return float(row[0]) if row else float("-inf")

    # Lock-out ----------------------------------------------------------------------------------------------------
    def locked(self, key: str) -> float:
        """For how many more seconds a key is locked; 0 when it is not."""
        row = self._row("SELECT until FROM failures WHERE key = ?", key)
        return max(0.0, float(row[0]) - time.time()) if row else 0.0

    def fail(self, key: str, attempts: int) -> float:
        """Count a failure. Returns the seconds for which the key is locked by it; 0 while fewer than ``attempts``."""
        now = time.time()
        with self._writing() as connection:
            row = connection.execute("SELECT count, last FROM failures WHERE key = ?", (key,)).fetchone()
            forgotten = row is None or now - row[1] > self._lockout.forget_seconds
            count = 1 if forgotten else row[0] + 1
            seconds = self._back_off(count - attempts)
            connection.execute("INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?)", (key, count, now, now + seconds))
        return seconds

    def _back_off(self, excess: int) -> float:
        if excess < 0:
            return 0.0
        return float(min(self._lockout.longest_seconds, self._lockout.first_seconds * 2 ** min(excess, _DOUBLINGS)))

    def succeed(self, key: str) -> None:
        """Forget the failures of a key."""
        if self._row("SELECT 1 FROM failures WHERE key = ?", key):
            with self._writing() as connection:
                connection.execute("DELETE FROM failures WHERE key = ?", (key,))

    # Documents ---------------------------------------------------------------------------------------------------
    def keep_document(self, name: str, body: bytes) -> None:
        """Keep what was fetched from elsewhere, for a start when that cannot be reached."""
        if self.document(name) != body:
            with self._writing() as connection:
                connection.execute("INSERT OR REPLACE INTO documents VALUES (?, ?)", (name, body))

    def document(self, name: str) -> bytes | None:
        """What was kept under a name."""
        row = self._row("SELECT body FROM documents WHERE name = ?", name)
        return bytes(row[0]) if row else None

    # Housekeeping ------------------------------------------------------------------------------------------------
    def purge(self) -> None:
        """Forget what no longer matters."""
        now = time.time()
        with self._writing() as connection:
            connection.execute("DELETE FROM revoked_tokens WHERE expires < ?", (now,))
            connection.execute("DELETE FROM revoked_subjects WHERE expires < ?", (now,))
            connection.execute(
                "DELETE FROM failures WHERE last < ? AND until < ?", (now - self._lockout.forget_seconds, now)
            )
            connection.execute(
                "DELETE FROM failures WHERE key IN (SELECT key FROM failures ORDER BY last DESC LIMIT -1 OFFSET ?)",
                (MOST_FAILURES,),
            )
