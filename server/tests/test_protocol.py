# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Everything of the API but inference itself: administration, statistics, access, the OpenAPI document."""

from __future__ import annotations

import json
import re
from typing import Any, ClassVar

import jsonschema_rs
import pytest
import schemathesis
from flask import Blueprint
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from ai102_server.api import create_app
from ai102_server.api.page import load_files
from ai102_server.config import parse_config
from ai102_server.errors import RequestError
from ai102_server.service import Service
from toolkit import doubling_request

Client = Any


class FakeAccess:
    """Lets tokens in by their names: ``all``, or the name of the one operation, or of the one model, they allow."""

    enabled = False
    subject = tenant = role = ""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []
        self.open = 0

    def enter(self, environ: Any, operation: str, model: Any) -> FakeAccess:
        self.asked.append((operation, model and f"{model.name}/{model.version}/{sorted(model.tags)}"))
        token = environ.get("HTTP_AUTHORIZATION", "").removeprefix("Bearer ")
        if not token:
            raise RequestError(401, "a token is needed", headers={"WWW-Authenticate": "Bearer"})
        if not self.allows(environ, operation, model):
            raise RequestError(403, "not for you")
        self.open += 1
        return self

    def allows(self, environ: Any, operation: str, model: Any) -> bool:
        token = environ.get("HTTP_AUTHORIZATION", "").removeprefix("Bearer ")
        return token in {"all", operation} or (model is not None and token == model.name)

    def close(self) -> None:
        self.open -= 1

    @property
    def audit(self) -> Any:
        return None


class Full(Service):
    """A service with everything that the routes ask for."""

    calls: ClassVar[list[tuple[str, str]]] = []

    def statistics(self, name: str | None = None, version: str | None = None) -> dict[str, Any]:
        nothing = {"count": 0, "ns": 0}
        return {
            "model_stats": [
                {
                    "name": model.name,
                    "version": model.version,
                    "last_inference": 0,
                    "inference_count": 0,
                    "execution_count": 0,
                    "inference_stats": dict.fromkeys(("success", "fail", "queue"), nothing),
                    "batch_stats": [],
                }
                for model in self.registry
                if name in (None, model.name) and version in (None, model.version)
            ]
        }

    def load_model(self, name: str, *_more: Any) -> None:
        self._change("load", name)

    def unload_model(self, name: str, *_more: Any) -> None:
        self._change("unload", name)

    def rollback_model(self, name: str, *_more: Any) -> None:
        self._change("rollback", name)

    def _change(self, what: str, name: str) -> None:
        self.registry.get(name)
        self.calls.append((what, name))


@pytest.fixture(scope="module")
def shared(base_config: dict[str, Any]) -> Service:
    models = [entry for entry in base_config["models"] if entry["name"] != "slow"]
    return Service(parse_config({**base_config, "models": models}))


@pytest.fixture
def service(shared: Service) -> Full:
    Full.calls.clear()
    return Full(shared.config, registry=shared.registry)


@pytest.fixture
def client(service: Full) -> Client:
    return create_app(service).test_client()


# --------------------------------------------------------------------------------------------------------------------
# Repository, statistics, configuration
# --------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("action", ["load", "unload", "rollback"])
def test_repository(client: Client, service: Full, action: str) -> None:
    path = f"/v2/repository/models/doubling/{action}"
    response = client.post(path)
    assert response.status_code == 200
    assert [(item["name"], item["version"]) for item in response.json] == [("doubling", "1"), ("doubling", "10")]
    assert client.post(path, json={}).status_code == 200
    assert client.post(path, json={"parameters": {}}).status_code == 200
    assert service.calls == [(action, "doubling")] * 3
    for body, message in (
        (b"{", "is not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b'{"parameters": 5}', "'parameters' must be a JSON object"),
        (b'{"parameters": {"config": "{}"}}', "parameter 'config' is not supported"),
    ):
        response = client.post(path, data=body)
        assert response.status_code == 400
        assert message in response.json["error"]
    assert client.post(f"/v2/repository/models/none/{action}").status_code == 404
    assert client.get(path).status_code == 405
    assert len(service.calls) == 3


def test_unload_dependents(client: Client) -> None:
    # tritonclient sends it each time.
    body = {"parameters": {"unload_dependents": False}}
    assert client.post("/v2/repository/models/echo/unload", json=body).status_code == 200
    assert client.post("/v2/repository/models/echo/load", json=body).status_code == 400


def test_large_bodies_of_administration(client: Client) -> None:
    response = client.post("/v2/repository/index", data=b" " * (1 << 20) + b" ")
    assert response.status_code == 413
    assert "larger than" in response.json["error"]


def test_statistics(client: Client) -> None:
    def names(path: str) -> list[tuple[str, str]]:
        return [(item["name"], item["version"]) for item in client.get(path).json["model_stats"]]

    assert names("/v2/models/stats") == [("doubling", "1"), ("doubling", "10"), ("echo", "1")]
    assert names("/v2/models/doubling/stats") == [("doubling", "1"), ("doubling", "10")]
    assert names("/v2/models/doubling/versions/10/stats") == [("doubling", "10")]
    assert client.get("/v2/models/none/stats").status_code == 404
    assert client.get("/v2/models/doubling/versions/2/stats").status_code == 404


def test_model_config(client: Client) -> None:
    config = client.get("/v2/models/doubling/config").json
    assert config["name"] == "doubling"
    assert config["max_batch_size"] == 0
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 3]}]
    assert [item["name"] for item in config["output"]] == ["y", "total"]
    assert config["version_policy"] == {"specific": {"versions": [10]}}
    assert client.get("/v2/models/doubling/versions/1/config").json["parameters"]["version"] == {"string_value": "1"}
    types = {item["name"]: item["data_type"] for item in client.get("/v2/models/echo/config").json["input"]}
    assert types["in_BYTES"] == "TYPE_STRING"
    assert types["in_UINT8"] == "TYPE_UINT8"
    assert client.get("/v2/models/none/config").status_code == 404


