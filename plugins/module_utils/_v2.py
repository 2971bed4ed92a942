# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Open Inference Protocol (V2) for the control of rollouts: asking a server, and comparing with golden answers.

Only the standard library is used, because this runs on managed hosts with Python 3.10 and newer.
"""

from __future__ import annotations

import http.client
import json
import math
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import quote, urlsplit

DEFAULT_TOLERANCE = 1e-3
"""Largest accepted difference of two floating point numbers, relative to ``max(1, |expected|)``."""

MAX_DETAILS = 3
"""How many differences of one answer are spelled out; the rest is counted."""

RETRIED_STATUSES = frozenset({429, 502, 503, 504})
"""HTTP statuses that say "not now" rather than "wrong"."""


class GoldenError(ValueError):
    """The golden requests themselves are malformed."""


class ConnectionFailed(Exception):
    """No HTTP answer came back: refused, timed out, TLS handshake failed, or the connection was cut."""


# --------------------------------------------------------------------------------------------------------------------
# Comparison
# --------------------------------------------------------------------------------------------------------------------
def flatten(data: Any) -> Iterator[Any]:
    """Yields the elements of V2 tensor data in row-major order; V2 allows it nested as well as flat."""
    if isinstance(data, (list, tuple)):
        for item in data:
            yield from flatten(item)
    else:
        yield data


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def same_element(expected: Any, actual: Any, datatype: str, tolerance: float) -> bool:
    """Whether one element agrees.

    Floating point (``FP16``, ``FP32``, ``FP64``, ``BF16``) is compared with ``tolerance·max(1, |expected|)``; whole
    numbers, booleans and strings must be equal: a class index that is off by one is a wrong answer.
    """
    if _is_number(expected) and _is_number(actual) and datatype.upper().startswith(("FP", "BF")):
        if math.isnan(expected) or math.isnan(actual):
            return math.isnan(expected) and math.isnan(actual)
        if math.isinf(expected) or math.isinf(actual):
            return bool(expected == actual)
        return bool(abs(actual - expected) <= tolerance * max(1.0, abs(expected)))
    return bool(expected == actual)


def _short(value: Any, limit: int = 80) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def compare_tensor(expected: Mapping[str, Any], actual: Mapping[str, Any], tolerance: float) -> list[str]:
    """The differences of one output tensor in words; empty when it agrees."""
    name = expected.get("name", "?")
    problems: list[str] = []
    datatype = str(expected.get("datatype", actual.get("datatype", "")))
    for key in ("datatype", "shape"):
        if key in expected and expected[key] != actual.get(key):
            problems.append(f"{name}: {key} is {_short(actual.get(key))}, expected {_short(expected[key])}")
    if problems:
        return problems
    wanted, got = list(flatten(expected.get("data", []))), list(flatten(actual.get("data", [])))
    if len(wanted) != len(got):
        return [f"{name}: {len(got)} elements, expected {len(wanted)}"]
    wrong = [i for i, (a, b) in enumerate(zip(wanted, got, strict=True)) if not same_element(a, b, datatype, tolerance)]
    if not wrong:
        return []
    details = ", ".join(f"[{i}] {_short(got[i])} instead of {_short(wanted[i])}" for i in wrong[:MAX_DETAILS])
    if len(wrong) > MAX_DETAILS:
        details += ", …"
    problems.append(f"{name}: {len(wrong)} of {len(wanted)} elements differ (tolerance {tolerance:g}): {details}")
    return problems


def compare_response(
    expected: Mapping[str, Any], actual: Mapping[str, Any], tolerance: float = DEFAULT_TOLERANCE
) -> list[str]:
    """The differences of two V2 inference responses in words; empty when ``actual`` is the golden answer.

    Outputs are matched by name. Outputs that the golden answer does not mention, ``id``, ``model_version`` and
    ``parameters`` are not compared: they may differ between releases that answer the same.
    """
    if not isinstance(actual, Mapping):
        return [f"the answer is {_short(actual)}, not an object"]
    if "error" in actual:
        return [f"the server says: {actual['error']}"]
    answered = actual.get("outputs")
    if not isinstance(answered, list):
        return ["the answer has no outputs"]
    outputs = {o.get("name"): o for o in answered if isinstance(o, Mapping)}
    problems: list[str] = []
    for tensor in expected.get("outputs", []):
        name = tensor.get("name")
        if name not in outputs:
            problems.append(f"output {name} is missing; there are {', '.join(map(str, outputs)) or 'none'}")
            continue
        problems.extend(compare_tensor(tensor, outputs[name], tolerance))
    return problems


@dataclass(frozen=True)
class Golden:
    """One golden pair: a V2 inference request, the answer it must get, and how exactly."""

    request: Mapping[str, Any]
    response: Mapping[str, Any]
    tolerance: float = DEFAULT_TOLERANCE


def parse_golden(items: Any) -> list[Golden]:
    """Reads golden pairs, as a list or as the document of a ``golden.json`` (``{"requests": […]}``).

    Raises :class:`GoldenError` with the position of what is malformed.
    """
    if isinstance(items, Mapping):
        items = items.get("requests")
    if not isinstance(items, list):
        raise GoldenError("golden answers are a list, or an object with a list 'requests'")
    pairs: list[Golden] = []
    for position, item in enumerate(items):
        where = f"golden answer {position}"
        if not isinstance(item, Mapping):
            raise GoldenError(f"{where} is not an object")
        request, response = item.get("request"), item.get("response")
        if not isinstance(request, Mapping) or not isinstance(request.get("inputs"), list):
            raise GoldenError(f"{where} has no request with inputs")
        if not isinstance(response, Mapping) or not isinstance(response.get("outputs"), list):
            raise GoldenError(f"{where} has no response with outputs")
        if not response["outputs"]:
            raise GoldenError(f"{where} expects no output at all, so it proves nothing")
        try:
            tolerance = float(item.get("tolerance", DEFAULT_TOLERANCE))
        except (TypeError, ValueError) as e:
            raise GoldenError(f"{where}: tolerance {item.get('tolerance')!r} is not a number") from e
        if math.isnan(tolerance) or tolerance < 0:
            raise GoldenError(f"{where}: tolerance {tolerance:g} is negative")
        pairs.append(Golden(request, response, tolerance))
    return pairs


# --------------------------------------------------------------------------------------------------------------------
# Client
# --------------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Tls:
    """How a client proves who it is and whom it believes. Paths are files on the host that asks."""

    ca_path: str | None = None
    client_cert: str | None = None
    client_key: str | None = None
    server_hostname: str | None = None
    """Name the server's certificate must carry, when it is reached by another one (an address)."""

    def context(self) -> ssl.SSLContext:
        """A verifying context, TLS 1.2 and newer. Raises ``OSError`` when a file is missing, ``ssl.SSLError`` else."""
        context = ssl.create_default_context(cafile=self.ca_path)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.client_cert:
            context.load_cert_chain(self.client_cert, self.client_key)
        return context


