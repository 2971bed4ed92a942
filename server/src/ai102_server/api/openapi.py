# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI 3.1 document of the API, kept by hand; a test holds it against the routes of the application."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, Final

from ai102_server import __version__
from ai102_server.codec import BINARY_HEADER, DATATYPES, TIMEOUT_HEADER

__all__ = ["document"]

Json = dict[str, Any]


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: str = "", *, extra: bool = True, **properties: Json) -> Json:
    schema: Json = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required.split()
    if not extra:
        schema["additionalProperties"] = False
    return schema


def _array(items: Json) -> Json:
    return {"type": "array", "items": items}


TEXT: Final[Json] = {"type": "string"}
FLAG: Final[Json] = {"type": "boolean"}
COUNT: Final[Json] = {"type": "integer", "minimum": 0}
TEXT_OR_NULL: Final[Json] = {"type": ["string", "null"]}
_DATATYPE: Final[Json] = {"type": "string", "enum": list(DATATYPES)}
_SHAPE: Final[Json] = _array({"type": "integer", "minimum": -1})
_DURATION: Final[Json] = _object("count ns", count=COUNT, ns=COUNT)

SCHEMAS: Final[Json] = {
    "Error": _object("error", error={"type": "string", "description": "What is wrong, where, and how to mend it."}),
    "Live": _object("live", live=FLAG),
    "Readiness": _object(
        "ready draining models",
        ready=FLAG,
        draining=FLAG,
        release=TEXT_OR_NULL,
        models=_array(
            _object(
                "name version ready", name=TEXT, version=TEXT, ready=FLAG, provider=TEXT_OR_NULL, reason=TEXT_OR_NULL
            )
        ),
    ),
    "ModelReady": _object("name ready", name=TEXT, version=TEXT, ready=FLAG, provider=TEXT_OR_NULL),
    "ServerMetadata": _object(
        "name version extensions", name=TEXT, version=TEXT, extensions=_array(TEXT), release=TEXT_OR_NULL
    ),
    "TensorMetadata": _object("name datatype shape", name=TEXT, datatype=_DATATYPE, shape=_SHAPE),
    "ModelMetadata": _object(
        "name platform inputs outputs",
        name=TEXT,
        versions=_array(TEXT),
        platform=TEXT,
        inputs=_array(_ref("TensorMetadata")),
        outputs=_array(_ref("TensorMetadata")),
        parameters={"type": "object"},
    ),
    "ModelConfig": _object(
        "name platform backend max_batch_size input output",
        name=TEXT,
        platform=TEXT,
        backend=TEXT,
        max_batch_size=COUNT,
        input=_array(_ref("ConfigTensor")),
        output=_array(_ref("ConfigTensor")),
    ),
    "ConfigTensor": _object("name data_type dims", name=TEXT, data_type=TEXT, dims=_SHAPE),
    "Parameters": {
        "type": "object",
        "additionalProperties": {"type": ["string", "number", "boolean"]},
        "description": "Known: binary_data_output and timeout (microseconds) of a request, binary_data_size of an "
        "input, binary_data of an output. Others are ignored, but for those of shared memory, classification and "
        "sequences, which are refused.",
    },
    "TensorData": {
        "type": "array",
        "description": "Elements in row-major order, flat or nested as the shape says.",
        "items": {
            "anyOf": [{"type": ["number", "string", "boolean", "null"]}, {"type": "array"}],
        },
    },
    "RequestInput": _object(
        "name shape datatype",
        name=TEXT,
        shape=_array({"type": "integer", "minimum": 0}),
        datatype=_DATATYPE,
        parameters=_ref("Parameters"),
        data=_ref("TensorData"),
    ),
    "RequestOutput": _object("name", name=TEXT, parameters=_ref("Parameters")),
    "InferenceRequest": _object(
        "inputs",
        id=TEXT,
        parameters=_ref("Parameters"),
        inputs=_array(_ref("RequestInput")),
        outputs=_array(_ref("RequestOutput")),
    ),
    "ResponseOutput": _object(
        "name shape datatype",
        name=TEXT,
        shape=_array(COUNT),
        datatype=_DATATYPE,
        parameters=_ref("Parameters"),
        data=_ref("TensorData"),
    ),
    "InferenceResponse": _object(
        "model_name outputs",
        model_name=TEXT,
        model_version=TEXT,
        id=TEXT,
        parameters=_ref("Parameters"),
        outputs=_array(_ref("ResponseOutput")),
    ),
    "IndexRequest": _object(ready=FLAG),
    "RepositoryRequest": _object(parameters={"type": "object", "maxProperties": 0}),
    "UnloadRequest": _object(parameters=_object(extra=False, unload_dependents=FLAG)),
    "Index": _array(
        _object(
            "name state",
            name=TEXT,
            version=TEXT,
            state={"type": "string", "enum": ["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]},
            reason=TEXT,
        )
    ),
    "Statistics": _object("model_stats", model_stats=_array(_ref("ModelStatistics"))),
    "ModelStatistics": _object(
        "name inference_count execution_count inference_stats batch_stats",
        name=TEXT,
        version=TEXT,
        last_inference=COUNT,
        inference_count=COUNT,
        execution_count=COUNT,
        inference_stats=_object("success fail queue", success=_DURATION, fail=_DURATION, queue=_DURATION),
        batch_stats=_array({"type": "object"}),
    ),
    "Token": _object(
        "access_token token_type expires_in",
        access_token=TEXT,
        token_type=TEXT,
        expires_in=COUNT,
        role=TEXT,
        tenant=TEXT,
    ),
    "Keys": _object("keys", keys=_array({"type": "object"})),
}


def _content(schema: str, *, binary: bool = False) -> Json:
    content: Json = {"application/json": {"schema": _ref(schema)}}
    if binary:
        content["application/octet-stream"] = {}
    return content


_ERRORS: Final = {
    400: "The request is wrong; the message says what.",
    401: "A token is needed, or this one is not valid.",
    403: "Policy does not permit it.",
    404: "No such model, version or resource.",
    409: "It cannot be done as things are: no older version, no place for pins, a store that cannot be read.",
    413: "The body is too large.",
    415: "Content type or encoding that is not understood.",
    422: "The model was refused: its package, provider or golden answers are not in order.",
    429: "More than this account may send, or too many requests wait; see Retry-After.",
    500: "The server's fault; its log has the details.",
    503: "Not ready, busy or shutting down; see Retry-After.",
    504: "The request's deadline has passed.",
}
_ALWAYS: Final = (401, 403, 429, 500)
_HEADERS: Final[Json] = {"X-Request-ID": {"description": "The request's id, as sent or made.", "schema": TEXT}}


def _responses(schema: str | None, *errors: int, **more: Json) -> Json:
    success: Json = {"description": "Success.", "headers": _HEADERS}
    if schema is not None:
        success["content"] = _content(schema)
    responses: Json = {"200": success, **more}
    for status in sorted({*errors, *_ALWAYS}):
        responses.setdefault(
            str(status), {"description": _ERRORS[status], "headers": _HEADERS, "content": _content("Error")}
        )
    return responses


_PARAMETERS: Final[dict[str, Json]] = {
    "model": {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}},
    "version": {"name": "version", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}},
    "name": {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}},
}


