# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""The Flask application: routes, and nothing that could be anywhere else."""

from __future__ import annotations

import logging
from typing import Any

import orjson
from flask import Flask, Response, g, request
from prometheus_client import CONTENT_TYPE_LATEST
from werkzeug.exceptions import HTTPException

from ai102_server.api.inference import JSON, InferenceEndpoint, Reply, error_reply
from ai102_server.errors import RequestError
from ai102_server.service import Service
from ai102_server.telemetry import REQUEST_ID_HEADER, request_id

__all__ = ["create_app"]

logger = logging.getLogger(__name__)


def _respond(reply: Reply) -> Response:
    return Response(reply.body, reply.status, reply.headers, content_type=reply.content_type)


def _json(document: object, status: int = 200) -> Response:
    return Response(orjson.dumps(document), status, content_type=JSON)


def create_app(service: Service) -> Flask:
    """Build the WSGI application of a service."""
    app = Flask("ai102_server", static_folder=None)
    app.url_map.strict_slashes = False
    # An index is the largest document read through Flask; inference bodies have a limit of their own.
    app.config["MAX_CONTENT_LENGTH"] = service.config.limits.max_body_bytes
    _add_hooks(app, service)
    _add_health(app, service)
    _add_models(app, service)
    return app


def _add_hooks(app: Flask, service: Service) -> None:
    @app.before_request
    def take_request_id() -> None:
        g.request_id = request_id(request.environ.get("HTTP_X_REQUEST_ID"))

    @app.after_request
    def add_headers(response: Response) -> Response:
        response.headers[REQUEST_ID_HEADER] = g.get("request_id") or request_id(None)
        if service.draining:
            # Callers that keep connections alive must find another server for their next request.
            response.headers["Connection"] = "close"
        return response

    @app.errorhandler(RequestError)
    def refused(error: RequestError) -> Response:
        return _respond(error_reply(error))

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        messages = {404: f"no such resource: {request.path[:100]}", 405: f"method {request.method} is not allowed here"}
        status = error.code or 500
        response = _json({"error": messages.get(status, error.name)}, status)
        allowed = getattr(error, "valid_methods", None)
        if allowed:
            response.headers["Allow"] = ", ".join(allowed)
        return response

    @app.errorhandler(Exception)
    def bug(error: Exception) -> Response:
        facts = {"request_id": g.get("request_id"), "path": request.path[:200]}
        logger.error("unexpected error", exc_info=error, extra=facts)
        return _json({"error": "internal error; the server's log has the details"}, 500)


def _add_health(app: Flask, service: Service) -> None:
    @app.get("/v2/health/live")
    def live() -> Response:
        return _json({"live": True})

    @app.get("/v2/health/ready")
    def ready() -> Response:
        document = service.readiness()
        return _json(document, 200 if document["ready"] else 503)

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(service.metrics.expose(), content_type=CONTENT_TYPE_LATEST)

    @app.get("/v2")
    def server_metadata() -> Response:
        return _json(service.server_metadata())


def _add_models(app: Flask, service: Service) -> None:
    endpoint = InferenceEndpoint(service)

    @app.post("/v2/models/<model>/infer")
    @app.post("/v2/models/<model>/versions/<version>/infer")
    def infer(model: str, version: str | None = None) -> Response:
        return _respond(endpoint(request.environ, model, version, g.request_id))

    @app.get("/v2/models/<model>")
    @app.get("/v2/models/<model>/versions/<version>")
    def model_metadata(model: str, version: str | None = None) -> Response:
        found = service.registry.get(model, version)
        if found.session is None:
            raise RequestError(503, f"model '{model}' version '{found.version}' is not ready: {found.reason}")
        return _json(service.model_metadata(found))

    @app.get("/v2/models/<model>/ready")
    @app.get("/v2/models/<model>/versions/<version>/ready")
    def model_ready(model: str, version: str | None = None) -> Response:
        found = service.registry.get_ready(model, version)
        return _json({"name": found.name, "version": found.version, "ready": True, "provider": found.provider})

    @app.post("/v2/repository/index")
    def repository_index() -> Response:
        body: Any = {}
        raw = request.get_data(cache=False)
        if raw:
            try:
                body = orjson.loads(raw)
            except orjson.JSONDecodeError as error:
                raise RequestError(400, f"the body is not valid JSON: {error}") from None
        ready_only = body.get("ready", False) if isinstance(body, dict) else None
        if not isinstance(ready_only, bool):
            raise RequestError(400, "the body must be a JSON object with 'ready' true or false, or empty")
        return _json(service.repository_index(ready_only))
