# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""The HTTP API without a server around it, on real ONNX Runtime sessions."""

from __future__ import annotations

import contextlib
import io
import json
import threading
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import numpy as np
import pytest
from werkzeug.test import Client as WsgiClient

from ai102_server.api import Application, create_app
from ai102_server.api.inference import InferenceEndpoint, Reply
from ai102_server.config import parse_config
from ai102_server.engine import load_registry
from ai102_server.engine.batching import Batcher
from ai102_server.errors import RequestError
from ai102_server.service import Service
from test_codec import VALUES, raw
from toolkit import DOUBLING_GOLDEN, doubling_request

INFER = "/v2/models/doubling/infer"
Client = Any
"""Flask's test client, whose answers carry JSON or nothing: not worth an assertion each time."""


@pytest.fixture(scope="module")
def shared(base_config: dict[str, Any]) -> Service:
    broken = {**base_config["models"][0], "name": "broken"}
    models = [*base_config["models"], broken]
    config = parse_config({**base_config, "models": models, "limits": {"max_body_bytes": 8192}})
    return Service(config)


@pytest.fixture
def service(shared: Service) -> Iterator[Service]:
    """Loaded models, and everything else fresh."""
    service = Service(shared.config, registry=shared.registry)
    yield service
    service.close()


class LikeGranian:
    """An application of WSGI around what Granian calls. Granian's own part: ``test_serving``."""

    def __init__(self, application: Application) -> None:
        self.application = application

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        answers: list[tuple[int, list[tuple[str, str]], bytes]] = []
        done = threading.Event()

        class Protocol:
            def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
                answers.append((status, headers, body))
                done.set()

            def response_iter(self, status: int, headers: list[tuple[str, str]], body: Any) -> None:
                parts = []
                with contextlib.suppress(StopIteration):
                    while True:
                        parts.append(body.__next__())
                self.response_bytes(status, headers, b"".join(parts))

        self.application.granian(Protocol(), environ)
        assert done.wait(10)
        [(status, headers, body)] = answers
        start_response(f"{status} {HTTPStatus(status).phrase}", headers)
        return [body]


@pytest.fixture(params=["flask", "wsgi", "granian"])
def client(service: Service, request: pytest.FixtureRequest) -> Client:
    """The Flask application alone; with the short way for inference; and as the server runs it."""
    if request.param == "flask":
        return create_app(service).test_client()
    application = Application(service)
    return WsgiClient(application if request.param == "wsgi" else LikeGranian(application))


def batcher(service: Service) -> Batcher:
    found = service.registry.get_ready("doubling", None).run
    assert found is not None
    return found


def post(client: Client, path: str, document: object, **headers: str) -> Any:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return client.post(path, data=body, content_type=headers.pop("content_type", "application/json"), headers=headers)