def _header(name: str, description: str) -> Json:
    return {"name": name, "in": "header", "required": False, "description": description, "schema": TEXT}


def _operation(
    identity: str, summary: str, tag: str, responses: Json, body: Json | None = None, **more: object
) -> Json:
    operation: Json = {"operationId": identity, "summary": summary, "tags": [tag], "responses": responses, **more}
    if body is not None:
        operation["requestBody"] = body
    return operation


def _optional_body(schema: str) -> Json:
    return {"required": False, "content": _content(schema)}


def _inference() -> Json:
    responses = _responses(None, 400, 404, 413, 415, 503, 504)
    responses["200"]["content"] = _content("InferenceResponse", binary=True)
    responses["200"]["headers"] = {
        **_HEADERS,
        BINARY_HEADER: {"description": "Length of the JSON part when tensors follow it.", "schema": COUNT},
    }
    return _operation(
        "infer",
        "Run a model; without a version, the latest one",
        "inference",
        responses,
        {"required": True, "content": _content("InferenceRequest", binary=True)},
        parameters=[
            {
                "name": BINARY_HEADER,
                "in": "header",
                "required": False,
                "description": "Length in bytes of the JSON part, when raw little-endian tensors follow it.",
                "schema": {"type": "integer", "minimum": 0},
            },
            {
                "name": TIMEOUT_HEADER,
                "in": "header",
                "required": False,
                "description": "Seconds after which the answer is of no use, such as 0.25; or 250m, as in gRPC.",
                "schema": {"type": "string", "pattern": r"^(?:[0-9]{1,8}(?:\.[0-9]{1,9})?|[0-9]{1,8}[HMSmun])$"},
            },
        ],
    )


def _form(schema: Json) -> Json:
    return {
        "required": True,
        "content": {"application/x-www-form-urlencoded": {"schema": schema}, "application/json": {"schema": schema}},
    }


