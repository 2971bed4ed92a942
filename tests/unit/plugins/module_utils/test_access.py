# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Accounts and tokens as the control node makes them. The scenario `single_host` has the real server read them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ai102.inference.plugins.module_utils._access import (
    VERIFIER,
    AccessError,
    TokenKey,
    accounts_document,
    check_accounts,
    describe,
    hash_password,
    verifier,
)

pytest.importorskip("cryptography.hazmat.primitives.kdf.argon2")
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.serialization import load_pem_private_key

PASSPHRASE = "only-for-tests"
ALICE = {"name": "alice", "role": "user", "password": "correct horse"}


@pytest.fixture
def key(tmp_path: Path) -> TokenKey:
    made = TokenKey(tmp_path / "secrets/token_signing.key", PASSPHRASE)
    made.ensure()
    return made


def _part(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def test_the_key_is_made_once_and_is_nobody_else_s_to_read(key: TokenKey) -> None:
    before = key.path.read_bytes()
    TokenKey(key.path, PASSPHRASE).ensure()
    assert key.path.read_bytes() == before
    assert b"ENCRYPTED" in before
    assert key.path.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in key.path.parent.iterdir()] == [key.path.name]


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    dry = TokenKey(tmp_path / "secrets/key", PASSPHRASE)
    dry.ensure(dry=True)
    assert accounts_document([ALICE], [], dry)["accounts"][0]["name"] == "alice"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "Run site.yml"),
        (b"no key", "wrong passphrase"),
    ],
)
def test_a_key_that_cannot_be_read_says_why(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(AccessError, match=words):
        TokenKey(path, PASSPHRASE).pem()


def test_another_passphrase_does_not_open_it(key: TokenKey) -> None:
    with pytest.raises(AccessError, match="wrong passphrase") as caught:
        TokenKey(key.path, "something else").pem()
    assert "something else" not in str(caught.value)


def test_a_short_passphrase_is_refused_for_a_new_key(tmp_path: Path) -> None:
    with pytest.raises(AccessError, match="8 characters"):
        TokenKey(tmp_path / "key", "short").ensure()


def test_hashes_verify_and_are_the_same_every_time(key: TokenKey) -> None:
    first = accounts_document([ALICE], [], key)
    assert first == accounts_document([ALICE], [], TokenKey(key.path, PASSPHRASE))
    encoded = first["accounts"][0]["hash"]
    Argon2id.verify_phc_encoded(b"correct horse", encoded)
    assert encoded.startswith("$argon2id$v=19$m=19456,t=2,p=1$")


def test_salts_differ_between_accounts_passwords_and_sites(key: TokenKey, tmp_path: Path) -> None:
    other = TokenKey(tmp_path / "another", PASSPHRASE)
    other.ensure()
    hashes = [
        accounts_document([account], [], site)["accounts"][0]["hash"]
        for account, site in (
            (ALICE, key),
            ({**ALICE, "name": "bob"}, key),
            ({**ALICE, "password": "another one"}, key),
            (ALICE, other),
        )
    ]
    assert len({text.split("$")[4] for text in hashes}) == 4


def test_a_hash_is_taken_as_it_is(key: TokenKey) -> None:
    given = hash_password("whatever it is", b"0123456789abcdef")
    assert accounts_document([{"name": "b", "role": "user", "hash": given}], [], key)["accounts"][0]["hash"] == given


def test_every_tenant_has_an_account_that_verifies(key: TokenKey) -> None:
    document = accounts_document([{**ALICE, "tenant": "acme"}], ["globex"], key)
    assert [(item["name"], item.get("tenant", ""), item["role"]) for item in document["accounts"]] == [
        ("alice", "acme", "user"),
        (VERIFIER, "", "user"),
        (verifier("acme"), "acme", "user"),
        (verifier("globex"), "globex", "user"),
    ]
    assert len({item["hash"] for item in document["accounts"]}) == 4


def test_tokens_are_signed_by_the_key_that_hosts_get(key: TokenKey) -> None:
    header, claims, signature = key.token("acme", now=1000.0, issuer="i", audience="a").split(".")
    public = load_pem_private_key(key.pem().encode(), None).public_key()
    public.verify(_part(signature), f"{header}.{claims}".encode())
    with pytest.raises(InvalidSignature):
        public.verify(_part(signature), f"{header}.{claims}x".encode())
    found: dict[str, Any] = json.loads(_part(claims))
    assert len(found.pop("jti")) > 16
    assert found == {
        "iss": "i",
        "aud": "a",
        "sub": verifier("acme"),
        "role": "user",
        "tenant": "acme",
        "iat": 700,
        "nbf": 700,
        "exp": 1900,
    }
    assert json.loads(_part(header))["alg"] == "EdDSA"


@pytest.mark.parametrize(
    ("account", "words"),
    [
        ("alice", "must be a dictionary"),
        ({**ALICE, "name": "-alice"}, "name must be"),
        ({**ALICE, "name": 7}, "name must be"),
        ({**ALICE, "role": None}, "role must be"),
        ({**ALICE, "tenant": "a b"}, "tenant must be"),
        ({**ALICE, "disabled": "yes"}, "disabled must be true or false"),
        ({**ALICE, "attributes": {"a": 1}}, "attributes must be"),
        ({**ALICE, "rôle": "user"}, "unknown key"),
        ({**ALICE, "password": "short"}, "8 to 1024 bytes"),
        ({**ALICE, "password": 12345678}, "8 to 1024 bytes"),
        ({"name": "alice", "role": "user"}, "exactly one of password"),
        ({**ALICE, "hash": "$argon2id$"}, "exactly one of password"),
        ({"name": "alice", "role": "user", "hash": "correct horse"}, "not an Argon2id hash"),
        ({**ALICE, "name": VERIFIER}, "kept for the verification"),
        ({**ALICE, "name": verifier("acme")}, "kept for the verification"),
    ],
)
def test_mistakes_are_named_without_the_password(account: Any, words: str) -> None:
    with pytest.raises(AccessError, match=words) as caught:
        check_accounts([{**ALICE, "name": "first"}, account])
    assert "ai102_accounts[1]" in str(caught.value)
    for secret in ("correct horse", "short", "12345678"):
        assert secret not in str(caught.value)


def test_a_name_that_is_there_twice_is_refused() -> None:
    with pytest.raises(AccessError, match="is there twice"):
        check_accounts([ALICE, ALICE])


def test_what_is_shown_has_no_hash(key: TokenKey) -> None:
    document = accounts_document([{**ALICE, "attributes": {"level": "low"}}], [], key)
    shown = describe(document)
    assert shown.splitlines()[0].startswith("alice: role=user attributes={'level': 'low'} (password ")
    assert document["accounts"][0]["hash"] not in shown
    assert describe(accounts_document([{**ALICE, "password": "another one"}], [], key)) != shown
