# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""HTTP for tokens: ``/auth/token`` (RFC 6749, password grant), ``/auth/revoke`` (RFC 7009), ``/auth/jwks.json``."""

from __future__ import annotations

from typing import Any, Final

import orjson
from flask import Blueprint, Response, request
from werkzeug.exceptions import HTTPException

from ai102_server.access.gate import REALM, Access
from ai102_server.access.identity import Identity
from ai102_server.access.login import Login, WrongPasswordError
from ai102_server.access.tokens import LONGEST_TOKEN, RefusedError
from ai102_server.errors import RequestError

__all__ = ["blueprint"]

_JSON: Final = "application/json"
_FORM: Final = "application/x-www-form-urlencoded"
_LARGEST_BODY: Final = 16 * 1024
_LONGEST_FIELD: Final = 512
_JWKS_SECONDS: Final = 300


def _answer(document: object, status: int = 200, **headers: str) -> Response:
    response = Response(orjson.dumps(document), status, content_type=_JSON)
    response.headers["Cache-Control"] = "no-store"
    response.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return response


def _refused(error: str, description: str, status: int = 400) -> Response:
    """An error as OAuth 2 wants it (RFC 6749, section 5.2)."""
    return _answer({"error": error, "error_description": description}, status)


def _fields() -> dict[str, str]:
    """The fields of a form or of a JSON object. Raises ``RequestError`` (400, 415)."""
    request.max_content_length = _LARGEST_BODY
    if not request.content_length and not request.content_type:
        return {}
    if request.mimetype == _FORM:
        return {name: values[0] for name, values in request.form.lists() if len(values) == 1}
    if request.mimetype != _JSON:
        raise RequestError(415, f"Content-Type must be {_FORM} or {_JSON}")
    raw = request.get_data(cache=False)
    try:
        document: Any = orjson.loads(raw) if raw else {}
    except orjson.JSONDecodeError:
        # What it says quotes the body, which holds a password.
        raise RequestError(400, "the body is not valid JSON") from None
    if not isinstance(document, dict) or not all(isinstance(value, str) for value in document.values()):
        raise RequestError(400, "the body must be a JSON object whose values are text")
    return document


def blueprint(access: Access) -> Blueprint:
    """The routes of tokens."""
    routes = Blueprint("access", __name__)
    login = Login(access)

    @routes.errorhandler(RequestError)
    def request_error(error: RequestError) -> Response:
        response = _answer({"error": error.message}, error.status)
        response.headers.update(error.headers)
        return response

    @routes.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        return _answer({"error": error.name}, error.code or 500)

    @routes.before_request
    def switched_on() -> None:
        if not access.enabled:
            raise RequestError(404, "access control is switched off: no token is needed")

    @routes.post("/auth/token")
    def token() -> Response:
        fields = _fields()
        if fields.get("grant_type", "password") != "password":
            return _refused("unsupported_grant_type", "only grant_type=password is supported")
        name, password = fields.get("username"), fields.get("password")
        if not name or not password:
            return _refused("invalid_request", "username and password are needed, each once")
        try:
            issued = login(name, password, request.environ)
        except WrongPasswordError:
            return _refused("invalid_grant", "name or password is wrong")
        return _answer(
            {
                "access_token": issued.token,
                "token_type": "Bearer",
                "expires_in": issued.seconds,
                "role": issued.identity.role,
                "tenant": issued.identity.tenant,
            },
            Pragma="no-cache",
        )

    @routes.post("/auth/revoke")
    def revoke() -> Response:
        fields = _fields()
        if "jti" in fields or "subject" in fields:
            return _revoke_others(access, fields)
        if "token" in fields:
            # Who has a token may end it. What is no valid token is at its end already (RFC 7009, section 2.2).
            return _revoke_own(access, fields["token"])
        try:
            identity = access.identify(request.environ)
        except RefusedError:
            identity = None
        if identity is None or not identity.subject:
            raise RequestError(
                401, "which token? Send it in the field 'token' or as bearer", headers={"WWW-Authenticate": REALM}
            )
        return _end(access, identity)

    @routes.get("/auth/jwks.json")
    @routes.get("/.well-known/jwks.json")
    def jwks() -> Response:
        return _answer(access.tokens.keys.jwks, Cache_Control=f"public, max-age={_JWKS_SECONDS}")

    return routes


def _revoke_own(access: Access, token: str) -> Response:
    try:
        identity = access.verify(token) if len(token) <= LONGEST_TOKEN else None
    except RefusedError:
        identity = None
    return _end(access, identity) if identity is not None else _answer({})


def _end(access: Access, identity: Identity) -> Response:
    if not identity.jti:
        raise RequestError(400, "this token has no id (jti): only all tokens of its subject can be revoked")
    access.revoke_token(identity.jti, identity.expires)
    source = access.sources.of(request.environ).text
    access.audit.event("token.revoked", "success", who=identity, environ=request.environ, source=source)
    return _answer({})


def _revoke_others(access: Access, fields: dict[str, str]) -> Response:
    with access.enter(request.environ, "accounts", None):
        jti, subject = fields.get("jti", ""), fields.get("subject", "")
        if max(len(jti), len(subject)) > _LONGEST_FIELD or not (jti or subject):
            raise RequestError(400, "jti or subject must be text of at most 512 characters")
        if jti:
            access.revoke_token(jti)
        if subject:
            access.revoke_subject(subject)
        access.audit.event(
            "token.revoked",
            "success",
            who=access.identify(request.environ),
            environ=request.environ,
            source=access.sources.of(request.environ).text,
            revoked_jti=jti,
            revoked_subject=subject,
        )
        return _answer({})
