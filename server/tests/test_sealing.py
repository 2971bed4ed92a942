# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Sealed fields, salted hashes, key files, and the command line of all."""

from __future__ import annotations

import base64
import io
import json
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from ai102_server.cli import main
from ai102_server.errors import ServerError
from ai102_server.privacy import Keyring, KeySource, Pseudonyms, Sealer, SealError, new_key_line

KEYS = Keyring({"2026-01": bytes(range(32)), "2025-07": bytes(32)})
SEALER = Sealer(KEYS)
CONTEXT = "orders/customer_email"
TEXT = st.text(st.characters(codec="utf-8"), max_size=200)


# --------------------------------------------------------------------------------------------------------------------
# Sealed fields
# --------------------------------------------------------------------------------------------------------------------
@given(TEXT, st.text(st.characters(codec="utf-8"), min_size=1, max_size=40))
def test_what_is_sealed_can_be_opened(value: str, context: str) -> None:
    sealed = SEALER.seal(value, context)
    assert SEALER.open(sealed, context) == value
    assert SEALER.seal(value, context) != sealed
    assert len(value) < 8 or value not in sealed
    with pytest.raises(SealError):
        SEALER.open(sealed, context + "x")


@given(TEXT, st.data())
def test_any_change_is_refused(value: str, data: st.DataObject) -> None:
    sealed = SEALER.seal(value, CONTEXT)
    place = data.draw(st.integers(0, len(sealed) - 1))
    changed = data.draw(st.characters().filter(lambda character: character != sealed[place]))
    with pytest.raises(SealError):
        SEALER.open(sealed[:place] + changed + sealed[place + 1 :], CONTEXT)
    with pytest.raises(SealError):
        SEALER.open(sealed[:place], CONTEXT)


