# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Encrypted files of model packages, made on the control node, and the keys for them.

The format is what the inference server decrypts (``ai102_server.repository.encryption``): Tink's AES256-GCM-HKDF
streaming, https://developers.google.com/tink/streaming-aead/aes_gcm_hkdf_streaming, bound to model, version and path.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import typing as t
from pathlib import Path

from ansible_collections.ai102.inference.plugins.module_utils._content import sha256_of
from ansible_collections.ai102.inference.plugins.module_utils._manifest import PackageError
from ansible_collections.ai102.inference.plugins.module_utils._site_key import SiteKey

SCHEME: t.Final = "aes256-gcm-hkdf-stream"
KEY_BYTES: t.Final = 32
SEGMENT: t.Final = 1 << 20

_SALT: t.Final = 32
_PREFIX: t.Final = 7
_HEADER: t.Final = 1 + _SALT + _PREFIX
_TAG: t.Final = 16


class EncryptionKey(SiteKey):
    """The site's key from which the one that encrypts models is derived.

    :param path: of the file; ``ensure`` makes it when there is none.
    :param passphrase: encrypts it, 8 characters or more.
    """

    def __init__(self, path: str | os.PathLike[str], passphrase: str) -> None:
        super().__init__(path, passphrase, "the key that encrypts models", PackageError)

    def key(self) -> bytes:
        """Return the 32 bytes that encrypt.

        :raises PackageError: the file cannot be read.
        """
        return self.derive("ai102 model encryption 1")


def key_id(key: bytes) -> str:
    """Return the public name of a key (16 hexadecimal digits), as the server makes it."""
    return hmac.new(key, b"ai102 model key id", hashlib.sha256).hexdigest()[:16]


def parse_key(text: str, where: str) -> bytes:
    """Read a key of 32 bytes, in 64 hexadecimal digits or base64, or from the file that the text names.

    :param text: the key, or the path of a file with the key, there also as plain bytes.
    :param where: what messages call it.
    :raises PackageError: it is neither; the message never holds the text, which may be a mistyped key.
    """
    key = _decoded(text.strip().encode())
    if key is not None:
        return key
    path = Path(text.strip()).expanduser()
    try:
        if not path.is_file():
            raise OSError
        content = path.read_bytes()
    except (OSError, ValueError):
        raise PackageError(
            f"{where} is neither 32 bytes in hexadecimal or base64 nor the path of a file that can be read"
        ) from None
    key = content if len(content) == KEY_BYTES else _decoded(content.strip())
    if key is None:
        raise PackageError(f"{where}: {path} does not hold 32 bytes, plain, in hexadecimal or in base64")
    return key


def _decoded(content: bytes) -> bytes | None:
    try:
        key = (
            bytes.fromhex(content.decode("ascii"))
            if len(content) == 2 * KEY_BYTES
            else base64.b64decode(content, validate=True)
        )
    except (ValueError, binascii.Error):
        return None
    return key if len(key) == KEY_BYTES else None


def seal(source: Path, target: Path, key: bytes, identity: tuple[str, str], path: str) -> dict[str, t.Any]:
    """Encrypt a file, a piece at a time.

    The same content at the same place becomes the same bytes with the same key, as a version of a model never changes:
    salt and nonces are derived from all of that, so no two contents share any.

    :param source: what to encrypt.
    :param target: the encrypted file.
    :param key: 32 bytes.
    :param identity: name and version of the model.
    :param path: of the file in its package.
    :returns: what the manifest says of it: ``scheme``, ``key``, ``segment``, and the content's ``sha256`` and ``size``.
    """
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    bound = "\n".join(("ai102 model package 1", *identity, path)).encode()
    what = sha256_of(source).encode() + b"\n" + bound
    salt, prefix = (hmac.digest(key, use + what, "sha256") for use in (b"ai102 model salt\n", b"ai102 model nonce\n"))
    prefix = prefix[:_PREFIX]
    cipher = AESGCM(HKDF(SHA256(), KEY_BYTES, salt, bound).derive(key))
    digest, size, number = hashlib.sha256(), 0, 0
    with source.open("rb") as clear, target.open("wb") as sealed:
        sealed.write(bytes((_HEADER,)) + salt + prefix)
        piece = clear.read(SEGMENT - _TAG - _HEADER)
        while True:
            following = clear.read(SEGMENT - _TAG)
            digest.update(piece)
            size += len(piece)
            nonce = prefix + number.to_bytes(4, "big") + (b"\0" if following else b"\1")
            sealed.write(cipher.encrypt(nonce, piece, None))
            if not following:
                break
            piece, number = following, number + 1
    return {"scheme": SCHEME, "key": key_id(key), "segment": SEGMENT, "sha256": digest.hexdigest(), "size": size}
