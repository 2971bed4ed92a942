#!/usr/bin/python
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds a locked virtual environment without network on the host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: python_environment
short_description: Build a locked virtual environment without network on the host
version_added: "0.1.0"
description:
  - Builds a virtual environment of locked wheels and of the wheel of our own project, under a name that is made of
    what it consists of. The same content is the same environment, and looking at it costs one call.
  - The control node fetches the wheels (see M(ai102.inference.wheelhouse)) and delivers those that the host does not
    have; C(pip) then installs them by hash and without an index, checks that they fit together, and the modules are
    imported. An environment that fails leaves nothing.
  - When one was built, environments that nothing refers to are removed, all but some of the newest.
author:
  - AI-102 inference maintainers (@ai102)
extends_documentation_fragment:
  - ai102.inference.cache
attributes:
  check_mode:
    description: Predicts the change without fetching or writing anything.
    support: full
  diff_mode:
    description: Names the environment.
    support: full
  idempotent:
    description: A second run changes nothing.
    support: full
  action:
    description: Runs partly on the control node.
    support: full
options:
  cache_dir:
    required: false
  lock_dir:
    description: Directory on the control node with C(server-<flavour>-cp<version>.txt).
    type: path
  flavour:
    description: Which locks, such as V(cpu) or V(gpu).
    type: str
    required: true
  project:
    description: Source tree on the control node whose wheel is installed too.
    type: path
  modules:
    description: Modules that must be importable.
    type: list
    elements: str
    default: []
  left_out:
    description: Packages that others ask for, and that the lock leaves out on purpose because nothing needs them.
    type: list
    elements: str
    default: []
  path:
    description: Directory of the environments on the host.
    type: path
    default: /opt/ai102/environments
  interpreter:
    description: The host's Python that the environment is made of.
    type: path
    default: /usr/bin/python3
  references:
    description: Patterns of symbolic links that say which environments are in use.
    type: list
    elements: str
    default: []
  keep:
    description: How many environments stay that are not in use, besides the wanted one.
    type: int
    default: 2
  blobs:
    description: The host's store of delivered content.
    type: path
    default: /var/lib/ai102/blobs
  wheelhouses:
    description: Directory on the host of the delivered wheels of each environment.
    type: path
    default: /var/lib/ai102/wheelhouses
  candidates:
    description: For the action plugin. Version of Python to name of the environment.
    type: dict
    default: {}
  files:
    description: For the action plugin. The wheels, each with C(path), C(sha256), C(size).
    type: list
    elements: dict
    default: []
  requirements:
    description: For the action plugin. The wheels as a requirements file.
    type: str
    default: ""
  incoming:
    description: For the action plugin. Content that was just transferred, sha256 to path on the host.
    type: dict
    default: {}
requirements:
  - python3-venv on the host
"""

EXAMPLES = r"""
- name: Build the inference server's environment
  ai102.inference.python_environment:
    lock_dir: roles/artifacts/files/python
    flavour: cpu
    project: server
    modules: [ai102_server, onnxruntime]
    cache_dir: "{{ ai102_cache_dir }}"
  register: environment
"""

RETURN = r"""
environment:
  description: Path of the environment.
  type: str
  returned: success
digest:
  description: Its name.
  type: str
  returned: success
python:
  description: Version of the host's Python.
  type: str
  returned: success
versions:
  description: What is installed in it. Empty when it has not been built.
  type: dict
  returned: success
providers:
  description: ONNX Runtime's execution providers in it.
  type: list
  elements: str
  returned: success
transferred:
  description: How many wheels were transferred.
  type: int
  returned: when it was built
pruned:
  description: Environments that were removed.
  type: list
  elements: str
  returned: success
