# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Encrypted files of model packages, and the keys that open them.

The format is *AES-GCM-HKDF streaming* of Tink with a 256-bit key, SHA-256 and no output prefix
(https://developers.google.com/tink/streaming-aead/aes_gcm_hkdf_streaming), so Tink can read what this package writes,
and the other way round. It is the STREAM construction of Hoang, Reyhanitabar, Rogaway and Vizár
(https://eprint.iacr.org/2015/189.pdf):

- ``header = 40 || salt (32 random bytes) || nonce prefix (7 random bytes)``,
- the file's own key is ``HKDF-SHA256(key, salt, info = associated data)``, 32 bytes,
- the content is cut into segments, each sealed by AES-256-GCM with the nonce
  ``prefix || number of the segment (4 bytes, big-endian) || 1 for the last one, else 0``. With its 16 bytes of tag a
  segment has ``segment size`` bytes; the first is shorter by the header, the last has what is left.

A segment that is changed, left out, repeated or moved is refused, and so is a file that ends at a segment's border. The
associated data name the model, the version and the path (``associated_data``), so a file that was sealed for one place
opens in no other. A key of its own for each file keeps AES-GCM within its limits however many files a key seals.

Nothing here writes a key or decrypted content anywhere, and no message holds any.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ai102_server.errors import ModelError

__all__ = [
    "DEFAULT_SEGMENT",
    "KEY_BYTES",
    "SCHEME",
    "KeyRing",
    "associated_data",
    "decrypt",
    "encrypt",
    "key_id",
    "load_key",
    "load_keys",
    "read_credential",
]

SCHEME: Final = "aes256-gcm-hkdf-stream"
KEY_BYTES: Final = 32
DEFAULT_SEGMENT: Final = 1 << 20
MIN_SEGMENT: Final = 1 << 12
MAX_SEGMENT: Final = 1 << 26

_SALT: Final = 32
_PREFIX: Final = 7
_HEADER: Final = 1 + _SALT + _PREFIX
_TAG: Final = 16
_KEY_FILE_LIMIT: Final = 1024
_FORBIDDEN_MODE: Final = stat.S_IRWXO | stat.S_IWGRP | stat.S_IXGRP


# --------------------------------------------------------------------------------------------------------------------
# Content
# --------------------------------------------------------------------------------------------------------------------
def associated_data(name: str, version: str, path: str) -> bytes:
    """What a sealed file is bound to: the model, its version and the file's path in the package."""
    # None of the three may hold a line break, so no two places have the same bytes.
    return "\n".join(("ai102 model package 1", name, version, path)).encode()


def _cipher(key: bytes, salt: bytes, bound: bytes) -> AESGCM:
    return AESGCM(HKDF(SHA256(), KEY_BYTES, salt, bound).derive(key))


def _nonce(prefix: bytes, number: int, last: bool) -> bytes:
    return prefix + number.to_bytes(4, "big") + (b"\x01" if last else b"\x00")


def encrypt(content: bytes, key: bytes, bound: bytes, segment: int = DEFAULT_SEGMENT) -> bytes:
    """Seal ``content``. ``key`` has 32 bytes, ``bound`` are the associated data, ``segment`` is in bytes.

    Two calls never give the same bytes: salt and nonce prefix are random.
    """
    salt, prefix = os.urandom(_SALT), os.urandom(_PREFIX)
    cipher = _cipher(key, salt, bound)
    parts = [bytes((_HEADER,)), salt, prefix]
    view = memoryview(content)
    start, size, number = 0, segment - _TAG - _HEADER, 0
    while True:
        end = start + size
        last = end >= len(view)
        parts.append(cipher.encrypt(_nonce(prefix, number, last), view[start:end], None))
        if last:
            return b"".join(parts)
        start, size, number = end, segment - _TAG, number + 1


def decrypt(sealed: bytes, key: bytes, bound: bytes, segment: int = DEFAULT_SEGMENT) -> bytes:
    """Open what ``encrypt`` sealed. Raises ``ValueError`` when it was not sealed so: another key, place, or content."""
    if len(sealed) < _HEADER + _TAG or sealed[0] != _HEADER:
        raise ValueError("is not an encrypted file, or only the beginning of one")
    salt, prefix = sealed[1 : 1 + _SALT], sealed[1 + _SALT : _HEADER]
    cipher = _cipher(key, salt, bound)
    view = memoryview(sealed)
    parts: list[bytes] = []
    start, end, number = _HEADER, segment, 0
    while True:
        last = end >= len(view)
        try:
            parts.append(cipher.decrypt(_nonce(prefix, number, last), view[start:end], None))
        except (InvalidTag, ValueError):
            raise ValueError("was changed, cut off, or sealed with another key or for another place") from None
        if last:
            return b"".join(parts)
        start, end, number = end, end + segment, number + 1


# --------------------------------------------------------------------------------------------------------------------
# Keys
# --------------------------------------------------------------------------------------------------------------------
def key_id(key: bytes) -> str:
    """Public name of a key (16 hexadecimal digits), made from the key itself so that nobody can mix names up."""
    return hmac.new(key, b"ai102 model key id", hashlib.sha256).hexdigest()[:16]


class KeyRing:
    """The keys that may have sealed a package, by their ids. Old ones stay until nothing needs them any more."""

    def __init__(self, keys: Iterable[bytes] = ()) -> None:
        self._keys: Mapping[str, bytes] = {key_id(key): key for key in keys}

    def __repr__(self) -> str:
        return f"KeyRing({', '.join(self._keys)})"

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the keys, in the order in which they were given."""
        return tuple(self._keys)

    def get(self, identity: str) -> bytes:
        """The key of this id. Raises ``ValueError`` with the ids that are there."""
        try:
            return self._keys[identity]
        except KeyError:
            known = f"the keys here are {', '.join(self._keys)}" if self._keys else "there is no decryption key here"
            raise ValueError(f"is encrypted with key {identity}, but {known}") from None


def load_key(path: Path) -> bytes:
    """Read a key: 32 bytes as they are, or as 64 hexadecimal digits, or in base64.

    Others than the owner and the group may not be able to read the file, and only the owner to write it. Raises
    ``ModelError``.
    """
    try:
        with path.open("rb") as stream:
            mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
            content = stream.read(_KEY_FILE_LIMIT)
    except OSError as error:
        raise ModelError(f"model decryption key {path} cannot be read: {error.strerror}") from error
    if mode & _FORBIDDEN_MODE:
        raise ModelError(
            f"model decryption key {path} has mode {mode:04o}: others can get at it; make it 0600, or 0640 with the "
            "service's group"
        )
    return _parse_key(content, f"model decryption key {path}")


def read_credential(name: str) -> bytes:
    """Read a key that systemd hands over (``LoadCredential=``, ``LoadCredentialEncrypted=``). Raises ``ModelError``."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        raise ModelError(
            f"model decryption key: systemd gave no credentials; add LoadCredentialEncrypted={name}:… to the service"
        )
    try:
        # Who may read it is systemd's business: it shows an access list as group permissions.
        with (Path(directory) / name).open("rb") as stream:
            content = stream.read(_KEY_FILE_LIMIT)
    except OSError as error:
        raise ModelError(f"model decryption key: credential '{name}' cannot be read: {error.strerror}") from error
    return _parse_key(content, f"model decryption key: credential '{name}'")


def load_keys(files: Iterable[Path] = (), credentials: Iterable[str] = ()) -> KeyRing:
    """The keys of these files and of these credentials. Raises ``ModelError``."""
    return KeyRing([*(load_key(path) for path in files), *(read_credential(name) for name in credentials)])


def _parse_key(content: bytes, what: str) -> bytes:
    # A raw key may begin or end with bytes that look like white space.
    if len(content) == KEY_BYTES:
        return content
    text = content.strip()
    try:
        key = (
            bytes.fromhex(text.decode("ascii")) if len(text) == 2 * KEY_BYTES else base64.b64decode(text, validate=True)
        )
    except (ValueError, binascii.Error):
        key = b""
    if len(key) != KEY_BYTES:
        raise ModelError(
            f"{what} does not hold {KEY_BYTES} bytes, raw, as {2 * KEY_BYTES} hexadecimal digits or base64"
        )
    return key
