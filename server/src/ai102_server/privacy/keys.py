# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Where keys come from: a file, or a credential that systemd hands to the service (``LoadCredential=``).

A key file holds one key a line, ``<key id> <32 bytes in base64url>``; empty lines and those that begin with ``#`` do
not count. The first key seals and hashes; the others only open what was sealed before the rotation. To rotate, put a
new key on top, restart, and take the old one away when nothing sealed with it is left.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ai102_server.errors import ServerError

__all__ = ["KEY_BYTES", "KeySource", "Keyring", "decode_base64url", "encode_base64url", "new_key_line"]

KEY_BYTES: Final = 32
MAX_KEYS: Final = 64
_KEY_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,32}", re.ASCII)
_OTHERS: Final = 0o007


def encode_base64url(data: bytes) -> str:
    """Base64url without padding (RFC 4648, section 5)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode_base64url(text: str) -> bytes:
    """The inverse of ``encode_base64url``: one text for each value of the bytes. Raises ``ValueError`` for any other.

    Python's decoder passes over foreign characters and ignores surplus bits, so that several texts would mean the same.
    """
    try:
        data = base64.urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    except (UnicodeEncodeError, binascii.Error):
        raise ValueError("is not base64url") from None
    if encode_base64url(data) != text:
        raise ValueError("is not base64url")
    return data


@dataclass(frozen=True)
class KeySource:
    """A key file by its path, or the name of a systemd credential."""

    file: Path | None = None
    credential: str | None = None

    def path(self) -> Path:
        """Where the file is. Raises ``ServerError`` when a credential is wanted and systemd handed over none."""
        if self.file is not None:
            return self.file
        directory = os.environ.get("CREDENTIALS_DIRECTORY")
        if not directory:
            raise ServerError(
                f"credential '{self.credential}' is not there: systemd sets CREDENTIALS_DIRECTORY, "
                "add LoadCredential= or LoadCredentialEncrypted= to the unit"
            )
        return Path(directory) / str(self.credential)


@dataclass(frozen=True)
class Keyring:
    """Keys of 32 bytes by their ids, the one to use first. They never appear in a representation of it."""

    keys: dict[str, bytes] = field(repr=False)

    @property
    def current(self) -> tuple[str, bytes]:
        """Id and key to seal and hash with."""
        return next(iter(self.keys.items()))

    @classmethod
    def generate(cls) -> Keyring:
        """A ring with one random key, which dies with the process."""
        return cls({"start": secrets.token_bytes(KEY_BYTES)})

    @classmethod
    def load(cls, source: KeySource) -> Keyring:
        """Read a key file. Raises ``ServerError`` that names the file and the line, and nothing of the keys."""
        path = source.path()
        try:
            mode = path.stat().st_mode
            text = path.read_text(encoding="ascii")
        except UnicodeDecodeError:
            raise ServerError(f"key file {path} is not text with one '<key id> <base64url>' a line") from None
        except OSError as error:
            raise ServerError(f"key file {path} cannot be read: {error.strerror}") from error
        if mode & _OTHERS:
            raise ServerError(f"key file {path} is open to all users: chmod 0600")
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: str, where: str) -> Keyring:
        """Keys of a file's text; ``where`` names it in errors (``ServerError``)."""
        keys: dict[str, bytes] = {}
        for number, line in enumerate(text.splitlines(), 1):
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            try:
                key_id, encoded = words
                key = decode_base64url(encoded.rstrip("="))
            except ValueError:
                raise ServerError(f"key file {where}, line {number}: must be '<key id> <base64url>'") from None
            if not _KEY_ID.fullmatch(key_id):
                raise ServerError(f"key file {where}, line {number}: a key id is 1 to 32 of A-Z a-z 0-9 _ -")
            if len(key) != KEY_BYTES:
                raise ServerError(
                    f"key file {where}, line {number}: the key has {len(key)} bytes, {KEY_BYTES} are needed"
                )
            if key_id in keys or key in keys.values():
                raise ServerError(f"key file {where}, line {number}: key id or key stands there twice")
            keys[key_id] = key
        if not keys:
            raise ServerError(f"key file {where} holds no key: make one with 'ai102-server privacy key --id NAME'")
        if len(keys) > MAX_KEYS:
            raise ServerError(
                f"key file {where} holds {len(keys)} keys, at most {MAX_KEYS} are allowed: remove old ones"
            )
        return cls(keys)


def new_key_line(key_id: str) -> str:
    """A line for a key file with a random key. Raises ``ValueError`` for an id that cannot be one."""
    if not _KEY_ID.fullmatch(key_id):
        raise ValueError("a key id is 1 to 32 of A-Z a-z 0-9 _ -")
    return f"{key_id} {encode_base64url(secrets.token_bytes(KEY_BYTES))}\n"
