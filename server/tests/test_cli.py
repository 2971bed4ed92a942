# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from access_kit import Site
from ai102_server.cli import main
from toolkit import (
    CLIENT_AUTH,
    DOUBLING_GOLDEN,
    SERVER_AUTH,
    Authority,
    ServerProcess,
    Signer,
    doubling_model,
    doubling_request,
)


def write(path: Path, document: object) -> str:
    path.write_text(yaml.safe_dump(document))
    return str(path)


def test_check(base_config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--config", write(tmp_path / "c.yml", base_config)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("ok    doubling 1: CPUExecutionProvider, 1 golden answers reproduced")


def test_check_says_what_is_wrong(
    signer: Signer, base_config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = signer.package("m", "1", lambda path: doubling_model(path, 3), DOUBLING_GOLDEN)
    config = {**base_config, "models": [entry], "model_signing_public_key": str(signer.public_key)}
    path = write(tmp_path / "c.yml", config)
    assert main(["check", "--config", path]) == 1
    assert "FAIL  m 1: golden answer 0 is not reproduced" in capsys.readouterr().err
    assert main(["check", "--json", "--config", path]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is False
    assert "not reproduced" in document["models"][0]["reason"]


def test_check_looks_at_tls_files(
    base_config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tls = {"certificate": str(tmp_path / "absent.pem"), "key": str(tmp_path / "absent.key")}
    config = {**base_config, "listen": {"port": 8080, "tls": tls}}
    assert main(["check", "--config", write(tmp_path / "c.yml", config)]) == 1
    assert "absent.pem cannot be read: No such file" in capsys.readouterr().err
    certificate, key = Authority(tmp_path, "ca").issue("server", SERVER_AUTH)
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    tls = {"certificate": str(certificate), "key": str(key), "client_ca": str(empty)}
    config["listen"]["tls"] = tls
    assert main(["check", "--config", write(tmp_path / "c.yml", config)]) == 1
    assert f"client CA {empty} holds no usable certificate" in capsys.readouterr().err


def test_check_reads_what_access_needs_and_leaves_the_state_alone(
    base_config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = Site(tmp_path / "access")
    state = tmp_path / "not-there-yet" / "state.sqlite"
    path = write(tmp_path / "c.yml", {**base_config, "access": site.document(state=str(state))})
    assert main(["check", "--config", path]) == 0
    assert not state.parent.exists()
    document = {**base_config, "access": site.document(state=str(state)), "models": []}
    assert main(["check", "--access", "--config", write(tmp_path / "a.yml", document)]) == 0
    site.accounts[0]["role"] = "no-role"
    site.write_accounts()
    assert main(["check", "--access", "--config", path]) == 1
    assert "has the role 'no-role', which policy does not know" in capsys.readouterr().err
    site.accounts[0]["role"] = "admin"
    site.write_accounts()
    site.write_key("1.pem", site.key, b"no key")
    assert main(["check", "--config", path]) == 1
    assert "1.pem holds no key" in capsys.readouterr().err


def test_mistakes_in_the_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "c.yml", {"listen": {"prot": 1}, "models": []})
    for command in ("check", "serve"):
        assert main([command, "--config", path]) == 1
        assert "c.yml: listen.prot: unknown key; did you mean 'port'?" in capsys.readouterr().err


def test_golden(signer: Signer, base_config: dict[str, Any], tmp_path: Path) -> None:
    model = doubling_model(tmp_path / "m.onnx")
    request = tmp_path / "request.json"
    request.write_text(json.dumps([doubling_request(), doubling_request([[0.5, 0, 0], [1, 1, 1]])]))
    output = tmp_path / "golden.json"
    assert main(["golden", "--model", str(model), "--request", str(request), "--output", str(output)]) == 0
    recorded = json.loads(output.read_text())["requests"]
    assert recorded[0] == DOUBLING_GOLDEN[0]
    assert recorded[1]["response"]["outputs"][1]["data"] == [1.0, 6.0]
    # What was recorded is what `check` reproduces.
    entry = signer.package("m", "1", doubling_model, recorded)
    config = {**base_config, "models": [entry], "model_signing_public_key": str(signer.public_key)}
    assert main(["check", "--config", write(tmp_path / "c.yml", config)]) == 0
    # A golden.json is a source of requests too: to record again.
    again = tmp_path / "again.json"
    assert main(["golden", "--model", str(model), "--request", str(output), "--output", str(again)]) == 0
    assert again.read_text() == output.read_text()


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("{", [], "is not valid JSON"),
        ("[]", [], "must hold a V2 request"),
        ("[1]", [], "must hold a V2 request"),
        ('{"inputs": []}', [], "'inputs' must be a list of tensors"),
        (json.dumps(doubling_request()), ["--tolerance", "-1"], "--tolerance must be"),
        (
            json.dumps(doubling_request()),
            ["--provider", "CUDAExecutionProvider"],
            "does not have CUDAExecutionProvider",
        ),
    ],
)
def test_golden_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, options: list[str], expected: str
) -> None:
    model, request = doubling_model(tmp_path / "m.onnx"), tmp_path / "r.json"
    request.write_text(text)
    output = tmp_path / "golden.json"
    assert main(["golden", "--model", str(model), "--request", str(request), "--output", str(output), *options]) == 1
    assert expected in capsys.readouterr().err
    assert not output.exists()


def test_predict(
    start: Callable[..., ServerProcess],
    base_config: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server_ca, client_ca = Authority(tmp_path, "server-ca"), Authority(tmp_path, "client-ca")
    certificate, key = server_ca.issue("server.test", SERVER_AUTH)
    client_certificate, client_key = client_ca.issue("client", CLIENT_AUTH)
    tls = {"certificate": str(certificate), "key": str(key), "client_ca": str(client_ca.path)}
    server = start({**base_config, "listen": {**base_config["listen"], "tls": tls}})
    request = tmp_path / "request.json"
    request.write_text(json.dumps(doubling_request()))
    url = f"https://127.0.0.1:{server.config['listen']['port']}"
    base = ["predict", "--url", url, "--ca", str(server_ca.path)]
    client = ["--cert", str(client_certificate), "--key", str(client_key), "--server-hostname", "server.test"]
    asked = ["--model", "doubling", "--version", "1", "--request", str(request)]
    assert main([*base, *client, *asked]) == 0
    assert json.loads(capsys.readouterr().out)["model_version"] == "1"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(request.read_bytes())))
    assert main([*base, *client, "--model", "doubling"]) == 0
    capsys.readouterr()
    assert main([*base, *client, "--model", "none", "--request", str(request)]) == 1
    assert "answers 404: unknown model 'none'" in capsys.readouterr().err
    assert main([*base, *client, *asked, "--server-hostname", "other.test"]) == 1
    assert "certificate" in capsys.readouterr().err
    assert main([*base, *asked]) == 1
    assert "cannot be asked" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["ftp://host", "host", "http://", "http://host:port"])
def test_predict_refuses_odd_urls(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r").write_text("{}")
    assert main(["predict", "--url", url, "--model", "m", "--request", str(tmp_path / "r")]) == 1
    assert url in capsys.readouterr().err


def test_version_and_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert "ai102-server 0." in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2