class _NamedHTTPSConnection(http.client.HTTPSConnection):
    """An HTTPS connection that verifies, and announces by SNI, another name than the one it connects to."""

    def __init__(self, host: str, port: int, timeout: float, context: ssl.SSLContext, server_hostname: str) -> None:
        super().__init__(host, port, timeout=timeout, context=context)
        self._context_for_name = context
        self._server_hostname = server_hostname

    def connect(self) -> None:
        raw = socket.create_connection((self.host, self.port), self.timeout)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = self._context_for_name.wrap_socket(raw, server_hostname=self._server_hostname)


@dataclass
class Answer:
    """An HTTP answer with a JSON body (``body`` is the text when it is no JSON)."""

    status: int
    body: Any
    headers: dict[str, str] = field(default_factory=dict)
    duration_ms: float = 0.0


class V2Client:
    """Asks one server over one kept-alive connection.

    :param url: base URL, ``https://host:port`` or ``http://…``, with an optional path before ``/v2``.
    :param timeout: seconds for connecting and for each answer.
    """

    def __init__(
        self, url: str, tls: Tls | None = None, headers: Mapping[str, str] | None = None, timeout: float = 10.0
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is not a URL of the form https://host:port")
        self.host = parts.hostname
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        self._secure = parts.scheme == "https"
        self._base = parts.path.rstrip("/")
        self._tls = tls or Tls()
        self._headers = {"Accept": "application/json", **(headers or {})}
        self._timeout = timeout
        self._context = self._tls.context() if self._secure else None
        self._connection: http.client.HTTPConnection | None = None
        self.answers = 0
        """How many HTTP answers came back so far."""

    def close(self) -> None:
        """Ends the connection; the next question opens a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> http.client.HTTPConnection:
        if self._connection is None:
            if self._context is not None:
                self._connection = _NamedHTTPSConnection(
                    self.host, self.port, self._timeout, self._context, self._tls.server_hostname or self.host
                )
            else:
                self._connection = http.client.HTTPConnection(self.host, self.port, timeout=self._timeout)
        return self._connection

    def ask(self, method: str, path: str, body: Any = None) -> Answer:
        """Sends one request. Raises :class:`ConnectionFailed` when no answer comes back."""
        payload = None if body is None else json.dumps(body).encode()
        headers = dict(self._headers)
        if payload is not None:
            headers["Content-Type"] = "application/json"
        started = time.monotonic()
        try:
            connection = self._open()
            connection.request(method, self._base + path, payload, headers)
            response = connection.getresponse()
            raw = response.read()
        except ssl.SSLCertVerificationError as e:
            self.close()
            raise ConnectionFailed(f"the server's certificate was not accepted: {e.verify_message}") from e
        except (OSError, http.client.HTTPException) as e:
            self.close()
            raise ConnectionFailed(f"{type(e).__name__}: {e}".rstrip(": ")) from e
        self.answers += 1
        try:
            parsed: Any = json.loads(raw) if raw else {}
        except ValueError:
            parsed = raw.decode(errors="replace")
        duration = (time.monotonic() - started) * 1000
        return Answer(response.status, parsed, {k.lower(): v for k, v in response.getheaders()}, duration)

    def ready(self) -> Answer:
        """``GET /v2/health/ready``: 200 or 503, with each model's execution provider."""
        return self.ask("GET", "/v2/health/ready")

    def infer(self, model: str, version: str | None, request: Mapping[str, Any]) -> Answer:
        """``POST …/infer`` of one V2 request."""
        return self.ask("POST", f"{model_path(model, version)}/infer", request)


def model_path(model: str, version: str | None = None) -> str:
    """The URL path of a model, or of one version of it."""
    path = f"/v2/models/{quote(model, safe='')}"
    return f"{path}/versions/{quote(version, safe='')}" if version else path


# --------------------------------------------------------------------------------------------------------------------
# Examination
# --------------------------------------------------------------------------------------------------------------------
def make_check(check: str, host: str, status: str, expected: str, actual: str, hint: str = "") -> dict[str, str]:
    """One entry of a verdict."""
    return {"check": check, "host": host, "status": status, "expected": expected, "actual": actual, "hint": hint}


@dataclass
class Retry:
    """How often "not now" is asked again: ``retries`` more times, ``delay`` seconds apart."""

    retries: int = 0
    delay: float = 1.0
    sleep: Callable[[float], None] = time.sleep

    def until(self, ask: Callable[[], Answer], good: Callable[[Answer], bool]) -> Answer:
        """Asks until ``good`` says so; the last answer, or the last :class:`ConnectionFailed`, when it never did."""
        left = self.retries
        while True:
            try:
                answer = ask()
                if good(answer) or left <= 0:
                    return answer
            except ConnectionFailed:
                if left <= 0:
                    raise
            left -= 1
            self.sleep(self.delay)


@dataclass
class Examination:
    """What came out of asking a server: entries for the verdict, and the answers themselves."""

    checks: list[dict[str, str]] = field(default_factory=list)
    responses: list[Any] = field(default_factory=list)
    duration_ms: float = 0.0
    answered: bool = False
    """Whether the server answered anything at all, right or wrong."""

    @property
    def ok(self) -> bool:
        """No check failed."""
        return all(c["status"] != "fail" for c in self.checks)

    def problems(self) -> str:
        """The failed checks in one line."""
        return "; ".join(
            f"{c['host']}: {c['check']}: {c['actual']} (expected {c['expected']})"
            for c in self.checks
            if c["status"] == "fail"
        )


def served_models(ready: Any, model: str, version: str | None) -> list[Mapping[str, Any]]:
    """The entries of a readiness document that belong to a model."""
    if not isinstance(ready, Mapping) or not isinstance(ready.get("models"), list):
        return []
    return [
        m
        for m in ready["models"]
        if isinstance(m, Mapping) and m.get("name") == model and (not version or str(m.get("version")) == version)
    ]


def _said(answer: Answer) -> str:
    detail = answer.body
    if isinstance(detail, Mapping):
        detail = detail.get("error", detail)
    return f"HTTP {answer.status}" + (f": {_short(detail, 300)}" if detail else "")


def examine(
    client: V2Client,
    *,
    host: str,
    model: str,
    version: str | None = None,
    golden: Sequence[Golden] = (),
    expected_provider: str | None = None,
    retry: Retry | None = None,
) -> Examination:
    """Asks for the execution provider (when one is expected) and for every golden answer.

    Never raises for what the server does: everything it does wrong is a failed check. Without golden answers and
    without an expected provider, the model's own readiness is asked, so that an examination is never empty.
    """
    retry = retry or Retry()
    result = Examination()
    label = f"{model}/{version}" if version else model
    started = time.monotonic()
    if expected_provider:
        result.checks.append(_check_provider(client, host, model, version, label, expected_provider, retry))
    elif not golden:
        result.checks.append(_check_model_ready(client, host, model, version, label, retry))
    for position, pair in enumerate(golden):
        check = f"golden answer {position + 1} of {label}"
        expected = f"the recorded answer within {pair.tolerance:g}"
        try:
            answer = retry.until(
                partial(client.infer, model, version, pair.request),
                lambda a: a.status not in RETRIED_STATUSES,
            )
        except ConnectionFailed as e:
            hint = "Is the server running, and may this host reach it?"
            result.checks.append(make_check(check, host, "fail", expected, str(e), hint))
            # A server that could not be reached for one question, retries included, is not asked the others.
            break
        result.responses.append(answer.body)
        if answer.status != 200:
            hint = "The server's log has the reason."
            result.checks.append(make_check(check, host, "fail", expected, _said(answer), hint))
            continue
        problems = compare_response(pair.response, answer.body, pair.tolerance)
        if problems:
            hint = "The model, its version or the execution provider is not the one the answers were recorded with."
            result.checks.append(make_check(check, host, "fail", expected, "; ".join(problems), hint))
        else:
            result.checks.append(make_check(check, host, "pass", expected, f"equal, {answer.duration_ms:.1f} ms"))
    result.answered = client.answers > 0
    result.duration_ms = round((time.monotonic() - started) * 1000, 1)
    return result


def _check_model_ready(
    client: V2Client, host: str, model: str, version: str | None, label: str, retry: Retry
) -> dict[str, str]:
    check, expected = f"readiness of {label}", "HTTP 200"
    try:
        answer = retry.until(
            lambda: client.ask("GET", f"{model_path(model, version)}/ready"),
            lambda a: a.status not in RETRIED_STATUSES,
        )
    except ConnectionFailed as e:
        return make_check(check, host, "fail", expected, str(e), "Is the server running, and may this host reach it?")
    return make_check(check, host, "pass" if answer.status == 200 else "fail", expected, _said(answer))


def _check_provider(
    client: V2Client,
    host: str,
    model: str,
    version: str | None,
    label: str,
    provider: str,
    retry: Retry,
) -> dict[str, str]:
    check = f"execution provider of {label}"
    try:
        answer = retry.until(client.ready, lambda a: a.status not in RETRIED_STATUSES)
    except ConnectionFailed as e:
        hint = "Is the server running, and may this host reach it?"
        return make_check(check, host, "fail", provider, str(e), hint)
    entries = served_models(answer.body, model, version)
    if not entries:
        return make_check(check, host, "fail", provider, f"{_said(answer)}; the model is not served")
    # Without a version, every version of the model that is served must be on the right provider.
    wrong = [m for m in entries if m.get("provider") != provider or m.get("ready") is not True]
    if not wrong:
        return make_check(check, host, "pass", provider, provider)
    first = wrong[0]
    actual = str(first.get("provider"))
    if first.get("ready") is not True:
        actual += f", not ready: {first.get('reason') or 'no reason given'}"
    hint = "ONNX Runtime falls back silently: look at the driver, CUDA and cuDNN in the server's log."
    return make_check(check, host, "fail", provider, actual, hint if first.get("provider") != provider else "")