def test_metadata(client: Client) -> None:
    document = client.get("/v2").json
    assert document["name"] == "ai102-server"
    assert document["release"] == "r1"
    assert "binary_tensor_data" in document["extensions"]
    model = client.get("/v2/models/doubling").json
    assert model["versions"] == ["1", "10"]
    assert model["platform"] == "onnxruntime_onnx"
    assert model["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}]
    assert [output["name"] for output in model["outputs"]] == ["y", "total"]
    assert model["parameters"]["version"] == "10"
    assert model["parameters"]["provider"] == "CPUExecutionProvider"
    assert model["parameters"]["signed"] is True
    assert client.get("/v2/models/doubling/versions/1").json["parameters"]["version"] == "1"


def test_health(client: Client) -> None:
    assert client.get("/v2/health/live").status_code == 200
    response = client.get("/v2/health/ready")
    assert response.status_code == 503
    states = {(model["name"], model["version"]): model for model in response.json["models"]}
    assert states["doubling", "1"] == {
        "name": "doubling",
        "version": "1",
        "ready": True,
        "provider": "CPUExecutionProvider",
        "reason": None,
    }
    assert "the package is of model 'doubling'" in states["broken", "1"]["reason"]
    assert response.json["release"] == "r1"


def test_ready_and_draining(base_config: dict[str, Any]) -> None:
    service = Service(parse_config(base_config))
    client: Client = create_app(service).test_client()
    assert client.get("/v2/health/ready").status_code == 200
    assert "ai102_ready 1.0" in client.get("/metrics").text
    service.draining = True
    response = client.get("/v2/health/ready")
    assert response.status_code == 503
    assert response.json["draining"] is True
    assert response.headers["Connection"] == "close"
    assert "ai102_ready 0.0" in client.get("/metrics").text


def test_model_ready(client: Client) -> None:
    assert client.get("/v2/models/doubling/ready").json["provider"] == "CPUExecutionProvider"
    assert client.get("/v2/models/doubling/versions/1/ready").json["version"] == "1"
    assert client.get("/v2/models/broken/ready").status_code == 503
    assert client.get("/v2/models/broken").status_code == 503
    assert client.get("/v2/models/none/ready").status_code == 404


def test_repository_index(client: Client) -> None:
    everything = post(client, "/v2/repository/index", {}).json
    assert {(model["name"], model["version"], model["state"]) for model in everything} == {
        ("doubling", "1", "READY"),
        ("doubling", "10", "READY"),
        ("echo", "1", "READY"),
        ("slow", "1", "READY"),
        ("broken", "1", "UNAVAILABLE"),
    }
    assert len(client.post("/v2/repository/index").json) == 5
    assert len(post(client, "/v2/repository/index", {"ready": True}).json) == 4
    for body in (b"{", b"[]", b'{"ready": 1}'):
        assert post(client, "/v2/repository/index", body).status_code == 400


def test_infer(client: Client) -> None:
    answer = post(client, INFER, doubling_request(id="i")).json
    assert answer["outputs"] == DOUBLING_GOLDEN[0]["response"]["outputs"]
    assert (answer["id"], answer["model_version"]) == ("i", "10")
    answer = post(client, "/v2/models/doubling/versions/1/infer", doubling_request(outputs=[{"name": "total"}])).json
    assert answer["model_version"] == "1"
    assert answer["outputs"] == [{"name": "total", "shape": [1], "datatype": "FP32", "data": [12.0]}]


def test_infer_every_datatype_both_ways(client: Client) -> None:
    expected = [{"name": f"out_{name}", "data": values} for name, values in VALUES.items()]
    inputs: list[dict[str, Any]] = [
        {"name": f"in_{name}", "shape": [2, 2], "datatype": name, "data": values} for name, values in VALUES.items()
    ]
    answer = post(client, "/v2/models/echo/infer", {"inputs": inputs}).json
    for output, wanted in zip(answer["outputs"], expected, strict=True):
        assert output["name"] == wanted["name"]
        assert output["data"] == (
            pytest.approx(wanted["data"], rel=1e-3) if output["datatype"][:2] == "FP" else wanted["data"]
        )
    tails = {name: raw(name, values) for name, values in VALUES.items()}
    inputs = [
        {
            "name": f"in_{name}",
            "shape": [2, 2],
            "datatype": name,
            "parameters": {"binary_data_size": len(tail)},
        }
        for name, tail in tails.items()
    ]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    response = post(
        client,
        "/v2/models/echo/infer",
        head + b"".join(tails.values()),
        content_type="application/octet-stream",
        **{"Inference-Header-Content-Length": str(len(head))},
    )
    assert response.status_code == 200, response.text
    length = int(response.headers["Inference-Header-Content-Length"])
    assert response.data[length:] == b"".join(tails.values())
    sizes = [output["parameters"]["binary_data_size"] for output in json.loads(response.data[:length])["outputs"]]
    assert sizes == [len(tail) for tail in tails.values()]


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/v2/models/none/infer", 404, "unknown model 'none'"),
        ("/v2/models/doubling/versions/7/infer", 404, "model 'doubling' has no version '7'; there is: 1, 10"),
        ("/v2/models/broken/infer", 503, "model 'broken' version '1' is not ready"),
        ("/v2/nothing", 404, "no such resource: /v2/nothing"),
        ("/v2/health/live", 405, "method POST is not allowed here"),
    ],
)
def test_wrong_address(client: Client, path: str, status: int, message: str) -> None:
    response = post(client, path, doubling_request())
    assert response.status_code == status
    assert message in response.json["error"]
    assert list(response.json) == ["error"]


def test_wrong_body(client: Client) -> None:
    response = post(client, INFER, b"{")
    assert response.status_code == 400
    assert "is not valid JSON" in response.json["error"]
    assert post(client, INFER, b"").status_code == 400
    assert post(client, INFER, b" " * 8193).status_code == 413
    assert post(client, INFER, doubling_request(), content_type="text/plain").status_code == 415
    assert post(client, INFER, doubling_request(), **{"Content-Encoding": "br"}).status_code == 415
    assert post(client, INFER, doubling_request(), content_type="application/json; charset=utf-8").status_code == 200


def test_cut_off_body(client: Client) -> None:
    response = client.post(INFER, data=b"{}", environ_overrides={"CONTENT_LENGTH": "50"})
    assert response.status_code == 400
    assert response.json["error"] == "the body ended after 2 of 50 bytes"


def test_faults_do_not_leak(
    client: Client, service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_arguments: object) -> Any:
        raise RuntimeError("secret 12.5")

    monkeypatch.setattr(batcher(service), "_run", fail)
    response = post(client, INFER, doubling_request(), **{"X-Request-ID": "abc"})
    assert response.status_code == 500
    assert response.json == {"error": "internal error; the server's log has the details"}
    record = next(record for record in caplog.records if record.exc_info)
    assert record.request_id == "abc"  # type: ignore[attr-defined]
    assert service.admission.inflight == 0


