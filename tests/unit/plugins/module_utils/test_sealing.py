# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Encrypting files of models on the control node."""

from __future__ import annotations

import base64
import hashlib
import sys
import typing as t
from pathlib import Path

import pytest

pytest.importorskip("cryptography")

from ansible_collections.ai102.inference.plugins.module_utils._manifest import PackageError
from ansible_collections.ai102.inference.plugins.module_utils._sealing import (
    SEGMENT,
    EncryptionKey,
    key_id,
    parse_key,
    seal,
)

KEY = bytes(range(32))


@pytest.fixture
def server() -> t.Any:
    """The server's own code for these files."""
    sys.path.insert(0, str(Path(__file__).parents[4] / "server/src"))
    try:
        return pytest.importorskip("ai102_server.repository.encryption")
    finally:
        sys.path.pop(0)


@pytest.mark.parametrize("size", [0, 1, SEGMENT - 57, SEGMENT - 56, SEGMENT - 55, 2 * SEGMENT - 72, 2 * SEGMENT + 1])
def test_the_server_opens_what_is_sealed_here(server: t.Any, tmp_path: Path, size: int) -> None:
    content = bytes(index % 251 for index in range(1000)) * (size // 1000 + 1)
    (tmp_path / "clear").write_bytes(content[:size])
    told = seal(tmp_path / "clear", tmp_path / "sealed", KEY, ("demo", "1"), "model.onnx")
    assert (told["size"], told["sha256"]) == (size, hashlib.sha256(content[:size]).hexdigest())
    assert told["key"] == server.key_id(KEY)
    sealed = (tmp_path / "sealed").read_bytes()
    bound = server.associated_data("demo", "1", "model.onnx")
    assert server.decrypt(sealed, KEY, bound, told["segment"]) == content[:size]
    with pytest.raises(ValueError, match="another place"):
        server.decrypt(sealed, KEY, server.associated_data("demo", "2", "model.onnx"), told["segment"])


def test_nothing_but_the_same_at_the_same_place_becomes_the_same(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"a" * 3000)
    (tmp_path / "other").write_bytes(b"a" * 2999 + b"b")
    makes = [
        ("one", KEY, ("demo", "1"), "model.onnx"),
        ("other", KEY, ("demo", "1"), "model.onnx"),
        ("one", KEY[::-1], ("demo", "1"), "model.onnx"),
        ("one", KEY, ("demo", "2"), "model.onnx"),
        ("one", KEY, ("demo", "1"), "weights.bin"),
    ]
    sealed = []
    for source, key, identity, path in [*makes, makes[0]]:
        seal(tmp_path / source, tmp_path / "sealed", key, identity, path)
        sealed.append((tmp_path / "sealed").read_bytes())
    assert sealed[0] == sealed.pop()
    # Neither salt nor nonces are shared, nor any ciphertext.
    for part in (slice(1, 33), slice(33, 40), slice(40, 56)):
        assert len({content[part] for content in sealed}) == len(makes)


def test_the_site_s_key_is_made_once_and_opens_with_its_passphrase_only(tmp_path: Path) -> None:
    path = tmp_path / "secrets/model_encryption.key"
    first = EncryptionKey(path, "a passphrase")
    first.ensure()
    again = EncryptionKey(path, "a passphrase")
    again.ensure()
    assert first.key() == again.key()
    assert len(first.key()) == 32
    assert first.key() not in path.read_bytes()
    with pytest.raises(PackageError, match="the key that encrypts models, .* wrong passphrase"):
        EncryptionKey(path, "something else").key()


def test_a_key_may_be_written_in_several_ways(tmp_path: Path) -> None:
    for name, content in (("plain", KEY), ("hex", KEY.hex().encode()), ("base64", base64.b64encode(KEY) + b"\n")):
        (tmp_path / name).write_bytes(content)
        assert parse_key(str(tmp_path / name), "here") == KEY
    assert parse_key(KEY.hex() + "\n", "here") == KEY
    assert parse_key(base64.b64encode(KEY).decode(), "here") == KEY
    assert key_id(KEY) != key_id(KEY[::-1])


@pytest.mark.parametrize(
    "text", [KEY.hex()[:-1], base64.b64encode(KEY[:-1]).decode(), "", "/nowhere/key", "\0", "x" * 9999]
)
def test_what_is_no_key_is_not_repeated(text: str) -> None:
    with pytest.raises(PackageError, match=r"^keys\[3\] is neither") as caught:
        parse_key(text, "keys[3]")
    assert not text or text not in str(caught.value)


def test_a_file_without_a_key_is_named(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret but short")
    with pytest.raises(PackageError, match=f"{tmp_path}/key does not hold 32 bytes") as caught:
        parse_key(str(tmp_path / "key"), "keys[0]")
    assert "secret" not in str(caught.value)
