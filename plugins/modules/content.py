#!/usr/bin/python
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Delivers an immutable directory of files by sha256."""

from __future__ import annotations

DOCUMENTATION = r"""
module: content
short_description: Deliver an immutable directory of files by sha256
version_added: "0.1.0"
description:
  - Keeps each content once on the host, in a store by sha256, and makes directories of hard links to it. Content that
    the host has is never transferred again, whichever directory it came with.
  - What was transferred is verified on the host. A directory is made beside its place and gets its name when it is
    complete, so nobody sees half of it.
  - When the directory is as it should be, that costs one call that reads no file.
  - Content that no directory has any more is removed from the store.
author:
  - AI-102 inference maintainers (@ai102)
attributes:
  check_mode:
    description: Predicts the change without writing anything.
    support: full
  diff_mode:
    description: Shows the files that differ.
    support: full
  idempotent:
    description: A second run changes nothing.
    support: full
  action:
    description: Runs partly on the control node.
    support: full
options:
  dest:
    description: The directory on the host.
    type: path
    required: true
  files:
    description: What the directory consists of.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Relative path in the directory.
        type: str
        required: true
      sha256:
        description: Of the content, in hexadecimal.
        type: str
        required: true
      size:
        description: In bytes.
        type: int
      src:
        description: The file on the control node. It is read only when the host does not have the content.
        type: path
  state:
    description: Whether the directory is there.
    type: str
    choices: [present, absent]
    default: present
  replace:
    description: Whether a directory with other content is replaced. Otherwise that is an error.
    type: bool
    default: false
  owner:
    description: Owner of the directories, and of files that are not shared.
    type: str
    default: root
  group:
    description: Group of the directories, and of files that are not shared.
    type: str
    default: root
  mode:
    description:
      - Permissions of the files. Files are shared with the store only when they are V(0444) and belong to root, else
        they are copies.
    type: str
    default: "0444"
  directory_mode:
    description: Permissions of the directories.
    type: str
    default: "0755"
  blobs:
    description: The store on the host.
    type: path
    default: /var/lib/ai102/blobs
  incoming:
    description: For the action plugin. Content that was just transferred, sha256 to path on the host.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Deliver a tool
  ai102.inference.content:
    dest: /opt/tool/1.0
    files:
      - path: tool.tar
        sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
        src: /home/operator/tool.tar
"""

RETURN = r"""
differences:
  description: In what the directory differed, one line for each file.
  type: list
  elements: str
  returned: always
missing:
  description: The sha256 of content that the host does not have.
  type: list
  elements: str
  returned: always
transferred:
  description: How many files were transferred.
  type: int
  returned: always
transferred_bytes:
  description: How many bytes were transferred.
  type: int
  returned: always
pruned:
  description: Content that was removed from the store.
  type: list
  elements: str
  returned: always
"""

import contextlib
import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ai102.inference.plugins.module_utils._content import (
    BlobStore,
    ContentError,
    Directory,
    parse_files,
    sweep,
)


def run(module: AnsibleModule) -> dict[str, object]:
    """Do what the options say.

    :returns: the module's result.
    :raises ContentError: content or a directory that is not what it should be.
    """
    params = module.params
    store = BlobStore(params["blobs"])
    result: dict[str, object] = {"changed": False, "differences": [], "missing": [], "pruned": []}
    directory = Directory(params["dest"], parse_files(params["files"]), store)
    if params["state"] == "absent":
        if directory.exists():
            result["changed"] = True
            result["diff"] = {"before": f"{params['dest']}\n", "after": ""}
            if not module.check_mode:
                directory.remove()
                result["pruned"] = store.prune()
        return result
    if not directory.files:
        raise ContentError("a directory needs at least one file")
    differences = directory.differences()
    if not differences:
        return result
    result["differences"] = differences
    if directory.exists() and not params["replace"]:
        shown = "; ".join(differences[:10])
        raise ContentError(f"{params['dest']} is there with other content and must not change: {shown}")
    for sha256, path in params["incoming"].items():
        store.take(path, sha256)
        with contextlib.suppress(OSError):
            os.unlink(path)
    result["missing"] = store.missing(directory.files)
    if module.check_mode:
        result["changed"] = True
        result["diff"] = {"before": "", "after": "".join(f"{line}\n" for line in differences)}
        return result
    if result["missing"]:
        return result
    directory.build(params["owner"], params["group"], int(params["directory_mode"], 8), int(params["mode"], 8))
    sweep(directory.path.parent)
    result["changed"] = True
    result["diff"] = {"before": "", "after": "".join(f"{line}\n" for line in differences)}
    result["pruned"] = store.prune()
    return result


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "dest": {"type": "path", "required": True},
            "files": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "path": {"type": "str", "required": True},
                    "sha256": {"type": "str", "required": True},
                    "size": {"type": "int"},
                    "src": {"type": "path"},
                },
            },
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "replace": {"type": "bool", "default": False},
            "owner": {"type": "str", "default": "root"},
            "group": {"type": "str", "default": "root"},
            "mode": {"type": "str", "default": "0444"},
            "directory_mode": {"type": "str", "default": "0755"},
            "blobs": {"type": "path", "default": "/var/lib/ai102/blobs"},
            "incoming": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except (ContentError, OSError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
