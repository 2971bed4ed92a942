# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Package sets: what they mean on a release, and what is missing."""

from __future__ import annotations

import pytest
from ansible_collections.ai102.inference.plugins.module_utils._packages import (
    PackageSetError,
    missing,
    parse_os_release,
    resolve,
)

SETS = {"gateway": {"all": ["nginx"], "jammy": ["libnginx-mod-http-headers-more-filter"]}, "pki": {"all": ["openssl"]}}


def test_os_release_loses_its_quotes() -> None:
    text = "ID=debian\n# a comment=1\nVERSION_CODENAME=\"bookworm\"\nPRETTY_NAME='Debian 12'\n\n"
    assert parse_os_release(text) == {"ID": "debian", "VERSION_CODENAME": "bookworm", "PRETTY_NAME": "Debian 12"}


def test_sets_are_joined_and_sorted() -> None:
    assert resolve(SETS, ["pki", "gateway"], "bookworm") == ["nginx", "openssl"]


def test_a_release_adds_its_own_packages() -> None:
    assert resolve(SETS, ["gateway"], "jammy") == ["libnginx-mod-http-headers-more-filter", "nginx"]


def test_an_unknown_set_is_named_with_those_that_exist() -> None:
    with pytest.raises(PackageSetError, match="unknown package set 'gatway'; the lock has: gateway, pki"):
        resolve(SETS, ["gatway"], "bookworm")


def test_a_string_is_not_taken_as_a_list_of_letters() -> None:
    with pytest.raises(PackageSetError, match="must be a list"):
        resolve({"gateway": {"all": "nginx"}}, ["gateway"], "bookworm")


def test_missing_counts_neither_removed_packages_nor_asks_for_provided_ones() -> None:
    output = (
        "installed nginx \n"
        "config-files nftables \n"
        "installed libgcc-s1 libgcc1 (= 1:12.2.0-14), other\n"
        "installed mawk awk\n"
    )
    assert missing(["nginx", "nftables", "libgcc1", "awk", "curl"], output) == ["curl", "nftables"]
