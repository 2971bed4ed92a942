#!/usr/bin/python
# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module ``inference_request``."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: inference_request
short_description: Ask an inference server and compare with golden answers
version_added: "0.1.0"
description:
  - Sends requests of the Open Inference Protocol (V2) to one server or gateway, and compares each answer with the
    recorded one. Floating point numbers may differ by the tolerance, everything else must be equal.
  - Can also ask the server on which execution provider the model really runs, which tells a silent fall-back of
    ONNX Runtime to the CPU.
  - Certificates are always verified.
options:
  url:
    description: Base URL of the server, without C(/v2).
    type: str
    required: true
  model:
    description: Name of the model.
    type: str
    required: true
  version:
    description: Version of the model. Without it the server's default version is asked.
    type: str
  host:
    description: Name of the host in the checks. The host of O(url) when not given.
    type: str
  golden:
    description:
      - Golden requests and answers.
      - With none, and without O(expected_provider), only the model's readiness is asked.
    type: list
    elements: dict
    suboptions:
      request:
        description: Body of the V2 inference request.
        type: dict
        required: true
      response:
        description: Body of the V2 inference response that is expected. Outputs are matched by name.
        type: dict
        required: true
      comment:
        description: What the request is about, for people.
        type: str
      tolerance:
        description: Accepted difference of floating point numbers, relative to the larger of 1 and the expected value.
        type: float
        default: 0.001
  golden_path:
    description: A C(golden.json) of a model package on the host that asks, instead of O(golden).
    type: path
  expected_provider:
    description: Execution provider on which C(/v2/health/ready) must report the model, for example
      V(CUDAExecutionProvider).
    type: str
  ca_path:
    description: PEM file of the certificate authorities to believe. The system's when not given.
    type: path
  client_cert:
    description: PEM file with the client certificate and its chain.
    type: path
  client_key:
    description: PEM file with the client certificate's key.
    type: path
  server_hostname:
    description: Name the server's certificate must carry, when O(url) has an address.
    type: str
  headers:
    description: Further request headers.
    type: dict
    default: {}
  token:
    description: Sent as a bearer token (RFC 6750), see P(ai102.inference.access_token#lookup).
    type: str
    default: ""
  timeout:
    description: Seconds for connecting and for each answer.
    type: float
    default: 10.0
  retries:
    description: How often a request is sent again after no answer, or after HTTP 429, 502, 503 or 504. A wrong
      answer is never asked again.
    type: int
    default: 0
  delay:
    description: Seconds between two attempts.
    type: float
    default: 1.0
  fail:
    description: Whether the task fails when a check fails. Set to V(false) to hand the checks to a verdict.
    type: bool
    default: true
attributes:
  check_mode:
    description: Asking changes nothing, so check mode asks too. There a server that cannot be reached (it may not be
      installed yet) gives checks of status V(skip) and no failure, after one attempt.
    support: full
  diff_mode:
    description: Nothing is changed.
    support: none
  idempotent:
    description: Asking changes nothing.
    support: full
author: AI-102 inference maintainers (@ai102)
"""

EXAMPLES = r"""
- name: Prove that an inference host answers correctly on its GPU, through mutual TLS from a gateway
  ai102.inference.inference_request:
    url: https://192.0.2.11:8443
    host: gpu1
    model: text-line-orientation
    version: "1"
    golden: "{{ golden.requests }}"
    expected_provider: CUDAExecutionProvider
    ca_path: /etc/ai102/pki/server_ca.pem
    client_cert: /etc/ai102/pki/client/fullchain.pem
    client_key: /etc/ai102/pki/client/key.pem
    retries: 10

- name: Ask the endpoint, and leave the judgement to the verdict
  ai102.inference.inference_request:
    url: https://inference.example.internal
    model: text-line-orientation
    golden: "{{ golden.requests }}"
    ca_path: /etc/ai102/pki/root_ca.pem
    fail: false
  register: answer
"""

RETURN = r"""
checks:
  description: One entry for each question, for the verdict.
  returned: always
  type: list
  elements: dict
  contains:
    check: {description: What was asked., type: str}
    host: {description: Who was asked., type: str}
    status: {description: V(pass) or V(fail); V(skip) in check mode when nobody answered., type: str}
    expected: {description: What should have come back., type: str}
    actual: {description: What came back., type: str}
    hint: {description: Where to look., type: str}
ok:
  description: Whether no check failed.
  returned: always
  type: bool
responses:
  description: The bodies of the answers to the golden requests, in their order.
  returned: always
  type: list
  elements: raw
duration_ms:
  description: Milliseconds all questions took together.
  returned: always
  type: float
"""

import json
import ssl
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ai102.inference.plugins.module_utils._v2 import (
    Examination,
    Golden,
    Retry,
    Tls,
    V2Client,
    examine,
    make_check,
    parse_golden,
)


def _golden(params: dict[str, Any]) -> list[Golden]:
    if not params["golden_path"]:
        return parse_golden(params["golden"] or [])
    with open(params["golden_path"], encoding="utf-8") as stream:
        return parse_golden(json.load(stream))


def _unprepared(host: str, reason: str) -> Examination:
    return Examination([make_check("preparation of the question", host, "fail", "files that can be read", reason)])


def _run(module: AnsibleModule) -> Examination:
    params = module.params
    headers = {name: str(value) for name, value in params["headers"].items()}
    if params["token"]:
        headers["Authorization"] = f"Bearer {params['token']}"
    tls = Tls(params["ca_path"], params["client_cert"], params["client_key"], params["server_hostname"])
    host = params["host"] or params["url"]
    try:
        golden = _golden(params)
        client = V2Client(params["url"], tls, headers, params["timeout"])
    except ssl.SSLError as e:
        return _unprepared(host, f"certificate, key or CA file is not usable: {e}")
    except OSError as e:
        return _unprepared(host, f"{e.strerror}: {e.filename or 'certificate, key or CA file'}")
    except ValueError as e:  # a malformed URL or golden answer, or a golden.json that is no JSON
        module.fail_json(msg=str(e))
    try:
        return examine(
            client,
            host=params["host"] or client.host,
            model=params["model"],
            version=params["version"],
            golden=golden,
            expected_provider=params["expected_provider"],
            retry=Retry(0 if module.check_mode else params["retries"], params["delay"]),
        )
    finally:
        client.close()


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "model": {"type": "str", "required": True},
            "version": {"type": "str"},
            "host": {"type": "str"},
            "golden": {
                "type": "list",
                "elements": "dict",
                "options": {
                    "request": {"type": "dict", "required": True},
                    "response": {"type": "dict", "required": True},
                    "comment": {"type": "str"},
                    "tolerance": {"type": "float", "default": 0.001},
                },
            },
            "golden_path": {"type": "path"},
            "expected_provider": {"type": "str"},
            "ca_path": {"type": "path"},
            "client_cert": {"type": "path"},
            "client_key": {"type": "path", "no_log": False},
            "server_hostname": {"type": "str"},
            "headers": {"type": "dict", "default": {}},
            "token": {"type": "str", "default": "", "no_log": True},
            "timeout": {"type": "float", "default": 10.0},
            "retries": {"type": "int", "default": 0},
            "delay": {"type": "float", "default": 1.0},
            "fail": {"type": "bool", "default": True},
        },
        mutually_exclusive=[("golden", "golden_path")],
        required_by={"client_key": ["client_cert"]},
        supports_check_mode=True,
    )
    examination = _run(module)
    if module.check_mode and not examination.answered:
        for check in examination.checks:
            check["status"] = "skip"
    result = {
        "changed": False,
        "checks": examination.checks,
        "ok": examination.ok,
        "responses": examination.responses,
        "duration_ms": examination.duration_ms,
    }
    if module.params["fail"] and not examination.ok:
        module.fail_json(msg=examination.problems(), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