# --------------------------------------------------------------------------------------------------------------------
# Access
# --------------------------------------------------------------------------------------------------------------------
OPERATIONS = [
    ("GET", "/v2", "metadata", None),
    ("GET", "/v2/health/live", "health", None),
    ("GET", "/v2/health/ready", "health", None),
    ("GET", "/metrics", "metrics", None),
    ("GET", "/", "page", None),
    ("GET", "/page/style.css", "page", None),
    ("GET", "/openapi.json", "page", None),
    ("GET", "/v2/models/doubling", "metadata", "doubling/10/[]"),
    ("GET", "/v2/models/doubling/versions/1", "metadata", "doubling/1/[]"),
    ("GET", "/v2/models/doubling/config", "metadata", "doubling/10/[]"),
    ("GET", "/v2/models/doubling/ready", "health", "doubling/10/[]"),
    ("GET", "/v2/models/stats", "statistics", None),
    ("GET", "/v2/models/doubling/versions/1/stats", "statistics", "doubling/1/[]"),
    ("POST", "/v2/repository/index", "repository.index", None),
    ("POST", "/v2/repository/models/doubling/load", "repository.load", "doubling/10/[]"),
    ("POST", "/v2/repository/models/doubling/rollback", "repository.load", "doubling/10/[]"),
    ("POST", "/v2/repository/models/doubling/unload", "repository.unload", "doubling/10/[]"),
]


@pytest.fixture
def access(service: Full, monkeypatch: pytest.MonkeyPatch) -> FakeAccess:
    access = FakeAccess()
    monkeypatch.setattr(service, "access", access, raising=False)
    monkeypatch.setattr("ai102_server.api.app.blueprint", lambda _access: _no_routes())
    return access


def _no_routes() -> Blueprint:
    return Blueprint("access", __name__)


@pytest.mark.parametrize(("method", "path", "operation", "model"), OPERATIONS)
def test_every_route_asks(
    service: Full, access: FakeAccess, method: str, path: str, operation: str, model: str | None
) -> None:
    client: Client = create_app(service).test_client()
    response = client.open(path, method=method)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert response.json == {"error": "a token is needed"}
    assert client.open(path, method=method, headers={"Authorization": "Bearer other"}).status_code == 403
    assert service.calls == []
    assert client.open(path, method=method, headers={"Authorization": "Bearer all"}).status_code == 200
    assert access.asked == [(operation, model)] * 3
    assert access.open == 0


def test_no_route_is_forgotten(service: Full, access: FakeAccess) -> None:
    app = create_app(service)
    covered = {app.url_map.bind("x").match(path, method)[0] for method, path, _operation, _model in OPERATIONS}
    # Inference asks by itself, on its short way as well.
    assert covered | {"infer"} == {rule.endpoint for rule in app.url_map.iter_rules()}
    assert access.asked == []


def test_unknown_models_are_not_told_apart(service: Full, access: FakeAccess) -> None:
    client: Client = create_app(service).test_client()
    for path in ("/v2/models/none", "/v2/models/doubling/versions/7", "/v2/models/none/stats"):
        assert client.get(path).status_code == 401
        assert client.get(path, headers={"Authorization": "Bearer all"}).status_code == 404
    assert ("metadata", "none//[]") in access.asked
    assert access.open == 0


