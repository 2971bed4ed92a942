# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Accounts of the registry. The Molecule scenario `registry` uses real bcrypt; here a stand-in shows its work."""

from __future__ import annotations

import pytest
from ansible_collections.ai102.inference.plugins.module_utils._registry_accounts import (
    AccountError,
    check,
    cost_of,
    merge,
    parse,
    render,
)


class StandIn:
    """Hashes by turning the password round, and counts its salts."""

    def __init__(self) -> None:
        self.salts = 0

    def gensalt(self, rounds: int = 12) -> bytes:
        self.salts += 1
        return f"$2b${rounds:02d}$".encode()

    def hashpw(self, password: bytes, salt: bytes) -> bytes:
        return salt + password[::-1]

    def checkpw(self, password: bytes, hashed_password: bytes) -> bool:
        if b"broken" in hashed_password:
            raise ValueError("Invalid salt")
        return hashed_password.endswith(password[::-1])


def test_the_file_is_read_as_it_was_written() -> None:
    accounts = {"b": "$2b$10$x", "a": "$2b$10$y:z"}
    text = render(accounts)
    assert parse(text) == accounts
    assert text.splitlines()[1:] == ["a:$2b$10$y:z", "b:$2b$10$x"]
    assert parse("# a:b\n\n nothing\n  c:d \n:e\n") == {"c": "d"}


def test_a_hash_that_fits_stays() -> None:
    hasher = StandIn()
    first = merge({}, {"a": "one", "b": "two"}, 10, hasher)
    assert first == {"a": "$2b$10$eno", "b": "$2b$10$owt"}
    assert merge(first, {"a": "one", "b": "two"}, 10, hasher) == first
    assert hasher.salts == 2


@pytest.mark.parametrize("present", ["$2b$10$other", "$2b$12$eno", "$2b$10$broken", "plain", "", "{SHA}eno"])
def test_any_other_hash_is_made_again(present: str) -> None:
    assert merge({"a": present, "gone": "$2b$10$x"}, {"a": "one"}, 10, StandIn()) == {"a": "$2b$10$eno"}


@pytest.mark.parametrize(
    ("hashed", "cost"), [("$2y$05$abc", 5), ("$2b$12$abc", 12), ("$1$05$abc", None), ("$2b$xx$abc", None), ("", None)]
)
def test_the_cost_stands_in_the_hash(hashed: str, cost: int | None) -> None:
    assert cost_of(hashed) == cost


@pytest.mark.parametrize(
    ("accounts", "words"),
    [
        ([("a:b", "secret-1")], "a colon"),
        ([("", "secret-1")], "empty"),
        ([(" a", "secret-1")], "a blank"),
        ([("#a", "secret-1")], "accounts[0]"),
        ([("a", "secret-1"), ("a", "secret-2")], "accounts[1]: a is there twice"),
        ([("a", "")], "1 to 72 bytes"),
        ([("a", "secret-1" + "ü" * 33)], "1 to 72 bytes"),
        ([("a", "secret-1\0")], "1 to 72 bytes"),
    ],
)
def test_what_the_file_cannot_hold_is_refused_without_a_word_of_the_password(
    accounts: list[tuple[str, str]], words: str
) -> None:
    with pytest.raises(AccountError) as caught:
        check([{"name": name, "password": password} for name, password in accounts])
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)


def test_good_accounts() -> None:
    assert check([{"name": "a", "password": "x" * 72}]) == {"a": "x" * 72}
