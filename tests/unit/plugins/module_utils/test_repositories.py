# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Package repositories: their keys by fingerprint, and what apt is told."""

from __future__ import annotations

import base64
import hashlib
import typing as t

import pytest
from ansible_collections.ai102.inference.plugins.module_utils._repositories import (
    RepositoryError,
    armored,
    fingerprints,
    resolve,
    verify_key,
)

# A public key packet as RFC 9580 has it: version 4, a time, the algorithm, two numbers. Fingerprints are of such bytes.
BODY = b"\x04" + (1700000000).to_bytes(4, "big") + b"\x01" + b"\x00\x10\xff\xff" + b"\x00\x11\x01\x00\x01"
FINGERPRINT = hashlib.sha1(b"\x99" + len(BODY).to_bytes(2, "big") + BODY).hexdigest().upper()
USER_ID = b"\xb4\x04user"
KEY = b"\x99" + len(BODY).to_bytes(2, "big") + BODY + USER_ID
NEW_FORMAT = b"\xc6" + bytes([len(BODY)]) + BODY
SECOND = b"\x99" + len(BODY).to_bytes(2, "big") + BODY[:-1] + b"\x03"

LOCK: dict[str, t.Any] = {
    "vendor": {
        "releases": {
            "bookworm": {
                "uri": "https://vendor.example/debian12/",
                "key_url": "https://vendor.example/debian12/key.pub",
                "fingerprint": FINGERPRINT,
            }
        }
    }
}


@pytest.mark.parametrize("content", [KEY, NEW_FORMAT, armored(KEY).encode()])
def test_a_key_is_read_in_every_form(content: bytes) -> None:
    assert fingerprints(content) == [FINGERPRINT]
    verify_key(content, f"{FINGERPRINT[:20].lower()} {FINGERPRINT[20:]}", "here")


def test_the_text_form_may_have_headers_and_a_checksum() -> None:
    body = base64.b64encode(KEY).decode()
    text = (
        "-----BEGIN PGP PUBLIC KEY BLOCK-----\r\nVersion: GnuPG v2\r\n\r\n"
        f"{body}\r\n=abcd\r\n-----END PGP PUBLIC KEY BLOCK-----\r\n"
    )
    assert fingerprints(text.encode()) == [FINGERPRINT]
    assert "\r" not in armored(text.encode())


def test_another_key_is_refused() -> None:
    with pytest.raises(RepositoryError, match="is not trusted"):
        verify_key(SECOND, FINGERPRINT, "here")


def test_a_second_key_beside_the_right_one_is_refused() -> None:
    with pytest.raises(RepositoryError, match="is not trusted"):
        verify_key(KEY + SECOND, FINGERPRINT, "here")


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>not found</html>", KEY[:10], b"\x99\x00\x01\x06", b"\x99", USER_ID],
    ids=["empty", "page", "cut", "version 6", "one byte", "no key"],
)
def test_what_is_no_key_is_refused(content: bytes) -> None:
    with pytest.raises(RepositoryError):
        fingerprints(content)


def test_a_damaged_text_form_is_refused() -> None:
    text = armored(KEY).replace("mQ", "m!", 1)
    with pytest.raises(RepositoryError):
        fingerprints(text.encode())


def test_what_apt_is_told() -> None:
    pins = [{"packages": "*", "pin": "release l=Vendor", "priority": 100}]
    repository = resolve("vendor", LOCK, {}, "bookworm", pins)
    assert repository.sources().splitlines()[1:] == [
        "Types: deb",
        "URIs: https://vendor.example/debian12/",
        "Suites: /",
        "Signed-By: /etc/apt/keyrings/ai102-vendor.asc",
    ]
    assert repository.preferences().splitlines()[1:] == ["Package: *", "Pin: release l=Vendor", "Pin-Priority: 100"]
    assert resolve("vendor", LOCK, {}, "bookworm", []).preferences() == ""


def test_a_site_may_have_it_elsewhere() -> None:
    own = {"vendor": {"uri": "https://mirror.internal/cuda/"}}
    repository = resolve("vendor", LOCK, own, "bookworm", [])
    assert repository.uri == "https://mirror.internal/cuda/"
    assert repository.fingerprint == FINGERPRINT


def test_a_repository_of_the_site_alone() -> None:
    own = {
        "bundle": {
            "uri": "file:///srv/bundle",
            "suites": "bookworm",
            "components": ["main"],
            "architectures": ["amd64"],
            "fingerprint": FINGERPRINT,
            "key_file": "bundle.asc",
        }
    }
    repository = resolve("bundle", {}, own, "bookworm", [])
    assert "Suites: bookworm\nComponents: main\nArchitectures: amd64\n" in repository.sources()
    assert repository.key_url == "bundle.asc"


@pytest.mark.parametrize(
    ("name", "own", "codename", "words"),
    [
        ("other", {}, "bookworm", "unknown repository 'other'; there are: vendor"),
        ("vendor", {}, "sid", "has nothing for sid"),
        ("Vendor!", {}, "bookworm", "not a name"),
        ("vendor", {"vendor": {"uri": "ftp://x"}}, "bookworm", "no address"),
        ("vendor", {"vendor": {"url": "https://x"}}, "bookworm", "unknown keys: url"),
        ("vendor", {"vendor": {"fingerprint": "ABCD"}}, "bookworm", "40 hexadecimal digits"),
        ("vendor", {"vendor": {"components": ["main"]}}, "bookworm", "flat repositories"),
        ("vendor", {"vendor": {"suites": ["stable"]}}, "bookworm", "flat repositories"),
    ],
)
def test_what_is_not_well_formed_is_named(name: str, own: dict[str, t.Any], codename: str, words: str) -> None:
    with pytest.raises(RepositoryError, match=words):
        resolve(name, LOCK, own, codename, [])
