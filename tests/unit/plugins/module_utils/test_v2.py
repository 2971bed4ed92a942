# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Golden comparison, and the client against a real HTTP server on a loopback socket."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from ansible_collections.ai102.inference.plugins.module_utils import _v2 as v2

REQUEST = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}]}


def tensor(data: Any, datatype: str = "FP32", shape: Any = (1, 2), name: str = "y") -> dict[str, Any]:
    """One output tensor."""
    return {"name": name, "datatype": datatype, "shape": list(shape), "data": data}


def answer(*outputs: dict[str, Any]) -> dict[str, Any]:
    """A V2 inference response."""
    return {"model_name": "m", "outputs": list(outputs)}


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        (tensor([0.5, 100.0]), tensor([0.5009, 100.05])),  # within 1e-3·max(1, |expected|)
        (tensor([[0.5, 1.0]]), tensor([0.5, 1.0])),  # nested and flat are the same tensor
        (tensor(["a", "ü"], "BYTES"), tensor(["a", "ü"], "BYTES")),
        (tensor([True, False], "BOOL"), tensor([True, False], "BOOL")),
        (tensor([float("nan"), float("inf")]), tensor([float("nan"), float("inf")])),
    ],
)
def test_equal_tensors(expected: dict[str, Any], actual: dict[str, Any]) -> None:
    assert v2.compare_response(answer(expected), answer(actual)) == []


@pytest.mark.parametrize(
    ("expected", "actual", "says"),
    [
        (tensor([0.5, 1.0]), tensor([0.502, 1.0]), "1 of 2 elements differ"),
        (tensor([0.5, 1.0]), tensor([0.5]), "1 elements, expected 2"),
        (tensor([0.5, 1.0]), tensor([0.5, 1.0], shape=(2,)), "shape is [2], expected [1, 2]"),
        (tensor([0.5, 1.0]), tensor([0.5, 1.0], "FP16"), 'datatype is "FP16"'),
        (tensor(["a", "b"], "BYTES"), tensor(["a", "c"], "BYTES"), '[1] "c" instead of "b"'),
        # within the tolerance as numbers, but whole numbers are labels and must be equal
        (tensor([5000, 1], "INT64"), tensor([5001, 1], "INT64"), "[0] 5001 instead of 5000"),
        (tensor([0.5, 1.0]), tensor([float("nan"), 1.0]), "NaN instead of 0.5"),
        (tensor([0.5, 1.0]), tensor([float("inf"), 1.0]), "Infinity instead of 0.5"),
        (tensor([0.5, 1.0]), tensor([None, 1.0]), "null instead of 0.5"),
        (tensor([0.5, 1.0]), tensor([0.5, 1.0], name="z"), "output y is missing; there are z"),
    ],
)
def test_different_tensors(expected: dict[str, Any], actual: dict[str, Any], says: str) -> None:
    problems = v2.compare_response(answer(expected), answer(actual))
    assert len(problems) == 1
    assert says in problems[0]


def test_many_differences_are_counted_not_listed() -> None:
    (problem,) = v2.compare_response(answer(tensor([0.0] * 90, shape=(90,))), answer(tensor([1.0] * 90, shape=(90,))))
    assert "90 of 90" in problem
    assert len(problem) < 200


def test_further_outputs_and_model_version_are_no_difference() -> None:
    actual = {**answer(tensor([1.0, 2.0]), tensor([9.0], shape=(1,), name="extra")), "model_version": "7"}
    assert v2.compare_response(answer(tensor([1.0, 2.0])), actual) == []


@pytest.mark.parametrize(
    ("actual", "says"),
    [({"error": "no such model"}, "no such model"), ({}, "no outputs"), ([], "no"), ("text", "not an object")],
)
def test_no_answer_at_all_differs(actual: Any, says: str) -> None:
    (problem,) = v2.compare_response(answer(tensor([1.0, 2.0])), actual)
    assert says in problem


def test_golden_document_and_list_read_the_same() -> None:
    items = [{"request": REQUEST, "response": answer(tensor([1.0, 2.0])), "tolerance": 0.01}]
    assert v2.parse_golden({"requests": items}) == v2.parse_golden(items)
    assert v2.parse_golden(items)[0].tolerance == 0.01


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ("x", "not an object"),
        ({"response": answer(tensor([1]))}, "no request"),
        ({"request": REQUEST}, "no response"),
        ({"request": REQUEST, "response": answer()}, "proves nothing"),
        ({"request": REQUEST, "response": answer(tensor([1])), "tolerance": "much"}, "not a number"),
        ({"request": REQUEST, "response": answer(tensor([1])), "tolerance": float("nan")}, "negative"),
    ],
)
def test_malformed_golden_is_refused(item: Any, says: str) -> None:
    with pytest.raises(v2.GoldenError, match=says):
        v2.parse_golden([item])


