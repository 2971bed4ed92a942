#!/usr/bin/python
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the facts of an ONNX model file."""

from __future__ import annotations

DOCUMENTATION = r"""
module: onnx_model_info
short_description: Read the facts of an ONNX model file
version_added: "0.1.0"
description:
  - Tells what goes into a model and what comes out, which operators and operator sets it needs, and how large it is.
  - A file that is damaged, or is no ONNX model, is an error that says what is wrong.
author:
  - AI-102 inference maintainers (@ai102)
attributes:
  check_mode:
    description: Only reads.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
  idempotent:
    description: Only reads.
    support: full
options:
  path:
    description: The model file on the host that the task runs on.
    type: path
    required: true
  check:
    description: Whether ONNX's checker goes over the structure.
    type: bool
    default: true
requirements:
  - onnx
"""

EXAMPLES = r"""
- name: Look at a model
  ai102.inference.onnx_model_info:
    path: /home/operator/model.onnx
  delegate_to: localhost
  register: model
"""

RETURN = r"""
inputs:
  description: Each with C(name), C(datatype) as the V2 protocol names it, C(shape) with -1 where any size fits, and
    C(dynamic_axes), axis to the name that the model gives it.
  type: list
  elements: dict
  returned: success
outputs:
  description: The same for the outputs.
  type: list
  elements: dict
  returned: success
batchable:
  description: Whether the first axis of every input takes any size.
  type: bool
  returned: success
opset:
  description: Versions of the operator sets, by domain.
  type: dict
  returned: success
  sample: {"ai.onnx": 15}
ir_version:
  description: Version of the file format.
  type: int
  returned: success
producer:
  description: Program that wrote the file.
  type: str
  returned: success
metadata:
  description: Properties that the file carries.
  type: dict
  returned: success
operators:
  description: How often each operator occurs, those of other domains with the domain in front.
  type: dict
  returned: success
parameters:
  description: Number of weights.
  type: int
  returned: success
external_files:
  description: Files beside the model that hold weights.
  type: list
  elements: str
  returned: success
size:
  description: Of the file, in bytes.
  type: int
  returned: success
external_size:
  description: Of the files beside it, in bytes.
  type: int
  returned: success
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.ai102.inference.plugins.module_utils._onnx import (
    ONNX_IMPORT_ERROR,
    ModelFileError,
    model_facts,
)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "check": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    if ONNX_IMPORT_ERROR is not None:
        module.fail_json(msg=missing_required_lib("onnx"), exception=ONNX_IMPORT_ERROR)
    try:
        module.exit_json(changed=False, **model_facts(Path(module.params["path"]), module.params["check"]))
    except ModelFileError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
