#!/usr/bin/python
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Delivers signed model packages to a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: model_store
short_description: Deliver signed model packages to a host
version_added: "0.1.0"
description:
  - Delivers versions of models as immutable directories C(<path>/<name>/<version>). All of them together cost one call
    when there is nothing to do.
  - Signature and every hash are verified on the host before a directory gets its name. A package that is wrong is
    refused, and what was there before stays.
  - A version never changes its content. Another content under the same version is refused.
  - Content that the host has, from whichever version, is not transferred again.
  - Removes versions that are neither wanted nor named in one of the O(references), all but some of the newest.
author:
  - AI-102 inference maintainers (@ai102)
attributes:
  check_mode:
    description: Predicts the change without writing anything, also for packages that have not been made yet.
    support: full
  diff_mode:
    description: Shows the versions that come and go.
    support: full
  idempotent:
    description: A second run changes nothing.
    support: full
  action:
    description: Runs partly on the control node.
    support: full
options:
  models:
    description: The packages as M(ai102.inference.model_package) returns them.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Of the model.
        type: str
        required: true
      version:
        description: Of the model.
        type: str
        required: true
      package:
        description: The package on the control node. Empty in check mode when it has not been made yet.
        type: str
      manifest_sha256:
        description: Of C(manifest.json).
        type: str
      files:
        description: What the package consists of, each with C(path), C(sha256), C(size).
        type: list
        elements: dict
        default: []
  public_keys:
    description: Public keys in PEM form, one of which must have signed each package.
    type: str
    required: true
  public_keys_path:
    description: Where the public keys are kept on the host.
    type: path
    default: /etc/ai102/model_signing.pub
  path:
    description: Directory of the models on the host.
    type: path
    default: /var/lib/ai102/models
  blobs:
    description: The host's store of delivered content.
    type: path
    default: /var/lib/ai102/blobs
  references:
    description: Patterns of text files; a version whose path stands in one of them is in use and stays.
    type: list
    elements: str
    default: []
  keep:
    description: How many versions of each model stay that are neither wanted nor in use.
    type: int
    default: 2
  incoming:
    description: For the action plugin. Content that was just transferred, sha256 to path on the host.
    type: dict
    default: {}
requirements:
  - python3-cryptography, or openssl 3.0, on the host
"""

EXAMPLES = r"""
- name: Deliver the models
  ai102.inference.model_store:
    models: "{{ packaged.models }}"
    public_keys: "{{ packaged.public_keys }}"
"""

RETURN = r"""
models:
  description: The versions, each with C(name), C(version), C(path) and C(manifest_sha256).
  type: list
  elements: dict
  returned: success
installed:
  description: Paths of the versions that were put in place.
  type: list
  elements: str
  returned: success
removed:
  description: Paths of the versions that were removed.
  type: list
  elements: str
  returned: success
missing:
  description: The sha256 of content that the host does not have.
  type: list
  elements: str
  returned: success
transferred:
  description: How many files were transferred.
  type: int
  returned: success
transferred_bytes:
  description: How many bytes were transferred.
  type: int
  returned: success