@pytest.mark.parametrize("value", ["", "a", "ab"])
def test_any_flipped_bit_is_refused(value: str) -> None:
    """Of all three lengths that base64 has: two of them leave bits in the last character that mean nothing."""
    sealed = SEALER.seal(value, CONTEXT)
    with pytest.raises(SealError):
        SEALER.open(f"{sealed[:-4]}!{sealed[-4:]}", CONTEXT)
    head, body = sealed.rsplit(".", 1)
    raw = bytearray(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    for bit in range(8 * len(raw)):
        raw[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SealError):
            SEALER.open(f"{head}.{base64.urlsafe_b64encode(raw).rstrip(b'=').decode()}", CONTEXT)
        raw[bit // 8] ^= 1 << bit % 8
    for place in range(len(sealed)):
        for bit in range(7):
            character = chr(ord(sealed[place]) ^ 1 << bit)
            with pytest.raises(SealError):
                SEALER.open(sealed[:place] + character + sealed[place + 1 :], CONTEXT)


@given(st.text())
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(SealError):
        SEALER.open(text, CONTEXT)
    with pytest.raises(SealError):
        SEALER.open(f"ai102.1.2026-01.{text}", CONTEXT)


def test_format_as_documented() -> None:
    """Another program can open it from what the documentation says."""
    prefix, number, key_id, body = SEALER.seal("grüße", CONTEXT).split(".")
    assert (prefix, number, key_id) == ("ai102", "1", "2026-01")
    raw = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
    associated = b"ai102.1.2026-01." + CONTEXT.encode()
    assert AESGCM(bytes(range(32))).decrypt(raw[:12], raw[12:], associated) == "grüße".encode()
    assert len(raw) == 12 + len("grüße".encode()) + 16


def test_rotation() -> None:
    old = Sealer(Keyring({"2025-07": bytes(32)}))
    sealed = old.seal("alice", CONTEXT)
    assert SEALER.open(sealed, CONTEXT) == "alice"
    assert SEALER.seal("alice", CONTEXT).startswith("ai102.1.2026-01.")
    with pytest.raises(SealError, match="names a key that is not in the key file"):
        old.open(SEALER.seal("alice", CONTEXT), CONTEXT)
    # The id of a key is not a label that can be changed.
    same = Sealer(Keyring({"other": bytes(32)}))
    with pytest.raises(SealError, match="was changed"):
        same.open(sealed.replace("2025-07", "other"), CONTEXT)


def test_what_cannot_be_sealed() -> None:
    with pytest.raises(ServerError, match="a context is needed"):
        SEALER.seal("x", "")
    with pytest.raises(SealError, match="no Unicode text"):
        SEALER.seal("\ud800", CONTEXT)


# --------------------------------------------------------------------------------------------------------------------
# Hashes
# --------------------------------------------------------------------------------------------------------------------
def test_pseudonyms() -> None:
    names = Pseudonyms(KEYS)
    assert names.of("alice") == names.of("alice") == Pseudonyms(KEYS).of("alice")
    assert names.of("alice") != names.of("alicf")
    assert names.of("alice") != Pseudonyms(Keyring({"2026-01": bytes(32)})).of("alice")
    assert names.of("") == ""
    assert len(names.of("\ud800")) == 32
    assert Pseudonyms(Keyring.generate()).of("alice") != Pseudonyms(Keyring.generate()).of("alice")


def test_known_pseudonyms_are_bounded() -> None:
    names = Pseudonyms(KEYS)
    first = names.of("0")
    for number in range(5000):
        names.of(str(number))
    assert len(names._known) <= 4096
    assert names.of("0") == first


# --------------------------------------------------------------------------------------------------------------------
# Key files
# --------------------------------------------------------------------------------------------------------------------
def key_file(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


KEY = base64.urlsafe_b64encode(bytes(range(32))).decode().rstrip("=")
OTHER = base64.urlsafe_b64encode(bytes(32)).decode()


def test_key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = key_file(tmp_path / "keys", f"# rotated in January\n\n2026-01 {KEY}\n2025-07 {OTHER}\n", 0o640)
    ring = Keyring.load(KeySource(file=path))
    assert ring.current == ("2026-01", bytes(range(32)))
    assert ring.keys["2025-07"] == bytes(32)
    # Keys do not show when something is printed.
    assert KEY not in repr(ring)
    assert str(bytes(range(32))) not in repr(ring)
    with pytest.raises(ServerError, match="credential 'keys' is not there"):
        Keyring.load(KeySource(credential="keys"))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert Keyring.load(KeySource(credential="keys")).current == ring.current


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no key"),
        ("2026-01", "line 1: must be '<key id> <base64url>'"),
        (f"2026-01 {KEY} more", "line 1: must be"),
        (f"\n2026-01 {KEY[:-1]}!", "line 2: must be"),
        (f"20/26 {KEY}", "a key id is 1 to 32 of"),
        ("2026-01 c2hvcnQ", "the key has 5 bytes, 32 are needed"),
        (f"a {KEY}\na {OTHER}", "line 2: key id or key stands there twice"),
        (f"a {KEY}\nb {KEY}", "line 2: key id or key stands there twice"),
        ("ä", "is not text"),
    ],
)
def test_wrong_key_files(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=message) as caught:
        Keyring.load(KeySource(file=key_file(tmp_path / "keys", text)))
    assert KEY[:20] not in str(caught.value)


def test_key_files_are_for_few_eyes(tmp_path: Path) -> None:
    path = key_file(tmp_path / "keys", f"a {KEY}\n", 0o644)
    with pytest.raises(ServerError, match="is open to all users: chmod 0600"):
        Keyring.load(KeySource(file=path))
    with pytest.raises(ServerError, match="cannot be read: No such file"):
        Keyring.load(KeySource(file=tmp_path / "none"))
    with pytest.raises(ServerError, match="holds 65 keys, at most 64"):
        Keyring.parse("".join(new_key_line(f"k{number}") for number in range(65)), "keys")


# --------------------------------------------------------------------------------------------------------------------
# Command line
# --------------------------------------------------------------------------------------------------------------------
class Terminal:
    """Runs the command line with an input, and keeps what it prints."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
        self._monkeypatch = monkeypatch
        self._capture = capfdbinary

    def run(self, *arguments: str, given: bytes = b"") -> tuple[int, bytes, str]:
        stdin = io.TextIOWrapper(io.BytesIO(given))
        stdout = io.TextIOWrapper(io.BytesIO(), write_through=True)
        self._monkeypatch.setattr(sys, "stdin", stdin)
        self._monkeypatch.setattr(sys, "stdout", stdout)
        status = main(["privacy", *arguments])
        stdout.flush()
        buffer = stdout.buffer
        assert isinstance(buffer, io.BytesIO)
        return status, buffer.getvalue(), self._capture.readouterr().err.decode()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Terminal:
    return Terminal(monkeypatch, capfdbinary)


def test_mask_command(terminal: Terminal, tmp_path: Path) -> None:
    text = b"mail a@b.de from 10.0.0.1\n\xff P-123456 4111111111111111"
    assert terminal.run("mask", given=text)[:2] == (0, b"mail [email] from 10.0.0.1\n\xff P-123456 [card]")
    assert (
        terminal.run("mask", "--kind", "ip", given=text)[1] == b"mail a@b.de from [ip]\n\xff P-123456 4111111111111111"
    )
    config = tmp_path / "config.yml"
    config.write_text(
        "{listen: {port: 8080}, models: [], privacy: {mask: [card], patterns: [{name: staff, pattern: 'P-[0-9]{6}'}]}}"
    )
    masked = terminal.run("mask", "--config", str(config), given=text)[1]
    assert masked == b"mail a@b.de from 10.0.0.1\n\xff [staff] [card]"
    status, _output, errors = terminal.run("mask", "--kind", "mail")
    assert status == 1
    assert "--kind 'mail' is not one of secret, token" in errors


def test_seal_and_open_commands(terminal: Terminal, tmp_path: Path) -> None:
    status, line, _errors = terminal.run("key", "--id", "2026-01")
    assert status == 0
    keys = key_file(tmp_path / "keys", line.decode())
    arguments = ("--keys", str(keys), "--context", CONTEXT)
    text = "alice\n\ngrüße\n".encode()
    _status, sealed, _errors = terminal.run("seal", *arguments, given=text)
    assert b"alice" not in sealed
    assert [item.split(b".")[:3] for item in sealed.splitlines()] == [[b"ai102", b"1", b"2026-01"]] * 3
    assert terminal.run("open", *arguments, given=sealed)[1] == text
    # The configuration can name the keys.
    config = tmp_path / "config.yml"
    config.write_text(f"{{listen: {{port: 8080}}, models: [], privacy: {{seal_keys: {{file: {keys}}}}}}}")
    assert terminal.run("open", "--config", str(config), "--context", CONTEXT, given=sealed)[1] == text
    status, output, errors = terminal.run("open", "--keys", str(keys), "--context", "another", given=sealed)
    assert (status, output) == (1, b"")
    assert "line 1: the sealed field was changed" in errors


def test_fields_of_json_lines(terminal: Terminal, tmp_path: Path) -> None:
    arguments = ("--keys", str(key_file(tmp_path / "keys", f"a {KEY}\n")), "--context", "c")
    fields = ("--field", "email", "--field", "amount", "--field", "missing")
    documents = [{"id": 1, "email": "a@b.de", "amount": {"eur": 5}}, {"email": "\0x", "amount": None}]
    given = b"".join(json.dumps(document).encode() + b"\n" for document in documents) + b"\n"
    sealed = terminal.run("seal", *arguments, *fields, given=given)[1]
    first = json.loads(sealed.splitlines()[0])
    assert first["id"] == 1
    assert first["email"].startswith("ai102.1.a.")
    assert first["amount"].startswith("ai102.1.a.")
    opened = terminal.run("open", *arguments, *fields, given=sealed)[1]
    assert [json.loads(line) for line in opened.splitlines() if line] == documents
    for given, message in ((b"[1]", "line 1: is not a JSON object"), (b"{}\n{", "line 2: is not a JSON object")):
        status, _output, errors = terminal.run("seal", *arguments, *fields, given=given)
        assert status == 1
        assert message in errors
    assert "the field is not text" in terminal.run("open", *arguments, "--field", "email", given=b'{"email": 5}')[2]


def test_wrong_commands(terminal: Terminal, tmp_path: Path) -> None:
    assert "a key id is 1 to 32 of" in terminal.run("key", "--id", "a b")[2]
    keys = ("--keys", str(key_file(tmp_path / "keys", f"a {KEY}\n")))
    assert "a context is needed" in terminal.run("seal", *keys, "--context", "", given=b"x\n")[2]
    config = tmp_path / "config.yml"
    config.write_text("{listen: {port: 8080}, models: []}")
    errors = terminal.run("seal", "--config", str(config), "--context", "c")[2]
    assert "privacy.seal_keys is missing" in errors