def _paths() -> dict[str, Json]:
    """Every path the application may have, by its Flask rule."""
    ready = _responses("Readiness", **{"503": {"description": "Not ready.", "content": _content("Readiness")}})
    metadata = _operation(
        "model_metadata", "Inputs, outputs, versions of a model", "models", _responses("ModelMetadata", 404, 503)
    )
    config = _operation(
        "model_configuration", "A model in Triton's terms", "models", _responses("ModelConfig", 404, 503)
    )
    model_ready = _operation("model_ready", "Whether a model is ready", "health", _responses("ModelReady", 404, 503))
    stats = _operation("statistics", "Triton's statistics", "statistics", _responses("Statistics", 404))
    html = _responses(None, 404, **{"304": {"description": "Not changed."}})
    html["200"]["content"] = {"text/html": {}, "text/css": {}, "text/javascript": {}, "image/svg+xml": {}}
    text = _responses(None)
    text["200"]["content"] = {"text/plain": {"schema": TEXT}}
    free = _responses(None)
    free["200"]["content"] = {"application/json": {"schema": {"type": "object"}}}
    change = (400, 404, 409, 413, 422, 503)
    keys = {"get": _operation("jwks", "Public keys of the tokens (JWKS)", "access", _responses("Keys", 404))}
    return {
        "/": {"get": _operation("page", "The page for people", "page", html)},
        "/page/<path:name>": {"get": _operation("page_file", "A file of the page", "page", html)},
        "/openapi.json": {"get": _operation("openapi", "This document", "page", free)},
        "/metrics": {"get": _operation("metrics", "Metrics in Prometheus' format", "statistics", text)},
        "/v2": {"get": _operation("server_metadata", "This server", "models", _responses("ServerMetadata"))},
        "/v2/health/live": {"get": _operation("live", "Whether the process answers", "health", _responses("Live"))},
        "/v2/health/ready": {"get": _operation("ready", "Whether all models are ready", "health", ready)},
        "/v2/models/<model>": {"get": metadata},
        "/v2/models/<model>/versions/<version>": {"get": metadata},
        "/v2/models/<model>/config": {"get": config},
        "/v2/models/<model>/versions/<version>/config": {"get": config},
        "/v2/models/<model>/ready": {"get": model_ready},
        "/v2/models/<model>/versions/<version>/ready": {"get": model_ready},
        "/v2/models/<model>/infer": {"post": _inference()},
        "/v2/models/<model>/versions/<version>/infer": {"post": _inference()},
        "/v2/models/stats": {"get": stats},
        "/v2/models/<model>/stats": {"get": stats},
        "/v2/models/<model>/versions/<version>/stats": {"get": stats},
        "/v2/repository/index": {
            "post": _operation(
                "repository_index",
                "All models and their states",
                "repository",
                _responses("Index", 400, 413),
                _optional_body("IndexRequest"),
            )
        },
        "/v2/repository/models/<model>/load": {
            "post": _operation(
                "repository_load",
                "Load a model, or its newest version",
                "repository",
                _responses("Index", *change),
                _optional_body("RepositoryRequest"),
            )
        },
        "/v2/repository/models/<model>/unload": {
            "post": _operation(
                "repository_unload",
                "Stop serving a model",
                "repository",
                _responses("Index", *change),
                _optional_body("UnloadRequest"),
            )
        },
        "/v2/repository/models/<model>/rollback": {
            "post": _operation(
                "repository_rollback",
                "Serve the version before",
                "repository",
                _responses("Index", *change),
                _optional_body("RepositoryRequest"),
            )
        },
        "/auth/token": {
            "post": _operation(
                "token",
                "A token for name and password",
                "access",
                _responses("Token", 400, 404, 413, 415, 503),
                _form(_object("username password", username=TEXT, password=TEXT, grant_type=TEXT)),
                security=[],
            )
        },
        "/auth/revoke": {
            "post": _operation(
                "revoke",
                "End a token",
                "access",
                {**free, **_responses(None, 400, 404, 413, 415), "200": free["200"]},
                _form(_object(token=TEXT, jti=TEXT, subject=TEXT)),
            )
        },
        "/auth/jwks.json": keys,
        "/.well-known/jwks.json": keys,
    }


def document(rules: Collection[str]) -> Json:
    """The document for an application with these Flask rules (``/v2/models/<model>``)."""
    paths: dict[str, Json] = {}
    seen: set[str] = set()
    for rule, item in _paths().items():
        if rule not in rules:
            continue
        arguments = re.findall(r"<(?:\w+:)?(\w+)>", rule)
        entry: Json = {}
        for method, described in item.items():
            operation = dict(described)
            # The same operation under a second path needs a name of its own.
            while operation["operationId"] in seen:
                operation["operationId"] += "_of_version" if "version" in arguments else "_also"
            seen.add(operation["operationId"])
            entry[method] = operation
        if arguments:
            entry["parameters"] = [_PARAMETERS[name] for name in arguments]
        paths[re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule)] = entry
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ai102-server",
            "version": __version__,
            "summary": "Inference for ONNX models: the Open Inference Protocol V2 and extensions of Triton",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        # Both: where access control is off, or an operation is open to everybody, no token is needed.
        "security": [{"token": []}, {}],
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }
