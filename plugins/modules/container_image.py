#!/usr/bin/python
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pulls a container image by its digest."""

from __future__ import annotations

DOCUMENTATION = r"""
module: container_image
short_description: Pull a container image by its digest
version_added: "0.1.0"
author: AI-102 inference maintainers (@ai102)
description:
  - Has Podman pull one image, which its digest says without doubt. An image that is there costs two cheap calls and
    needs no registry.
  - Account and authorities are given to this pull alone; nothing of them stays on the host.
  - When an image was pulled, older ones of the same repository that no file refers to are removed, all but some of the
    newest.
attributes:
  check_mode:
    description: Predicts the pull without making it, on a host without Podman as well.
    support: full
  diff_mode:
    description: Names the image.
    support: full
  idempotent:
    description: A second run changes nothing.
    support: full
options:
  reference:
    description: The image as C(registry/name@sha256:...). A tag is refused, because it may mean another image tomorrow.
    type: str
    required: true
  username:
    description: Account of the registry. Empty for none.
    type: str
    default: ""
  password:
    description: Its password.
    type: str
    default: ""
  ca_path:
    description: PEM file on the host of the authorities that the registry's certificate must come from. The system's
      when empty.
    type: str
    default: ""
  labels:
    description: Labels that the image must carry with these values. An image with others is removed again.
    type: dict
    default: {}
  references:
    description: Patterns of files that mention the digests of images in use.
    type: list
    elements: str
    default: []
  keep:
    description: How many images of the repository stay that are not in use, besides the wanted one.
    type: int
    default: 2
requirements:
  - podman 4.3 or newer on the host
"""

EXAMPLES = r"""
- name: Pull the server's image
  ai102.inference.container_image:
    reference: "10.0.0.5:5000/ai102-server@sha256:{{ server_image_sha256 }}"
    username: ai102
    password: "{{ vault_registry_password }}"
    ca_path: /etc/ai102/pki/server_ca.pem
    labels: {ai102.flavour: cpu}
  become: true
"""

RETURN = r"""
image:
  description: The image; empty when it is not there yet in check mode.
  returned: success
  type: dict
  contains:
    id:
      description: Digest of its configuration.
      type: str
    size:
      description: Bytes of its layers, unpacked.
      type: int
    layers:
      description: How many layers it has.
      type: int
    user:
      description: User that it runs as by itself.
      type: str
    labels:
      description: Its labels.
      type: dict
pruned:
  description: Images that were removed, by id.
  returned: success
  type: list
  elements: str
"""

import glob
import json
import subprocess
import tempfile
import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ai102.inference.plugins.module_utils._container_image import (
    Image,
    ImageError,
    Reference,
    digests_in,
    explain,
    refuse_old,
    removable,
    write_access,
    wrong_labels,
)


def _podman(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, *arguments], capture_output=True, text=True, errors="replace", check=False, stdin=subprocess.DEVNULL
    )


def _inspect(program: str, names: t.Sequence[str]) -> list[Image]:
    done = _podman(program, "image", "inspect", *names)
    try:
        found = json.loads(done.stdout or "[]")
    except ValueError as error:
        raise ImageError(f"podman image inspect: {explain(done.stderr)}") from error
    return [Image.from_inspection(entry) for entry in found]


def _look(program: str, reference: Reference) -> Image | None:
    if _podman(program, "image", "exists", str(reference)).returncode != 0:
        return None
    found = _inspect(program, [str(reference)])
    return found[0] if found else None


def _pull(program: str, reference: Reference, params: t.Mapping[str, t.Any]) -> None:
    with tempfile.TemporaryDirectory(prefix="ai102-pull-") as directory:
        access = write_access(
            Path(directory), reference.registry, params["username"], params["password"], params["ca_path"]
        )
        done = _podman(program, "pull", "--quiet", *access, str(reference))
    if done.returncode != 0:
        raise ImageError(f"{reference} was not pulled: {explain(done.stderr)}")


def _prune(program: str, reference: Reference, params: t.Mapping[str, t.Any]) -> list[str]:
    listed = _podman(program, "images", "--quiet", "--no-trunc")
    ids = list(dict.fromkeys(line.strip() for line in listed.stdout.splitlines() if line.strip()))
    texts = [
        Path(path).read_text(encoding="utf-8", errors="replace")
        for pattern in params["references"]
        for path in glob.glob(pattern)
        if Path(path).is_file()
    ]
    gone: list[str] = []
    for image in removable(_inspect(program, ids) if ids else [], reference, digests_in(texts), params["keep"]):
        # An image that a container still runs stays; it goes another time.
        if _podman(program, "rmi", image.id).returncode == 0:
            gone.append(image.id)
    return gone


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """Do what the options say.

    :returns: the module's result.
    :raises ImageError: the image cannot be had, or is not the one that is expected.
    """
    params = module.params
    reference = Reference.parse(params["reference"])
    program = module.get_bin_path("podman")
    result: dict[str, t.Any] = {"changed": False, "image": {}, "pruned": []}
    present = _look(program, reference) if program else None
    if present is None:
        result["changed"] = True
        result["diff"] = {"before": "", "after": f"{reference}\n"}
        if module.check_mode:
            return result
        if program is None:
            raise ImageError("podman is not installed")
        refuse_old(_podman(program, "version", "--format", "{{.Client.Version}}").stdout)
        _pull(program, reference, params)
        present = _look(program, reference)
        if present is None:
            raise ImageError(f"{reference} was pulled, but podman does not have it under this digest")
    expected = {str(key): str(value) for key, value in params["labels"].items()}
    if wrong := wrong_labels(present, expected):
        if result["changed"] and program:
            _podman(program, "rmi", present.id)
        raise ImageError(f"{reference} is not the image that is expected: {'; '.join(wrong)}")
    result["image"] = present.to_dict()
    if result["changed"] and program:
        result["pruned"] = _prune(program, reference, params)
    return result


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "reference": {"type": "str", "required": True},
            "username": {"type": "str", "default": ""},
            "password": {"type": "str", "default": "", "no_log": True},
            "ca_path": {"type": "str", "default": ""},
            "labels": {"type": "dict", "default": {}},
            "references": {"type": "list", "elements": "str", "default": []},
            "keep": {"type": "int", "default": 2},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except (ImageError, OSError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
