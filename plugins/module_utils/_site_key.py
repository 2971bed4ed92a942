# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A private key of the site: Ed25519, in a file of the control node that a passphrase encrypts."""

from __future__ import annotations

import hashlib
import hmac
import os
import tempfile
import typing as t
from pathlib import Path


class SiteKey:
    """The key in one file.

    :param path: of the file; :meth:`ensure` makes it when there is none.
    :param passphrase: encrypts it, 8 characters or more.
    :param what: what messages call it, such as ``the key that signs tokens``.
    :param error: what is raised when it cannot be used; the message never holds a key or a passphrase.
    """

    def __init__(self, path: str | os.PathLike[str], passphrase: str, what: str, error: type[Exception]) -> None:
        self.path = Path(path)
        self._passphrase = passphrase
        self._what = what
        self._error = error
        self._key: t.Any = None

    def ensure(self, *, dry: bool = False) -> None:
        """Make the key when there is none.

        :param dry: write nothing; a key that is missing is made for this object only.
        :raises Exception: ``error``, when the passphrase is too short for a new key.
        """
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        if self.path.exists():
            return
        if len(self._passphrase) < 8:
            raise self._error("ai102_secrets_passphrase must have 8 characters or more")
        key = Ed25519PrivateKey.generate()
        if dry:
            self._key = key
            return
        encrypted = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(self._passphrase.encode()),
        )
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, staged = tempfile.mkstemp(dir=self.path.parent, prefix=".new-")
        with os.fdopen(handle, "wb") as sink:
            sink.write(encrypted)
        try:
            os.link(staged, self.path)  # never over a key that another run has made in the meantime
        except FileExistsError:
            pass
        finally:
            os.unlink(staged)

    def load(self) -> t.Any:
        """Return the private key.

        :raises Exception: ``error``, when it cannot be read.
        """
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        if self._key is None:
            try:
                key = serialization.load_pem_private_key(self.path.read_bytes(), self._passphrase.encode())
            except OSError as error:
                raise self._error(
                    f"{self._what}, {self.path}, cannot be read: {error.strerror}. Run site.yml, which makes it."
                ) from None
            except (ValueError, TypeError):
                raise self._error(
                    f"{self._what}, {self.path}, cannot be opened with ai102_secrets_passphrase: wrong passphrase, or"
                    " not an encrypted key"
                ) from None
            if not isinstance(key, Ed25519PrivateKey):
                raise self._error(f"{self._what}, {self.path}, is not an Ed25519 key")
            self._key = key
        return self._key

    def derive(self, purpose: str) -> bytes:
        """Return 32 bytes that only who has the key can make, always the same for a purpose.

        :raises Exception: ``error``, when it cannot be read.
        """
        return hmac.new(self.load().private_bytes_raw(), purpose.encode(), hashlib.sha256).digest()
