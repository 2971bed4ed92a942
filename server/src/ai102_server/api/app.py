# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""The Flask application: routes, and nothing that could be anywhere else.

The Open Inference Protocol V2 and, as clients of Triton know them, its extensions for the model repository, for
statistics and for model configurations; besides, metrics, the OpenAPI document and the page. Each route belongs to one
of the operations that access control knows (``access/``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import orjson
from flask import Flask, Response, g, request
from prometheus_client import CONTENT_TYPE_LATEST
from werkzeug.exceptions import HTTPException

from ai102_server.access import REQUEST_ID_KEY, blueprint
from ai102_server.api.inference import JSON, InferenceEndpoint, Reply, error_reply
from ai102_server.api.model_config import model_config
from ai102_server.api.openapi import document
from ai102_server.api.page import SECURITY_HEADERS, load_files
from ai102_server.engine import LoadedModel
from ai102_server.errors import RequestError
from ai102_server.service import Service
from ai102_server.telemetry import REQUEST_ID_HEADER, request_id

__all__ = ["create_app"]

logger = logging.getLogger(__name__)

MAX_BODY: Final = 1 << 20
"""Bytes of the largest body read through Flask; inference bodies have a limit of their own."""
View = Callable[..., Response]


class _About(NamedTuple):
    """A model that a request names and that is not here: access control speaks first, and tells nobody so."""

    name: str
    version: str
    tags: frozenset[str] = frozenset()


def _respond(reply: Reply) -> Response:
    return Response(reply.body, reply.status, reply.headers, content_type=reply.content_type)


def _json(content: object, status: int = 200) -> Response:
    return Response(orjson.dumps(content), status, content_type=JSON)


def create_app(service: Service) -> Flask:
    """Build the WSGI application of a service."""
    app = Flask("ai102_server", static_folder=None)
    app.url_map.strict_slashes = False
    # A redirect (of //, say) is no answer that clients of an API look for.
    app.url_map.merge_slashes = False
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    routes = _Routes(app, service)
    routes.hooks()
    routes.health()
    routes.models()
    routes.repository()
    routes.statistics()
    routes.page()
    return app


class _Routes:
    """The routes of one application; ``operations`` maps Flask's endpoints to access control's operations."""

    def __init__(self, app: Flask, service: Service) -> None:
        self.app = app
        self.service = service
        self.access = service.access
        self.operations: dict[str, str] = {}

    def add(self, method: str, operation: str | None, *rules: str) -> Callable[[View], View]:
        """Register a view; ``operation`` None: it asks access control itself."""

        def register(view: View) -> View:
            endpoint = view.__name__
            if operation is not None:
                self.operations[endpoint] = operation
            for rule in rules:
                self.app.add_url_rule(rule, endpoint, view, methods=[method], provide_automatic_options=False)
            return view

        return register

    # What every request passes -----------------------------------------------------------------------------------
    def hooks(self) -> None:
        """Request ids, access control, errors."""
        app, service, access = self.app, self.service, self.access

        @app.before_request
        def take_request_id() -> None:
            g.request_id = request.environ[REQUEST_ID_KEY] = request_id(request.environ.get("HTTP_X_REQUEST_ID"))

        @app.before_request
        def ask_access_control() -> None:
            operation = self.operations.get(request.endpoint or "")
            if operation is not None:
                g.ticket = access.enter(request.environ, operation, self.about(request.view_args or {}))

        @app.teardown_request
        def give_ticket_back(_error: BaseException | None) -> None:
            ticket = g.pop("ticket", None)
            if ticket is not None:
                ticket.close()

        @app.after_request
        def add_headers(response: Response) -> Response:
            response.headers[REQUEST_ID_HEADER] = g.get("request_id") or request_id(None)
            response.headers["X-Content-Type-Options"] = "nosniff"
            if service.draining:
                # Callers that keep connections alive must find another server for their next request.
                response.headers["Connection"] = "close"
            return response

        @app.errorhandler(RequestError)
        def refused(error: RequestError) -> Response:
            return _respond(error_reply(error))

        @app.errorhandler(HTTPException)
        def http_error(error: HTTPException) -> Response:
            messages = {
                404: f"no such resource: {request.path[:100]}",
                405: f"method {request.method[:20]} is not allowed here",
                413: f"the body is larger than the {MAX_BODY} bytes allowed here",
            }
            status = error.code or 500
            response = _json({"error": messages.get(status, error.name)}, status)
            allowed = getattr(error, "valid_methods", None)
            if allowed:
                response.headers["Allow"] = ", ".join(sorted(allowed))
            return response

        @app.errorhandler(Exception)
        def bug(error: Exception) -> Response:
            facts = {"request_id": g.get("request_id"), "path": request.path[:200]}
            logger.error("unexpected error", exc_info=error, extra=facts)
            return _json({"error": "internal error; the server's log has the details"}, 500)

    def about(self, arguments: dict[str, Any]) -> LoadedModel | _About | None:
        """The model that a request is about, for access control."""
        name, version = arguments.get("model"), arguments.get("version")
        if name is None:
            return None
        try:
            return self.service.registry.get(name, version)
        except RequestError:
            # What is not served may still be in the store: who may load it depends on its tags.
            return _About(name, version or "", self.service.tags_in_store(name))

    def visible(self, operation: str, name: str, version: str) -> bool:
        """Whether a caller may know of a model in a list."""
        return self.access.allows(request.environ, operation, self.about({"model": name, "version": version}))

    # Routes ------------------------------------------------------------------------------------------------------
    def health(self) -> None:
        """The process, its models, its metrics."""
        service = self.service

        @self.add("GET", "health", "/v2/health/live")
        def live() -> Response:
            return _json({"live": True})

        @self.add("GET", "health", "/v2/health/ready")
        def ready() -> Response:
            content = service.readiness()
            return _json(content, 200 if content["ready"] else 503)

        @self.add("GET", "health", "/v2/models/<model>/ready", "/v2/models/<model>/versions/<version>/ready")
        def model_ready(model: str, version: str | None = None) -> Response:
            found = service.registry.get_ready(model, version)
            return _json({"name": found.name, "version": found.version, "ready": True, "provider": found.provider})

        @self.add("GET", "metrics", "/metrics")
        def metrics() -> Response:
            return Response(service.telemetry.expose(), content_type=CONTENT_TYPE_LATEST)

        @self.add("GET", "metadata", "/v2")
        def server_metadata() -> Response:
            return _json(service.server_metadata())

    def models(self) -> None:
        """Inference, and what clients must know for it."""
        service = self.service
        endpoint = InferenceEndpoint(service)

        @self.add("POST", None, "/v2/models/<model>/infer", "/v2/models/<model>/versions/<version>/infer")
        def infer(model: str, version: str | None = None) -> Response:
            return _respond(endpoint(request.environ, model, version, g.request_id))

        def with_session(model: str, version: str | None) -> LoadedModel:
            found = service.registry.get(model, version)
            if found.session is None:
                raise RequestError(503, f"model '{model}' version '{found.version}' is not ready: {found.reason}")
            return found

        @self.add("GET", "metadata", "/v2/models/<model>", "/v2/models/<model>/versions/<version>")
        def model_metadata(model: str, version: str | None = None) -> Response:
            return _json(service.model_metadata(with_session(model, version)))

        @self.add("GET", "metadata", "/v2/models/<model>/config", "/v2/models/<model>/versions/<version>/config")
        def model_configuration(model: str, version: str | None = None) -> Response:
            return _json(model_config(with_session(model, version)))

    def repository(self) -> None:
        """Models that come and go: Triton's extension ``model_repository``."""
        service = self.service

        @self.add("POST", "repository.index", "/v2/repository/index")
        def repository_index() -> Response:
            ready_only = _body().get("ready", False)
            if not isinstance(ready_only, bool):
                raise RequestError(400, "'ready' must be true or false")
            index = service.repository_index(ready_only)
            return _json([item for item in index if self.visible("metadata", item["name"], item["version"])])

        def state_of(name: str) -> Response:
            return _json([item for item in service.repository_index(False) if item["name"] == name])

        @self.add("POST", "repository.load", "/v2/repository/models/<model>/load")
        def repository_load(model: str) -> Response:
            _refuse_parameters(_body())
            service.load_model(model)
            return state_of(model)

        @self.add("POST", "repository.unload", "/v2/repository/models/<model>/unload")
        def repository_unload(model: str) -> Response:
            # Nothing depends on a model here: unload_dependents may be anything.
            _refuse_parameters(_body(), "unload_dependents")
            service.unload_model(model)
            return state_of(model)

        @self.add("POST", "repository.load", "/v2/repository/models/<model>/rollback")
        def repository_rollback(model: str) -> Response:
            _refuse_parameters(_body())
            service.rollback_model(model)
            return state_of(model)

    def statistics(self) -> None:
        """Triton's extension ``statistics``."""
        source = self.service.statistics
        rules = ("/v2/models/stats", "/v2/models/<model>/stats", "/v2/models/<model>/versions/<version>/stats")

        @self.add("GET", "statistics", *rules)
        def statistics(model: str | None = None, version: str | None = None) -> Response:
            if model is not None:
                self.service.registry.get(model, version)
                return _json(source(model, version))
            content = source(None, None)
            seen = [
                item
                for item in content["model_stats"]
                if self.visible("statistics", item["name"], item.get("version", ""))
            ]
            return _json({**content, "model_stats": seen})

    def page(self) -> None:
        """The page for people, the document for programs, and where tokens come from."""
        files = load_files()

        @self.add("GET", "page", "/", "/page/<path:name>")
        def page(name: str = "index.html") -> Response:
            found = files.get(name)
            if found is None:
                raise RequestError(404, f"no such resource: {request.path[:100]}")
            response = Response(found.content, content_type=found.content_type, headers=SECURITY_HEADERS)
            response.set_etag(found.digest)
            response.make_conditional(request.environ)
            return response

        self.app.register_blueprint(blueprint(self.access))
        paths = {rule.rule for rule in self.app.url_map.iter_rules()} | {"/openapi.json"}
        content = orjson.dumps(document(paths))

        @self.add("GET", "page", "/openapi.json")
        def openapi() -> Response:
            return Response(content, content_type=JSON)


def _body() -> dict[str, Any]:
    """The request's JSON object; an empty body is an empty one. Raises ``RequestError`` (400)."""
    raw = request.get_data(cache=False)
    try:
        content = orjson.loads(raw) if raw else {}
    except orjson.JSONDecodeError as error:
        raise RequestError(400, f"the body is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise RequestError(400, "the body must be a JSON object, or empty")
    return content


def _refuse_parameters(body: dict[str, Any], *known: str) -> None:
    """Raise ``RequestError`` (400) for parameters that would be ignored silently, such as Triton's ``config``."""
    parameters = body.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise RequestError(400, "'parameters' must be a JSON object")
    for name in parameters:
        if name not in known:
            raise RequestError(400, f"parameter '{name[:60]}' is not supported: models are served as they are signed")
