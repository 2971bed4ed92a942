# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""The application that runs: inference on a short way of its own, everything else through Flask.

Flask's dispatch costs about fifty times what WSGI itself does, and it does nothing for inference that is not done by
``InferenceEndpoint``: request ids, access control, limits, metrics and logs are called there. Flask has the same route,
for whoever mounts the Flask application alone; all ways are tested with the same tests.

An application of WSGI answers on the thread on which it is called, so each request that waits for a model would hold
one. What Granian calls, beneath its wrapper for WSGI, is a function of the request and of an object to answer with,
from any thread and at any time. ``Application.granian`` is such a function.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Protocol

from granian.wsgi import _callback_wrapper as wsgi_callback

from ai102_server.api.app import create_app
from ai102_server.api.inference import InferenceEndpoint, Reply
from ai102_server.service import Service
from ai102_server.telemetry import REQUEST_ID_HEADER, request_id
from ai102_server.threads import blocking, takers

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse

__all__ = ["Application"]

_INFER: Final = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")
_KNOWN_PATHS: Final = 1024
_STATUS: Final = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}


class GranianProtocol(Protocol):
    """What Granian gives to answer a request with, once."""

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        """Answer."""

    def response_iter(self, status: int, headers: list[tuple[str, str]], body: object) -> None:
        """Answer with a body in pieces."""


class Application:
    """The API of a service: an application of WSGI, and what Granian calls."""

    def __init__(self, service: Service) -> None:
        self._service: Final = service
        self._flask: Final = create_app(service)
        self._endpoint: Final = InferenceEndpoint(service)
        self._through_flask: Final[Callable[[Any, dict[str, Any]], int]] = wsgi_callback(self._flask, {})
        # Paths that were asked for before: found without a search. Bounded, because clients choose them.
        self._known: dict[str, tuple[str, str | None]] = {}

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request, as WSGI has it."""
        route = self._route(environ)
        if route is None:
            return self._flask(environ, start_response)
        identity = request_id(environ.get("HTTP_X_REQUEST_ID"))
        reply = self._endpoint(environ, *route, identity)
        start_response(_STATUS[reply.status], self._headers(reply, identity))
        return [reply.body]

    def granian(self, protocol: GranianProtocol, environ: dict[str, Any]) -> None:
        """Answer a request by ``protocol``, now or later."""
        takers.arrive()
        route = self._route(environ)
        if route is None:
            with blocking():
                self._through_flask(protocol, environ)
        else:
            identity = request_id(environ.get("HTTP_X_REQUEST_ID"))

            def send(reply: Reply) -> None:
                protocol.response_bytes(reply.status, self._headers(reply, identity), reply.body)

            # Not a word of WSGI, but Granian's body does end where the request does.
            environ["wsgi.input_terminated"] = True
            self._endpoint.submit(environ, *route, identity, send)
        takers.park()

    def _route(self, environ: dict[str, Any]) -> tuple[str, str | None] | None:
        """Model and version of a request for inference; None: it is something else."""
        if environ["REQUEST_METHOD"] != "POST":
            return None
        path = environ["PATH_INFO"]
        route = self._known.get(path)
        if route is None:
            match = _INFER.fullmatch(path)
            if match is None:
                return None
            route = match.group(1), match.group(2)
            if len(self._known) < _KNOWN_PATHS:
                self._known[path] = route
        return route

    def _headers(self, reply: Reply, identity: str) -> list[tuple[str, str]]:
        headers = [
            ("Content-Type", reply.content_type),
            ("Content-Length", str(len(reply.body))),
            (REQUEST_ID_HEADER, identity),
        ]
        if reply.headers:
            headers += reply.headers.items()
        if self._service.draining:
            # Callers that keep connections alive must find another server for their next request.
            headers.append(("Connection", "close"))
        return headers
