#!/usr/bin/python
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds the server's container image and pushes it to a registry."""

from __future__ import annotations

DOCUMENTATION = r"""
module: image_build
short_description: Build the server's container image and push it to a registry
version_added: "0.1.0"
author: AI-102 inference maintainers (@ai102)
description:
  - Builds the image from C(Dockerfile) and the hashed locks, gives it a tag that is made of what it consists of, pushes
    it, and writes its digest to a file. That file is what hosts are given the image by.
  - An image of the same inputs that the registry has already is neither built nor pushed again, and needs no engine.
  - Run it on the control node, where the sources are.
attributes:
  check_mode:
    description: Asks the registry and predicts, without building anything.
    support: full
  diff_mode:
    description: Shows how the record changes.
    support: full
  idempotent:
    description: A second run changes nothing, unless O(renew) is set.
    support: full
options:
  project:
    description: Source tree of the server, with its C(Dockerfile).
    type: path
    required: true
  lock_dir:
    description: Directory of the hashed locks.
    type: path
    required: true
  flavour:
    description: Which locks, such as V(cpu) or V(gpu).
    type: str
    required: true
  base:
    description: Image that it stands on, with Python 3.10 to 3.13. Best by its digest.
    type: str
    default: ""
  base_release:
    description:
      - Release of Debian, such as V(bookworm), of which a base is made with C(mmdebstrap) instead, for places from
        which no public registry can be reached.
    type: str
    default: ""
  base_mirror:
    description: Lines of C(sources.list) for that. Debian's own archive, with its security updates, when empty.
    type: list
    elements: str
    default: []
  build_ca:
    description: PEM file of the authorities by which the package index is trusted, with O(base_release). The image that
      comes of it does not have it.
    type: str
    default: ""
  build_args:
    description: Further arguments of the build, such as C(PIP_INDEX_URL).
    type: dict
    default: {}
  builder:
    description: Program that builds.
    type: str
    choices: [docker, podman]
    default: docker
  renew:
    description: Whether to build again from a fresh base, for its security updates.
    type: bool
    default: false
  registry:
    description: Address and port of the registry.
    type: str
    required: true
  repository:
    description: Name of the image there.
    type: str
    default: ai102-server
  username:
    description: Account of the registry. Empty for none.
    type: str
    default: ""
  password:
    description: Its password.
    type: str
    default: ""
  ca_path:
    description: PEM file of the authorities that the registry's certificate must come from. The system's when empty.
    type: str
    default: ""
  record:
    description: File to write what was pushed to, as JSON.
    type: path
    required: true
requirements:
  - docker or podman, skopeo, and mmdebstrap with O(base_release), on the machine that builds
"""

EXAMPLES = r"""
- name: Build the image and push it
  ai102.inference.image_build:
    project: server
    lock_dir: roles/artifacts/files/python
    flavour: cpu
    base_release: bookworm
    registry: 10.0.0.5:5000
    username: ai102
    password: "{{ vault_registry_password }}"
    ca_path: secrets/pki/ca-bundle.pem
    record: images/ai102-server-cpu.json
  delegate_to: localhost
"""

RETURN = r"""
reference:
  description: The image by its digest, as hosts are given it. Empty when it is not there yet in check mode.
  returned: success
  type: str
tag:
  description: Its tag, which is made of what it consists of.
  returned: success
  type: str
  sample: 0.1.0-cpu-3f1c09a2b7de
built:
  description: Whether it was built, or would be.
  returned: success
  type: bool
compressed_bytes:
  description: What a pull transfers.
  returned: success
  type: int
layers:
  description: Its layers from the base up, each with C(bytes) and C(step).
  returned: success
  type: list
  elements: dict
"""

import json
import tempfile
import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ai102.inference.plugins.module_utils._artifacts import ArtifactError
from ansible_collections.ai102.inference.plugins.module_utils._container_image import ImageError, Reference
from ansible_collections.ai102.inference.plugins.module_utils._image_build import Builder, Recipe, Registry