class FakeServer:
    """A V2 server that answers what it is told, and counts."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, Any]] = []
        self.ready: tuple[int, Any] = (200, {"ready": True, "models": []})
        self.paths: list[str] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            """Answers in turn; the last answer repeats."""

            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                """Readiness."""
                self._reply(fake.ready)

            def do_POST(self) -> None:
                """Inference."""
                self.rfile.read(int(self.headers["Content-Length"]))
                self._reply(fake.answers.pop(0) if len(fake.answers) > 1 else fake.answers[0])

            def _reply(self, reply: tuple[int, Any]) -> None:
                fake.paths.append(self.path)
                body = json.dumps(reply[1]).encode()
                self.send_response(reply[0])
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                """Quiet."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """A running fake server."""
    fake = FakeServer()
    yield fake
    fake.http.shutdown()
    fake.http.server_close()


def ask(url: str, **kwargs: Any) -> v2.Examination:
    """Examines with a pair that expects 1.0, 2.0 unless told otherwise."""
    client = v2.V2Client(url, timeout=2)
    kwargs.setdefault("golden", [v2.Golden(REQUEST, answer(tensor([1.0, 2.0])))])
    try:
        return v2.examine(client, host="h1", model="m", **kwargs)
    finally:
        client.close()


def statuses(result: v2.Examination) -> list[str]:
    """The status of each check."""
    return [c["status"] for c in result.checks]


def test_right_answer_passes(server: FakeServer) -> None:
    server.answers = [(200, answer(tensor([1.0, 2.0])))]
    result = ask(server.url, version="2")
    assert result.ok
    assert statuses(result) == ["pass"]
    assert server.paths == ["/v2/models/m/versions/2/infer"]
    assert result.responses == [answer(tensor([1.0, 2.0]))]
    assert set(result.checks[0]) == {"check", "host", "status", "expected", "actual", "hint"}


def test_wrong_answer_fails_and_is_not_asked_again(server: FakeServer) -> None:
    server.answers = [(200, answer(tensor([1.0, 3.0]))), (200, answer(tensor([1.0, 2.0])))]
    result = ask(server.url, retry=v2.Retry(5, 0))
    assert not result.ok
    assert len(server.paths) == 1
    assert "3.0 instead of 2.0" in result.problems()


def test_unavailable_is_asked_again(server: FakeServer) -> None:
    server.answers = [(503, {"error": "warming up"}), (503, {}), (200, answer(tensor([1.0, 2.0])))]
    assert ask(server.url, retry=v2.Retry(2, 0)).ok
    assert len(server.paths) == 3


def test_unavailable_for_too_long_fails_with_what_it_said(server: FakeServer) -> None:
    server.answers = [(503, {"error": "warming up"})]
    result = ask(server.url, retry=v2.Retry(1, 0))
    assert "HTTP 503" in result.problems()
    assert "warming up" in result.problems()
    assert len(server.paths) == 2


def test_nobody_there_is_one_failed_check() -> None:
    result = ask("http://127.0.0.1:9", golden=[v2.Golden(REQUEST, answer(tensor([1.0])))] * 3)
    assert statuses(result) == ["fail"]
    assert not result.answered
    assert "refused" in result.problems()


@pytest.mark.parametrize(
    ("models", "ok", "says"),
    [
        ([{"name": "m", "version": "1", "ready": True, "provider": "CUDAExecutionProvider"}], True, ""),
        ([{"name": "m", "version": "1", "ready": True, "provider": "CPUExecutionProvider"}], False, "CPUExecution"),
        (
            [{"name": "m", "version": "1", "ready": False, "provider": "CUDAExecutionProvider", "reason": "loading"}],
            False,
            "not ready: loading",
        ),
        ([{"name": "other", "version": "1", "ready": True, "provider": "CUDAExecutionProvider"}], False, "not served"),
    ],
)
def test_execution_provider(server: FakeServer, models: list[dict[str, Any]], ok: bool, says: str) -> None:
    server.ready = (200, {"ready": True, "models": models})
    result = ask(server.url, golden=[], expected_provider="CUDAExecutionProvider", version="1")
    assert result.ok is ok
    assert says in result.problems()


def test_only_the_version_that_is_asked_for_counts(server: FakeServer) -> None:
    cpu, cuda = "CPUExecutionProvider", "CUDAExecutionProvider"
    models = [{"name": "m", "version": v, "ready": True, "provider": p} for v, p in (("1", cpu), ("2", cuda))]
    server.ready = (200, {"ready": True, "models": models})
    assert ask(server.url, golden=[], expected_provider=cuda, version="2").ok
    assert not ask(server.url, golden=[], expected_provider=cuda).ok


def test_without_questions_the_readiness_of_the_model_is_asked(server: FakeServer) -> None:
    assert ask(server.url, golden=[]).ok
    assert server.paths == ["/v2/models/m/ready"]
    server.ready = (404, {"error": "no such model"})
    assert "no such model" in ask(server.url, golden=[]).problems()


def test_base_path_and_odd_names_are_kept() -> None:
    assert v2.model_path("a/b c", "1") == "/v2/models/a%2Fb%20c/versions/1"


@pytest.mark.parametrize("url", ["example.internal", "ftp://x", "https://"])
def test_malformed_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is not a URL"):
        v2.V2Client(url)
