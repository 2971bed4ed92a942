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
  - Gives the host the keys that decrypt the models, if any is encrypted, as files that root and one group may read. A
    key goes when no model needs it and none of the O(references) names its file.
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
  encryption_key:
    description: The site's key on the control node with which M(ai102.inference.model_package) encrypts.
    type: path
    default: ""
  passphrase:
    description: Encrypts that key.
    type: str
    default: ""
  decryption_keys:
    description: Keys of packages that were made elsewhere, see M(ai102.inference.model_package). Those that a model
      needs are given to the host.
    type: list
    elements: str
    default: []
  decryption_keys_path:
    description: Directory on the host for the keys.
    type: path
    default: /etc/ai102/model_keys
  decryption_keys_group:
    description: Group that may read them, besides root.
    type: str
    default: ai102
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
    encryption_key: "{{ ai102_secrets_dir }}/model_encryption.key"
    passphrase: "{{ ai102_secrets_passphrase }}"
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
decryption_keys:
  description: Files on the host with the keys that the models need.
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
import tempfile
import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ai102.inference.plugins.module_utils._content import (
    BlobStore,
    ContentError,
    Directory,
    owner_ids,
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
from ansible_collections.ai102.inference.plugins.module_utils._sealing import key_id


def referenced(patterns: t.Iterable[str], form: re.Pattern[str]) -> set[str]:
    """Return what of a form stands in one of some text files.

    :param patterns: of the files.
    :param form: with one group, which is returned.
    """
    named: set[str] = set()
    for pattern in patterns:
        for path in glob.glob(pattern):
            with contextlib.suppress(OSError):
                named.update(form.findall(Path(path).read_text(encoding="utf-8", errors="replace")))
    return named


class KeyFiles:
    """The keys that decrypt models on the host, a file each.

    :param folder: where they are.
    :param keys: those that are needed.
    :param group: may read them, besides root.
    :param used: names of files that a release needs.
    :param dry: a group that is not there yet will be (check mode).
    :raises ContentError: there is no such group.
    """

    def __init__(self, folder: Path, keys: t.Sequence[bytes], group: str, used: t.Collection[str], dry: bool) -> None:
        self.folder = folder
        self._wanted = {f"{key_id(key)}.key": f"{key.hex()}\n" for key in keys}
        try:
            self._owner = owner_ids(str(os.geteuid()), group) if keys else (0, 0)
        except ContentError:
            if not dry:
                raise
            self._owner = (-1, -1)
        self.written = [name for name in self._wanted if not self._right(name)]
        present = {path.name for path in folder.glob("*.key")} if folder.is_dir() else set()
        self.removed = sorted(present - set(self._wanted) - set(used))

    @property
    def paths(self) -> list[str]:
        """The files that are needed."""
        return [str(self.folder / name) for name in self._wanted]

    def _right(self, name: str) -> bool:
        path = self.folder / name
        if not path.is_file() or path.read_text(encoding="ascii", errors="replace") != self._wanted[name]:
            return False
        status, folder = path.stat(), self.folder.stat()
        modes = (status.st_mode & 0o777, folder.st_mode & 0o777)
        return modes == (0o640, 0o750) and {(s.st_uid, s.st_gid) for s in (status, folder)} == {self._owner}

    def write(self) -> None:
        """Put the files in place that are not as they should be."""
        if not self.written:
            return
        self.folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        os.chown(self.folder, *self._owner)
        self.folder.chmod(0o750)
        for name in self.written:
            handle, staged = tempfile.mkstemp(dir=self.folder, prefix=f".{name}.")
            with os.fdopen(handle, "w", encoding="ascii") as sink:
                os.fchown(handle, *self._owner)
                os.fchmod(handle, 0o640)
                sink.write(self._wanted[name])
            os.replace(staged, self.folder / name)

    def remove(self) -> None:
        """Remove those that nothing needs any more."""
        for name in self.removed:
            (self.folder / name).unlink()
        if self.removed and not any(self.folder.iterdir()):
            self.folder.rmdir()


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

    folder = Path(params["decryption_keys_path"])
    key_files = KeyFiles(
        folder,
        [bytes.fromhex(key) for key in params["decryption_keys"]],
        params["decryption_keys_group"],
        referenced(params["references"], re.compile(re.escape(str(folder)) + r"/([\w.-]+\.key)")),
        module.check_mode,
    )
    result["decryption_keys"] = key_files.paths
    key_path = Path(params["public_keys_path"])
    known_keys = key_path.read_text(encoding="ascii") if key_path.is_file() else ""
    wanted = {f"{model['name']}/{model['version']}" for model in models}
    used = referenced(params["references"], re.compile(re.escape(str(root)) + r"/([\w.-]+/[\w.-]+)"))
    gone = surplus(root, wanted, used, params["keep"])
    before += [f"{path.parent.name} {path.name}" for path in gone]
    before += [f"decryption key {Path(name).stem}" for name in key_files.removed]
    after += [f"decryption key {Path(name).stem}" for name in key_files.written]
    keys_differ = bool(key_files.written or key_files.removed or known_keys != params["public_keys"])
    result["changed"] = bool(due or gone or unmade or keys_differ)
    result["diff"] = {
        "before": "".join(f"{line}\n" for line in before),
        "after": "".join(f"{line}\n" for line in after),
    }
    result["installed"] = [str(directory.path) for directory, _name, _version in due]
    result["removed"] = [str(path) for path in gone]
    if module.check_mode or not result["changed"]:
        return result

    key_files.write()
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
    key_files.remove()
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
            # The control node keeps its secrets to itself: in `decryption_keys` come the keys that the host needs.
            "encryption_key": {"type": "path", "default": "", "no_log": False},
            "passphrase": {"type": "str", "default": "", "no_log": True},
            "decryption_keys": {"type": "list", "elements": "str", "default": [], "no_log": True},
            "decryption_keys_path": {"type": "path", "default": "/etc/ai102/model_keys", "no_log": False},
            "decryption_keys_group": {"type": "str", "default": "ai102", "no_log": False},
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