def test_lists_hold_what_a_caller_may_see(service: Full, access: FakeAccess) -> None:
    client: Client = create_app(service).test_client()
    access.enter = lambda *_arguments: access  # type: ignore[method-assign]
    headers = {"Authorization": "Bearer doubling"}
    index = client.post("/v2/repository/index", headers=headers).json
    assert [(item["name"], item["version"]) for item in index] == [("doubling", "1"), ("doubling", "10")]
    stats = client.get("/v2/models/stats", headers=headers).json["model_stats"]
    assert {item["name"] for item in stats} == {"doubling"}


def test_tickets_are_closed_when_a_view_fails(
    service: Full, access: FakeAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Full, "readiness", lambda _self: 1 / 0)
    client: Client = create_app(service).test_client()
    assert client.get("/v2/health/ready", headers={"Authorization": "Bearer all"}).status_code == 500
    assert access.open == 0


# --------------------------------------------------------------------------------------------------------------------
# The page's files
# --------------------------------------------------------------------------------------------------------------------
def test_page_files(client: Client) -> None:
    response = client.get("/")
    assert response.content_type == "text/html; charset=utf-8"
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert client.get("/", headers={"If-None-Match": response.headers["ETag"]}).status_code == 304
    for name in ("..%2fapp.py", "__init__.py", "none.js", "../page/style.css"):
        assert client.get(f"/page/{name}").status_code == 404


def test_page_loads_nothing_from_outside() -> None:
    files = load_files()
    assert {"index.html", "page.js", "style.css"} <= set(files)
    for name, file in files.items():
        text = file.content.decode()
        # XML names its vocabulary by an address that nobody fetches.
        assert not re.search(r"(https?:)?//(?!www\.w3\.org/2000/svg)[a-z0-9.-]+\.[a-z]{2,}", text), name
    html = files["index.html"].content.decode()
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son[a-z]+=|\sstyle=|<style", html)
    for asked in re.findall(r'(?:src|href)="([^"#]+)"', html):
        assert asked.startswith("page/") or asked in {"openapi.json", "v2/health/ready"}
        assert not asked.startswith("page/") or asked.removeprefix("page/") in files


# --------------------------------------------------------------------------------------------------------------------
# OpenAPI
# --------------------------------------------------------------------------------------------------------------------
def _rules(app: Any) -> set[tuple[str, str]]:
    return {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in app.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }


def test_document_has_every_route(service: Full) -> None:
    app = create_app(service)
    client: Client = app.test_client()
    paths = client.get("/openapi.json").json["paths"]
    described = {(path, method) for path, item in paths.items() for method in item if method != "parameters"}
    assert described == _rules(app)
    identities = [item[method]["operationId"] for item in paths.values() for method in item if method != "parameters"]
    assert len(set(identities)) == len(identities)


def test_schemathesis(service: Full) -> None:
    """Random requests by the document: what comes back is what the document says."""
    schema = schemathesis.openapi.from_wsgi("/openapi.json", create_app(service))
    checks = [
        not_a_server_error,
        status_code_conformance,
        content_type_conformance,
        response_headers_conformance,
        response_schema_conformance,
        unsupported_method,
    ]
    statuses: dict[int, int] = {}

    def send(case: Any) -> None:
        names = case.path_parameters
        # Half of the requests find a model.
        if "model" in names and len(names["model"]) % 2:
            names["model"] = "doubling"
            if "version" in names:
                names["version"] = "10"
        status = case.call_and_validate(checks=checks).status_code
        statuses[status] = statuses.get(status, 0) + 1

    config = settings(
        max_examples=8,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    for result in schema.get_all_operations():
        operation: Any = result.ok()  # type: ignore[union-attr]  # a broken document raises here, as it should
        config(given(case=operation.as_strategy())(send))()
    assert statuses[200] > 50
    assert {200, 400, 404} <= set(statuses)


def test_document_is_right_about_inference(client: Client) -> None:
    document = client.get("/openapi.json").json
    resolver = {"$defs": document["components"]["schemas"]}

    def valid(name: str, content: object) -> bool:
        text = json.dumps({"$ref": f"#/$defs/{name}", **resolver}).replace("#/components/schemas/", "#/$defs/")
        return jsonschema_rs.Draft202012Validator(json.loads(text)).is_valid(content)

    request = doubling_request(id="a", outputs=[{"name": "y"}], parameters={"timeout": 1_000_000})
    assert valid("InferenceRequest", request)
    assert valid("InferenceResponse", client.post("/v2/models/doubling/infer", json=request).json)
    assert not valid("InferenceRequest", {})
    for path, name in (
        ("/v2/models/echo", "ModelMetadata"),
        ("/v2/models/echo/config", "ModelConfig"),
        ("/v2/health/ready", "Readiness"),
        ("/v2/models/stats", "Statistics"),
    ):
        assert valid(name, client.get(path).json)
