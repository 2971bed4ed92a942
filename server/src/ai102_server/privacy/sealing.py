# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Fields that are handed over between systems sealed, and opened again where the key is.

A sealed field is text that fits into JSON, URLs and headers::

    ai102.1.<key id>.<base64url(nonce || ciphertext || tag)>

- ``ai102.1``: this format. Another algorithm would be another number.
- key id: 1 to 32 of ``A-Z a-z 0-9 _ -``, names the key in the key file of the opener (see ``privacy.keys``).
- base64url without padding (RFC 4648, section 5), of a random nonce of 12 bytes, the ciphertext, which is as long as
  the UTF-8 text, and the tag of 16 bytes: AES-256-GCM (NIST SP 800-38D).
- associated data: ``ai102.1.<key id>.`` and the context in UTF-8. The context says what the field is and for whom, such
  as ``orders/customer_email``; it is not in the text, both sides know it. A field cannot be passed off as another one.

What is sealed is text. The command line seals other values of JSON, and text that begins with a NUL, as a NUL and the
value's JSON.

Any change of the text makes it unreadable. The length of the value can be seen. With random nonces one key must not
seal more than 2^32 fields: rotate long before.
"""

from __future__ import annotations

import secrets
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ai102_server.errors import ServerError
from ai102_server.privacy.keys import Keyring, decode_base64url, encode_base64url

__all__ = ["PREFIX", "SealError", "Sealer"]

PREFIX: Final = "ai102.1."
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
_REFUSED: Final = "the sealed field was changed, sealed with another key, or for another context"


class SealError(ServerError):
    """A sealed field cannot be opened. The message holds nothing of its content."""


class Sealer:
    """Seals and opens fields with the keys of a ring."""

    def __init__(self, keyring: Keyring) -> None:
        self._current: Final = keyring.current[0]
        self._ciphers: Final = {key_id: AESGCM(key) for key_id, key in keyring.keys.items()}

    def seal(self, value: str, context: str) -> str:
        """Seal ``value`` for a context, which must not be empty. Raises ``SealError`` when it is not Unicode text."""
        head = f"{PREFIX}{self._current}."
        nonce = secrets.token_bytes(NONCE_BYTES)
        try:
            plain = value.encode("utf-8")
        except UnicodeEncodeError:
            raise SealError("the value holds half a surrogate pair, which is no Unicode text") from None
        data = self._ciphers[self._current].encrypt(nonce, plain, _associated(head, context))
        return head + encode_base64url(nonce + data)

    def open(self, sealed: str, context: str) -> str:
        """The value that was sealed for this context. Raises ``SealError``."""
        key_id, dot, body = sealed.removeprefix(PREFIX).partition(".")
        if not sealed.startswith(PREFIX) or not dot:
            raise SealError(f"not a sealed field: it must be '{PREFIX}<key id>.<base64url>'")
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise SealError("the sealed field names a key that is not in the key file")
        try:
            data = decode_base64url(body)
            if len(data) < NONCE_BYTES + TAG_BYTES:
                raise SealError("the sealed field is cut off")
            head = f"{PREFIX}{key_id}."
            return cipher.decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], _associated(head, context)).decode("utf-8")
        except (ValueError, InvalidTag):
            raise SealError(_REFUSED) from None


def _associated(head: str, context: str) -> bytes:
    if not context:
        raise ServerError("a context is needed: what the field is and for whom, such as orders/customer_email")
    return (head + context).encode("utf-8")