"""

import contextlib
import os
import shutil
import sys
import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ai102.inference.plugins.module_utils._content import (
    BlobStore,
    ContentError,
    Directory,
    parse_files,
)
from ansible_collections.ai102.inference.plugins.module_utils._environment import (
    EnvironmentBuildError,
    build,
    complete,
    removable,
)


def host_python(module: AnsibleModule) -> str:
    """Return the version of the host's Python, such as ``3.11``."""
    interpreter = module.params["interpreter"]
    if os.path.realpath(interpreter) == os.path.realpath(sys.executable):
        return f"{sys.version_info.major}.{sys.version_info.minor}"
    statement = "import sys; print('%d.%d' % sys.version_info[:2])"
    _rc, output, _stderr = module.run_command([interpreter, "-c", statement], check_rc=True)
    return str(output).strip()


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """Do what the options say.

    :returns: the module's result.
    :raises ContentError: wheels that are not what they should be.
    :raises EnvironmentBuildError: the environment cannot be built.
    """
    params = module.params
    python = host_python(module)
    digest = params["candidates"].get(python)
    if digest is None:
        known = ", ".join(sorted(params["candidates"]))
        raise EnvironmentBuildError(
            f"there is no {params['flavour']} lock for the host's Python {python}; there is: {known}"
        )
    root = Path(params["path"])
    path = root / digest
    result: dict[str, t.Any] = {
        "changed": False,
        "environment": str(path),
        "digest": digest,
        "python": python,
        "versions": {},
        "providers": [],
        "pruned": [],
    }
    record = complete(path)
    if record is not None:
        result.update(versions=record.get("versions", {}), providers=record.get("providers", []))
        return result
    result["changed"] = True
    result["diff"] = {"before": "", "after": f"{path}\n"}
    if module.check_mode or not params["files"]:
        return result
    store = BlobStore(params["blobs"])
    for sha256, incoming in params["incoming"].items():
        store.take(incoming, sha256)
        with contextlib.suppress(OSError):
            os.unlink(incoming)
    wheels = Directory(Path(params["wheelhouses"]) / digest, parse_files(params["files"]), store)
    missing = store.missing(wheels.files)
    if missing:
        return {**result, "changed": False, "missing": missing}
    if wheels.differences():
        wheels.build()
    record = build(
        path,
        params["interpreter"],
        wheels.path,
        params["requirements"],
        params["modules"],
        params["left_out"],
        {"python": python, "flavour": params["flavour"]},
    )
    result.update(versions=record["versions"], providers=record["providers"])
    for old in removable(root, digest, params["references"], params["keep"]):
        shutil.rmtree(old)
        shutil.rmtree(wheels.path.parent / old.name, ignore_errors=True)
        result["pruned"].append(str(old))
    for house in wheels.path.parent.iterdir():
        if not (root / house.name).is_dir():
            shutil.rmtree(house, ignore_errors=True)
    store.prune()
    return result


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "cache_dir": {"type": "path"},
            "source": {"type": "str", "choices": ["online", "bundle"], "default": "online"},
            "bundle_dir": {"type": "str", "default": ""},
            "retries": {"type": "int", "default": 3},
            "lock_dir": {"type": "path"},
            "flavour": {"type": "str", "required": True},
            "project": {"type": "path"},
            "modules": {"type": "list", "elements": "str", "default": []},
            "left_out": {"type": "list", "elements": "str", "default": []},
            "path": {"type": "path", "default": "/opt/ai102/environments"},
            "interpreter": {"type": "path", "default": "/usr/bin/python3"},
            "references": {"type": "list", "elements": "str", "default": []},
            "keep": {"type": "int", "default": 2},
            "blobs": {"type": "path", "default": "/var/lib/ai102/blobs"},
            "wheelhouses": {"type": "path", "default": "/var/lib/ai102/wheelhouses"},
            "candidates": {"type": "dict", "default": {}},
            "files": {"type": "list", "elements": "dict", "default": []},
            "requirements": {"type": "str", "default": ""},
            "incoming": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except (ContentError, EnvironmentBuildError, OSError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
