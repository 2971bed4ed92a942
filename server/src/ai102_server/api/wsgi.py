# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""The WSGI application: inference on a short way of its own, everything else through Flask.

Flask's dispatch costs about fifty times what WSGI itself does, and it does nothing for inference that is not done by
``InferenceEndpoint``: request ids, access control, limits, metrics and logs are called there. Flask has the same route,
for whoever mounts the Flask application alone; both ways are tested with the same tests.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from ai102_server.api.app import create_app
from ai102_server.api.inference import InferenceEndpoint
from ai102_server.service import Service
from ai102_server.telemetry import REQUEST_ID_HEADER, request_id

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication

__all__ = ["create_wsgi"]

_INFER: Final = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")
_KNOWN_PATHS: Final = 1024
_STATUS: Final = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}


def create_wsgi(service: Service) -> WSGIApplication:
    """Build the application that the server runs."""
    flask = create_app(service)
    endpoint = InferenceEndpoint(service)
    # Paths that were asked for before: found without a search. Bounded, because clients choose them.
    known: dict[str, tuple[str, str | None]] = {}

    def application(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        route = known.get(path)
        if route is None:
            match = _INFER.fullmatch(path)
            if match is None:
                return flask(environ, start_response)
            route = match.group(1), match.group(2)
            if len(known) < _KNOWN_PATHS:
                known[path] = route
        if environ["REQUEST_METHOD"] != "POST":
            return flask(environ, start_response)
        identity = request_id(environ.get("HTTP_X_REQUEST_ID"))
        reply = endpoint(environ, route[0], route[1], identity)
        headers = [
            ("Content-Type", reply.content_type),
            ("Content-Length", str(len(reply.body))),
            (REQUEST_ID_HEADER, identity),
        ]
        if reply.headers:
            headers += reply.headers.items()
        if service.draining:
            # Callers that keep connections alive must find another server for their next request.
            headers.append(("Connection", "close"))
        start_response(_STATUS[reply.status], headers)
        return [reply.body]

    return application
