#!/usr/bin/python
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tells apt of a vendor's package repository."""

from __future__ import annotations

DOCUMENTATION = r"""
module: package_repository
short_description: Tell apt of a package repository, its key and its preferences
version_added: "0.1.0"
author: AI-102 inference maintainers (@ai102)
description:
  - Writes the source, the key and the preferences of a repository that the lock declares for the host's release, and
    fetches its list of packages. The three belong together; where apt refuses one of them, or the repository cannot be
    read with that key, all three are put back as they were.
  - The key is fetched to the control node and trusted only if it has the fingerprint that the lock says. It is then
    trusted for this repository and no other.
extends_documentation_fragment: [ai102.inference.cache]
attributes:
  check_mode:
    description: Predicts changes without making them. Nothing is fetched.
    support: full
  diff_mode:
    description: Shows the files before and after.
    support: full
  idempotent:
    description: A second run changes nothing.
    support: full
  action:
    description: The key is fetched on the control node.
    support: full
options:
  name:
    description: Name of the repository.
    type: str
    required: true
  state:
    description: Whether apt knows of it.
    type: str
    choices: [present, absent]
    default: present
  repositories:
    description: The repositories that the lock declares.
    type: dict
    default: {}
  own_repositories:
    description:
      - What the site says instead, by name, a mirror or a repository that only the site has. Each may have C(uri),
        C(suites), C(components), C(architectures), C(fingerprint), and C(key_url) or C(key_file) (a path on the control
        node).
    type: dict
    default: {}
  url_rewrites:
    description: Prefixes of addresses and what replaces them, for sites with mirrors.
    type: dict
    default: {}
  preferences:
    description: Entries for apt's preferences that come and go with the repository.
    type: list
    elements: dict
    default: []
    suboptions:
      packages:
        description: Names or patterns of packages, separated by blanks.
        type: str
        required: true
      pin:
        description: What the entry is about, as in apt_preferences(5).
        type: str
        required: true
      priority:
        description: The priority.
        type: int
        required: true
  key:
    description: The content of the key. Given by the action.
    type: str
  root:
    description: Directory of apt's settings.
    type: path
    default: /etc/apt
"""

EXAMPLES = r"""
- name: Tell apt of NVIDIA's repository
  ai102.inference.package_repository:
    name: nvidia-cuda
    repositories: "{{ lock.repositories }}"
    preferences:
      - {packages: "*", pin: origin developer.download.nvidia.com, priority: 100}
    cache_dir: "{{ ai102_cache_dir }}"
"""

RETURN = r"""
files:
  description: The files of the repository on the host.
  type: list
  elements: str
  returned: always
uri:
  description: Its address, empty when O(state=absent).
  type: str
  returned: always
fingerprint:
  description: Fingerprint of its key, empty when O(state=absent).
  type: str
  returned: always
key_wanted:
  description: Where the key is to be had, when the host does not have it yet. Read by the action.
  type: str
  returned: always
"""

import os
import tempfile
import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ai102.inference.plugins.module_utils._artifacts import rewrite_url
from ansible_collections.ai102.inference.plugins.module_utils._packages import parse_os_release
from ansible_collections.ai102.inference.plugins.module_utils._repositories import (
    Repository,
    RepositoryError,
    fingerprints,
    resolve,
)

OPTIONS: t.Final[dict[str, dict[str, t.Any]]] = {
    "name": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "repositories": {"type": "dict", "default": {}},
    "own_repositories": {"type": "dict", "default": {}},
    "url_rewrites": {"type": "dict", "default": {}},
    "preferences": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "packages": {"type": "str", "required": True},
            "pin": {"type": "str", "required": True},
            "priority": {"type": "int", "required": True},
        },
    },
    "root": {"type": "path", "default": "/etc/apt"},
    # Of the action, which fetches the key.
    "cache_dir": {"type": "path", "required": True},
    "source": {"type": "str", "choices": ["online", "bundle"], "default": "online"},
    "bundle_dir": {"type": "str", "default": ""},
    "retries": {"type": "int", "default": 3},
}


def wanted_files(repository: Repository, uri: str, key: str | None) -> dict[str, str]:
    """The files of a repository, below apt's directory; the key only where it is known."""
    files = {repository.sources_path: repository.sources().replace(f"URIs: {repository.uri}\n", f"URIs: {uri}\n")}
    if key is not None:
        files[repository.key_path] = key
    if preferences := repository.preferences():
        files[repository.preferences_path] = preferences
    return files


def has_key(path: Path, fingerprint: str) -> bool:
    """Whether a file holds this key and no other."""
    try:
        return fingerprints(path.read_bytes()) == [fingerprint]
    except (OSError, RepositoryError):
        return False


