# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Accounts of a container registry: names and bcrypt hashes, one in a line."""

from __future__ import annotations

import typing as t

#: bcrypt looks at no more than this; a longer password would be cut without a word.
LONGEST_PASSWORD: t.Final = 72

_NOTE: t.Final = "# Managed by Ansible (ai102.inference)."


class AccountError(Exception):
    """Accounts that cannot be written; the message never holds a password."""


class Hasher(t.Protocol):
    """What is needed of the library ``bcrypt``."""

    def hashpw(self, password: bytes, salt: bytes) -> bytes:
        """Hash a password."""

    def checkpw(self, password: bytes, hashed_password: bytes) -> bool:
        """Compare a password with a hash."""

    def gensalt(self, rounds: int = 12) -> bytes:
        """Make a salt that holds the cost."""


def parse(text: str) -> dict[str, str]:
    """Read names and hashes; what is no account is left out."""
    accounts: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, hashed = line.strip().partition(":")
        if colon and name and not name.startswith("#"):
            accounts[name] = hashed
    return accounts


def render(accounts: t.Mapping[str, str]) -> str:
    """Write names and hashes, in the order of the names."""
    return "".join(f"{line}\n" for line in (_NOTE, *(f"{name}:{accounts[name]}" for name in sorted(accounts))))


def check(accounts: t.Sequence[t.Mapping[str, t.Any]]) -> dict[str, str]:
    """Return name and password of each account.

    :raises AccountError: a name that the file cannot hold or that is there twice, a password that bcrypt would cut.
    """
    wanted: dict[str, str] = {}
    for number, account in enumerate(accounts):
        name, password = str(account["name"]), str(account["password"])
        if not name or name != name.strip() or name.startswith("#") or any(sign in name for sign in ":\n\r\0"):
            raise AccountError(f"accounts[{number}]: the name {name!r} is empty or has a colon or a blank at an end")
        if name in wanted:
            raise AccountError(f"accounts[{number}]: {name} is there twice")
        if not password or "\0" in password or len(password.encode()) > LONGEST_PASSWORD:
            raise AccountError(f"accounts[{number}]: the password of {name} must have 1 to {LONGEST_PASSWORD} bytes")
        wanted[name] = password
    return wanted


def cost_of(hashed: str) -> int | None:
    """Return the cost of a bcrypt hash; nothing for what is none."""
    parts = hashed.split("$")
    if len(parts) != 4 or not parts[1].startswith("2") or not parts[2].isdigit():
        return None
    return int(parts[2])


def merge(present: t.Mapping[str, str], wanted: t.Mapping[str, str], cost: int, hasher: Hasher) -> dict[str, str]:
    """Return name and hash of every wanted account; a hash that fits stays as it is.

    :param present: names and hashes that are there.
    :param wanted: names and passwords.
    :param cost: of new hashes; a hash of another cost is made again.
    """
    merged: dict[str, str] = {}
    for name, password in wanted.items():
        hashed = present.get(name, "")
        if cost_of(hashed) == cost and _fits(password, hashed, hasher):
            merged[name] = hashed
        else:
            merged[name] = hasher.hashpw(password.encode(), hasher.gensalt(cost)).decode()
    return merged


def _fits(password: str, hashed: str, hasher: Hasher) -> bool:
    try:
        return hasher.checkpw(password.encode(), hashed.encode())
    except ValueError:
        return False
