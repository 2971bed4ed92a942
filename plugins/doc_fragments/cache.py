# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of the actions that use the control node's cache."""

from __future__ import annotations


class ModuleDocFragment:
    """Options of the actions that use the control node's cache."""

    DOCUMENTATION = r"""
options:
  cache_dir:
    description: Directory on the control node for what was fetched, by its sha256.
    type: path
    required: true
  source:
    description: V(online) fetches what is missing; V(bundle) takes it from O(bundle_dir) and fetches nothing.
    type: str
    choices: [online, bundle]
    default: online
  bundle_dir:
    description: Directory on the control node in the layout of the cache that is looked into first.
    type: str
    default: ""
  retries:
    description: How often a download is tried.
    type: int
    default: 3
"""
