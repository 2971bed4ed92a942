# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters over the inventory's addresses and flows; each is documented in the YAML file of its name."""

from __future__ import annotations

import typing as t
from collections.abc import Callable, Mapping

from ansible.errors import AnsibleFilterError
from ansible_collections.ai102.inference.plugins.module_utils import _flows


def host_address(hostvars: t.Any) -> str:
    """Returns the address at which other hosts reach the host whose variables these are."""
    if not isinstance(hostvars, Mapping):
        raise AnsibleFilterError(
            f"host_address: expected the variables of one host (hostvars[name]), got {type(hostvars).__name__}"
        )
    try:
        return _flows.host_address(hostvars)
    except _flows.FlowError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """Filters of the collection that have to do with addresses and flows."""

    def filters(self) -> dict[str, Callable[..., t.Any]]:
        """Names and functions, as Ansible asks for them."""
        return {"host_address": host_address}