def test_faults_of_the_answer_do_not_leak(
    client: Client, service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # What a run gave has another shape than anything that can be encoded.
    monkeypatch.setattr(batcher(service), "_run", lambda _inputs, outputs: [object() for _ in outputs])
    response = post(client, INFER, doubling_request())
    assert response.status_code == 500
    assert response.json == {"error": "internal error; the server's log has the details"}
    assert any(record.exc_info for record in caplog.records)
    assert service.admission.inflight == 0
    monkeypatch.undo()
    assert post(client, INFER, doubling_request()).status_code == 200


def test_an_answer_that_cannot_be_sent_harms_nobody(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    endpoint = InferenceEndpoint(service)
    sent: list[Reply] = []

    def send(reply: Reply) -> None:
        sent.append(reply)
        raise OSError("gone")

    body = json.dumps(doubling_request()).encode()
    environ = {"CONTENT_TYPE": "application/json", "CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body)}
    endpoint.submit(environ, "doubling", None, "abc", send)
    # Once, and not again because that failed.
    assert [reply.status for reply in sent] == [200]
    assert "an answer cannot be sent" in caplog.text
    assert service.admission.inflight == 0


def test_faults_outside_of_inference_do_not_leak(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Service, "readiness", lambda _self: 1 / 0)
    response = client.get("/v2/health/ready")
    assert response.status_code == 500
    assert response.json == {"error": "internal error; the server's log has the details"}


def test_what_the_model_refuses_is_the_clients_mistake(
    client: Client, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = batcher(service)._run
    wrong = {"x": np.zeros((1, 3), np.float64)}
    monkeypatch.setattr(batcher(service), "_run", lambda _inputs, outputs: original(wrong, outputs))
    response = post(client, INFER, doubling_request())
    assert response.status_code == 400
    assert "the model does not take these inputs" in response.json["error"]


def test_request_ids(client: Client) -> None:
    assert client.get("/v2", headers={"X-Request-ID": "abc-1"}).headers["X-Request-ID"] == "abc-1"
    made = client.get("/v2").headers["X-Request-ID"]
    assert len(made) == 32
    for odd in ("a b", "x" * 200, 'a"b', "é"):
        assert client.get("/v2", headers={"X-Request-ID": odd}).headers["X-Request-ID"] != odd
    assert client.get("/nothing", headers={"X-Request-ID": "abc-2"}).headers["X-Request-ID"] == "abc-2"


def test_metrics(client: Client, service: Service) -> None:
    post(client, INFER, doubling_request())
    post(client, INFER, b"{")
    post(client, "/v2/models/made-up-by-a-client/infer", doubling_request())
    post(client, "/v2/models/doubling/versions/made-up/infer", doubling_request())
    text = client.get("/metrics").text
    assert 'ai102_requests_total{model="doubling",status="200",version="10"} 1.0' in text
    assert 'ai102_requests_total{model="doubling",status="400",version="10"} 1.0' in text
    assert 'ai102_requests_total{model="",status="404",version=""} 2.0' in text
    assert "made-up" not in text
    assert 'ai102_request_duration_seconds_count{model="doubling",version="10"} 2.0' in text
    assert 'ai102_inference_duration_seconds_count{model="doubling",version="10"} 1.0' in text
    assert "ai102_inflight_requests 0.0" in text
    assert 'ai102_model_ready{model="broken",version="1"} 0.0' in text
    assert 'ai102_model_info{model="doubling",provider="CPUExecutionProvider",release="r1"' in text
    assert "process_resident_memory_bytes" in text
    service.admission.enter()
    assert "ai102_inflight_requests 1.0" in client.get("/metrics").text
    service.admission.leave()


def lines(service: Service, capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """The access log so far."""
    service.telemetry.flush()
    found = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    return [line for line in found if line["logger"] == "ai102_server.access"]


def test_access_log(capfd: pytest.CaptureFixture[str], shared: Service) -> None:
    service = Service(shared.config, registry=shared.registry)
    client = WsgiClient(Application(service))
    post(client, INFER, doubling_request([[123.25, 2, 3]]), **{"X-Request-ID": "abc"})
    post(client, INFER, b'{"payload')
    good, bad = lines(service, capfd)
    assert (good["request_id"], good["model"], good["version"], good["status"]) == ("abc", "doubling", "10", 200)
    assert good["bytes_in"] > 0
    assert good["inference_ms"] >= 0
    assert (bad["status"], bad["level"]) == (400, "warning")
    assert "123.25" not in str((good, bad))
    assert "payload" not in str((good, bad))
    service.close()


def test_access_log_of_failures_only(
    shared: Service, base_config: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    config = parse_config({**base_config, "log": {"access": False}})
    service = Service(config, registry=shared.registry)
    client = create_app(service).test_client()
    post(client, INFER, doubling_request())
    post(client, INFER, b"{")
    assert [line["status"] for line in lines(service, capfd)] == [400]
    service.close()


def test_registry_is_not_confused_by_a_missing_version(shared: Service) -> None:
    with pytest.raises(RequestError):
        shared.registry.get_ready("broken")
    assert load_registry(parse_config({"listen": {"port": 1}, "models": []})).ready