def _recipe(params: t.Mapping[str, t.Any]) -> Recipe:
    if bool(params["base"]) == bool(params["base_release"]):
        raise ImageError("give either base, an image, or base_release, a release of Debian to make one of")
    return Recipe(
        project=Path(params["project"]).resolve(),
        lock_dir=Path(params["lock_dir"]).resolve(),
        flavour=params["flavour"],
        base=params["base"],
        base_release=params["base_release"],
        base_mirror=tuple(params["base_mirror"]),
        build_ca=params["build_ca"],
        build_args={str(key): str(value) for key, value in params["build_args"].items()},
    )


def _text(record: t.Mapping[str, t.Any]) -> str:
    return json.dumps(record, indent=2, sort_keys=True) + "\n"


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """Do what the options say.

    :returns: the module's result.
    :raises ImageError: the image cannot be built or pushed.
    """
    params = module.params
    recipe = _recipe(params)
    tag = recipe.tag()
    path = Path(params["record"])
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    result: dict[str, t.Any] = {
        "changed": False,
        "reference": "",
        "tag": tag,
        "built": False,
        "compressed_bytes": 0,
        "layers": [],
    }
    with tempfile.TemporaryDirectory(prefix="ai102-push-") as directory:
        registry: Registry | None = None
        digest: str | None = None
        try:
            registry = Registry(
                params["registry"], params["username"], params["password"], params["ca_path"], Path(directory)
            )
            digest = registry.digest(params["repository"], tag)
        except ImageError as error:
            if not module.check_mode:
                raise
            # A check of a new site comes before its authority and its registry.
            module.warn(f"predicted without the registry: {error}")
        result["built"] = digest is None or params["renew"]
        if result["built"]:
            result["changed"] = True
            if module.check_mode:
                result["diff"] = {"before": before, "after": f"{params['registry']}/{params['repository']}:{tag}\n"}
                return result
            if registry is None:
                raise ImageError("the registry was not asked")
            builder = Builder(params["builder"])
            name = f"{params['repository']}:{tag}"
            builder.build(recipe, name, params["renew"])
            digest = registry.push(builder.source(name), params["repository"], tag)
        if registry is None or digest is None:
            raise ImageError("the registry was not asked")
        found = registry.describe(params["repository"], digest)
    reference = str(Reference.parse(f"{params['registry']}/{params['repository']}@{digest}"))
    record = {
        "reference": reference,
        "tag": tag,
        "flavour": recipe.flavour,
        "inputs": recipe.inputs(),
        "base": recipe.bases()["BASE"],
        **{key: found[key] for key in ("compressed_bytes", "created", "layers")},
    }
    result.update(reference=reference, compressed_bytes=found["compressed_bytes"], layers=found["layers"])
    after = _text(record)
    if before != after:
        result["changed"] = True
        result["diff"] = {"before_header": str(path), "after_header": str(path), "before": before, "after": after}
        if not module.check_mode:
            path.parent.mkdir(parents=True, exist_ok=True)
            staged = path.with_name(f".{path.name}.new")
            staged.write_text(after, encoding="utf-8")
            staged.replace(path)
    return result


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "project": {"type": "path", "required": True},
            "lock_dir": {"type": "path", "required": True},
            "flavour": {"type": "str", "required": True},
            "base": {"type": "str", "default": ""},
            "base_release": {"type": "str", "default": ""},
            "base_mirror": {"type": "list", "elements": "str", "default": []},
            "build_ca": {"type": "str", "default": ""},
            "build_args": {"type": "dict", "default": {}},
            "builder": {"type": "str", "choices": ["docker", "podman"], "default": "docker"},
            "renew": {"type": "bool", "default": False},
            "registry": {"type": "str", "required": True},
            "repository": {"type": "str", "default": "ai102-server"},
            "username": {"type": "str", "default": ""},
            "password": {"type": "str", "default": "", "no_log": True},
            "ca_path": {"type": "str", "default": ""},
            "record": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except (ArtifactError, ImageError, OSError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