def validate(module: AnsibleModule, files: t.Mapping[str, str]) -> None:
    """Have apt read the files before they are put in place. Raises `RepositoryError`."""
    with tempfile.TemporaryDirectory(dir=module.tmpdir) as folder:
        for path, content in files.items():
            target = Path(folder, path)
            target.parent.mkdir(exist_ok=True)
            target.write_text(content, encoding="utf-8")
        common = ["-o", "Dir::Etc::sourcelist=/dev/null", "-o", f"Dir::Etc::sourceparts={folder}/sources.list.d"]
        preferences = [
            "-o",
            "Dir::Etc::preferences=/dev/null",
            "-o",
            f"Dir::Etc::preferencesparts={folder}/preferences.d",
        ]
        Path(folder, "preferences.d").mkdir(exist_ok=True)
        for command in (["apt-get", "indextargets", *common], ["apt-cache", *common, *preferences, "policy"]):
            status, output, errors = module.run_command(command, environ_update={"LC_ALL": "C.UTF-8"})
            if status != 0 or "E: " in errors:
                raise RepositoryError(f"apt does not accept the repository: {(errors or output).strip()}")


def read_lists(module: AnsibleModule, root: Path, repository: Repository) -> None:
    """Fetch the list of packages of this repository only. Raises `RepositoryError`."""
    command = [
        "apt-get",
        "update",
        "-o",
        f"Dir::Etc::sourcelist={root / repository.sources_path}",
        "-o",
        "Dir::Etc::sourceparts=-",
        "-o",
        "APT::Get::List-Cleanup=0",
        "-o",
        "APT::Update::Error-Mode=any",
        "-o",
        "DPkg::Lock::Timeout=300",
    ]
    status, output, errors = module.run_command(command, environ_update={"LC_ALL": "C.UTF-8"})
    if status != 0:
        raise RepositoryError(
            f"the repository {repository.name} cannot be read: {' '.join((errors or output).split())[:600]}"
        )


def write(root: Path, files: t.Mapping[str, str | None]) -> None:
    """Write files, or remove those without content."""
    for path, content in files.items():
        target = root / path
        if content is None:
            target.unlink(missing_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        temporary = target.with_name(f".{target.name}.new")
        temporary.write_text(content, encoding="utf-8")
        os.chmod(temporary, 0o644)  # apt fetches as a user of its own, who has to read the key
        temporary.replace(target)


def read(root: Path, path: str) -> str | None:
    """What a file says now."""
    try:
        return (root / path).read_text(encoding="utf-8")
    except OSError:
        return None


def work(module: AnsibleModule) -> dict[str, t.Any]:
    """Do the work. Raises `RepositoryError`."""
    options = module.params
    root = Path(options["root"])
    paths = [
        f"sources.list.d/ai102-{options['name']}.sources",
        f"preferences.d/ai102-{options['name']}",
        f"keyrings/ai102-{options['name']}.asc",
    ]
    before = {path: read(root, path) for path in paths}
    if options["state"] == "absent":
        return _switch(module, root, before, dict.fromkeys(paths), None)
    release = parse_os_release(Path("/etc/os-release").read_text(encoding="utf-8"))
    repository = resolve(
        options["name"],
        options["repositories"],
        options["own_repositories"],
        release.get("VERSION_CODENAME", ""),
        options["preferences"],
    )
    uri = rewrite_url(repository.uri, options["url_rewrites"])
    key: str | None = options["key"]
    if key is None:
        if has_key(root / repository.key_path, repository.fingerprint):
            key = before[repository.key_path]
        elif not module.check_mode:
            return {"changed": False, "key_wanted": repository.key_url, "fingerprint": repository.fingerprint}
    files: dict[str, str | None] = {**dict.fromkeys(paths), **wanted_files(repository, uri, key)}
    if key is None:  # check mode, and the host does not have it
        files[repository.key_path] = f"(the key {repository.fingerprint})\n"
    answer = _switch(module, root, before, files, repository)
    return {**answer, "uri": uri, "fingerprint": repository.fingerprint}


def _switch(
    module: AnsibleModule,
    root: Path,
    before: t.Mapping[str, str | None],
    files: t.Mapping[str, str | None],
    repository: Repository | None,
) -> dict[str, t.Any]:
    """Put files in place, or put those before back."""
    changed = [path for path in files if files[path] != before[path]]
    answer: dict[str, t.Any] = {
        "changed": bool(changed),
        "files": [str(root / path) for path, content in files.items() if content is not None],
        "diff": [
            {
                "before_header": str(root / path),
                "after_header": str(root / path),
                "before": before[path] or "",
                "after": files[path] or "",
            }
            for path in changed
        ],
    }
    if not changed or module.check_mode:
        return answer
    if repository is not None:
        validate(module, {path: content for path, content in files.items() if content is not None})
    write(root, files)
    if repository is not None:
        try:
            read_lists(module, root, repository)
        except RepositoryError:
            write(root, before)
            raise
    else:
        # What apt knows of the repository's packages goes with it.
        module.run_command(["apt-get", "update", "-o", "DPkg::Lock::Timeout=300"])
    return answer


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={**OPTIONS, "key": {"type": "str", "no_log": False}},
        supports_check_mode=True,
    )
    try:
        answer = work(module)
    except (RepositoryError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**{"files": [], "uri": "", "fingerprint": "", "key_wanted": "", **answer})


if __name__ == "__main__":
    main()
