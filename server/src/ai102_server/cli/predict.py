# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""``predict``: ask a running server."""

from __future__ import annotations

import http.client
import json
import sys
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote

from ai102_server.cli.target import Target, connect
from ai102_server.errors import ServerError

__all__ = ["run_predict"]


def run_predict(target: Target, model: str, version: str | None, source: str) -> int:
    """Send the request in the file ``source`` ("-": standard input), and print the answer. Returns 0 when it is one."""
    try:
        body = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise ServerError(f"{source} cannot be read: {error.strerror}") from error
    path = f"{target.prefix}/v2/models/{quote(model, safe='')}"
    if version is not None:
        path += f"/versions/{quote(version, safe='')}"
    headers = target.headers()
    connection = connect(target)
    try:
        connection.request("POST", f"{path}/infer", body, headers)
        response = connection.getresponse()
        answer = response.read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        raise ServerError(f"{target.url} cannot be asked: {error or type(error).__name__}") from error
    finally:
        connection.close()
    if response.status != HTTPStatus.OK:
        raise ServerError(f"{target.url} answers {response.status}: {_message(answer)}")
    print(answer)
    return 0


def _message(answer: str) -> str:
    try:
        return str(json.loads(answer)["error"])
    except (ValueError, KeyError, TypeError):
        return answer[:300]