"""

import contextlib
import glob
import os
import re
import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ai102.inference.plugins.module_utils._content import (
    BlobStore,
    ContentError,
    Directory,
    parse_files,
    sha256_of,
    sweep,
)
from ansible_collections.ai102.inference.plugins.module_utils._manifest import (
    MANIFEST,
    PackageError,
    check_identity,
    split_keys,
    verify_package,
)


def referenced(patterns: t.Iterable[str], root: Path) -> set[str]:
    """Return the versions (``name/version``) whose path stands in one of some text files.

    :param patterns: of the files.
    :param root: directory of the models.
    """
    named: set[str] = set()
    form = re.compile(re.escape(str(root)) + r"/([\w.-]+/[\w.-]+)")
    for pattern in patterns:
        for path in glob.glob(pattern):
            with contextlib.suppress(OSError):
                named.update(form.findall(Path(path).read_text(encoding="utf-8", errors="replace")))
    return named


def surplus(root: Path, wanted: set[str], used: set[str], keep: int) -> list[Path]:
    """Choose the versions that may go: neither wanted nor in use, nor among the newest of their model.

    :param keep: how many of those stay for each model.
    """
    chosen: list[Path] = []
    if not root.is_dir():
        return chosen
    for model in sorted(entry for entry in root.iterdir() if entry.is_dir()):
        spare = [
            version
            for version in model.iterdir()
            if version.is_dir()
            and not version.name.startswith(".")
            and f"{model.name}/{version.name}" not in wanted | used
        ]
        spare.sort(key=lambda version: version.stat().st_mtime)
        chosen += spare[: max(0, len(spare) - keep)]
    return chosen


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """Do what the options say.

    :returns: the module's result.
    :raises ContentError: content that is not what it should be.
    :raises PackageError: a package that is refused.
    """
    params = module.params
    root = Path(params["path"])
    store = BlobStore(params["blobs"])
    keys = split_keys(params["public_keys"])
    models: list[dict[str, str]] = []
    due: list[tuple[Directory, str, str]] = []
    before: list[str] = []
    after: list[str] = []
    unmade = False
    for entry in params["models"]:
        name, version = check_identity(entry["name"], entry["version"])
        path = root / name / version
        models.append(
            {"name": name, "version": version, "path": str(path), "manifest_sha256": entry["manifest_sha256"] or ""}
        )
        directory = Directory(path, parse_files(entry["files"]), store)
        line = f"{name} {version} {entry['manifest_sha256'] or ''}".rstrip()
        there = sha256_of(path / MANIFEST) if (path / MANIFEST).is_file() else ""
        if there and entry["manifest_sha256"] and there != entry["manifest_sha256"]:
            raise PackageError(
                f"model {name} {version} is on the host with other content (manifest {there[:12]}, wanted "
                f"{entry['manifest_sha256'][:12]}): a version never changes, so give the new content a new version"
            )
        if not directory.files:
            if not module.check_mode:
                raise PackageError(f"model {name} {version}: there is no package to deliver")
            if not there:
                unmade = True
                after.append(line)
        elif directory.differences():
            due.append((directory, name, version))
            before += [f"{name} {version} (damaged)"] if there else []
            after.append(line)
    result: dict[str, t.Any] = {"changed": False, "models": models, "installed": [], "removed": [], "missing": []}
    if not keys and not (unmade or module.check_mode):
        raise PackageError("there is no public key to verify models with")

    for sha256, incoming in params["incoming"].items():
        store.take(incoming, sha256)
        with contextlib.suppress(OSError):
            os.unlink(incoming)
    result["missing"] = store.missing([file for directory, _name, _version in due for file in directory.files])
    if result["missing"] and not module.check_mode:
        return result

    key_path = Path(params["public_keys_path"])
    known_keys = key_path.read_text(encoding="ascii") if key_path.is_file() else ""
    wanted = {f"{model['name']}/{model['version']}" for model in models}
    gone = surplus(root, wanted, referenced(params["references"], root), params["keep"])
    before += [f"{path.parent.name} {path.name}" for path in gone]
    result["changed"] = bool(due or gone or unmade or known_keys != params["public_keys"])
    result["diff"] = {
        "before": "".join(f"{line}\n" for line in before),
        "after": "".join(f"{line}\n" for line in after),
    }
    result["installed"] = [str(directory.path) for directory, _name, _version in due]
    result["removed"] = [str(path) for path in gone]
    if module.check_mode or not result["changed"]:
        return result

    for directory, name, version in due:

        def verify(staged: Path, name: str = name, version: str = version) -> None:
            verify_package(staged, keys, name, version)

        directory.build(verify=verify)
        sweep(directory.path.parent)
    if known_keys != params["public_keys"]:
        key_path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        staged_key = key_path.with_suffix(".new")
        staged_key.write_text(params["public_keys"], encoding="ascii")
        staged_key.chmod(0o644)
        staged_key.replace(key_path)
    for path in gone:
        Directory(path, [], store).remove()
    if due or gone:
        store.prune()
    return result


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "models": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "version": {"type": "str", "required": True},
                    "package": {"type": "str"},
                    "manifest_sha256": {"type": "str"},
                    "files": {"type": "list", "elements": "dict", "default": []},
                },
            },
            "public_keys": {"type": "str", "required": True, "no_log": False},
            "public_keys_path": {"type": "path", "default": "/etc/ai102/model_signing.pub", "no_log": False},
            "path": {"type": "path", "default": "/var/lib/ai102/models"},
            "blobs": {"type": "path", "default": "/var/lib/ai102/blobs"},
            "references": {"type": "list", "elements": "str", "default": []},
            "keep": {"type": "int", "default": 2},
            "incoming": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except (ContentError, PackageError, OSError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
