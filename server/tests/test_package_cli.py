# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""The command ``package``: from a model to a signed, encrypted package and back."""

from __future__ import annotations

import argparse
import json
import stat
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest
import yaml

from ai102_server.cli import package as command
from ai102_server.errors import ServerError
from ai102_server.repository import load_keys, load_public_keys, open_package
from ai102_server.repository.making import canonical
from test_encryption import external_model
from toolkit import DOUBLING_GOLDEN, doubling_model


def run(*arguments: str | Path) -> int:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers(required=True))
    parsed = parser.parse_args(["package", *map(str, arguments)])
    return int(parsed.run(parsed))


@pytest.fixture
def site(tmp_path: Path) -> Path:
    doubling_model(tmp_path / "m.onnx")
    (tmp_path / "golden.json").write_text(json.dumps({"requests": DOUBLING_GOLDEN}))
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    top = {"top": {"labels": "labels.txt"}}
    serving: dict[str, Any] = {"tags": ["public"], "pipeline": {"outputs": [{"output": "y", "steps": [top]}]}}
    (tmp_path / "serving.yml").write_text(yaml.safe_dump(serving))
    run("keys", "--signing", tmp_path / "sign.key", "--encryption", tmp_path / "model.key")
    return tmp_path


def make(site: Path, output: str = "one", *more: str | Path) -> Path:
    assert run(
        "new", "--model", site / "m.onnx", "--name", "m", "--version", "1", "--output", site / output,
        "--golden", site / "golden.json", "--file", site / "labels.txt", "--serving", site / "serving.yml",
        "--licence", "MIT", "--signing-key", site / "sign.key", *more,
    ) == 0  # fmt: skip
    return site / output


def test_keys_are_private_and_never_overwritten(site: Path) -> None:
    for name, mode in (("sign.key", 0o600), ("model.key", 0o600), ("sign.key.pub", 0o644)):
        assert stat.S_IMODE((site / name).stat().st_mode) == mode
    before = (site / "sign.key").read_bytes()
    for option, name in (("--signing", "sign.key"), ("--encryption", "model.key")):
        with pytest.raises(ServerError, match=r"is there already: choose another name"):
            run("keys", option, site / name)
    assert (site / "sign.key").read_bytes() == before
    assert len(load_keys([site / "model.key"]).ids) == 1
    with pytest.raises(ServerError, match="say which key to make"):
        run("keys")
    with pytest.raises(ServerError, match="cannot be written: No such file"):
        run("keys", "--encryption", site / "none/model.key")


def test_a_package_from_the_model_to_the_session(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = make(site)
    sealed = site / "two"
    run("encrypt", plain, "--key", site / "model.key", "--output", sealed, "--signing-key", site / "sign.key")
    content = (plain / "model.onnx").read_bytes()
    assert content not in (sealed / "model.onnx").read_bytes()
    keys = load_keys([site / "model.key"])
    package = open_package(sealed, "m", "1", load_public_keys(site / "sign.key.pub"), keys)
    assert (package.signed, package.encrypted, set(package.tags)) == (True, True, {"public"})
    assert package.open_model() == content
    assert ort.InferenceSession(package.open_model()).get_inputs()[0].name == "x"
    assert package.inputs is not None
    assert package.inputs[0].shape == (-1, 3)
    capsys.readouterr()
    assert run("verify", sealed, "--public-key", site / "sign.key.pub", "--decryption-key", site / "model.key") == 0
    assert capsys.readouterr().out == "ok    m 1: signature and 3 files\n"
    assert run("verify", sealed, "--public-key", site / "sign.key.pub") == 0
    assert "not decrypted, for want of a key: golden.json, labels.txt, model.onnx" in capsys.readouterr().out
    assert run("show", sealed) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["encrypted_with"] == list(keys.ids)
    assert (shown["name"], shown["has_signature"], shown["licence"], shown["source"]) == ("m", True, "MIT", "m.onnx")
    assert shown["serving"]["tags"] == ["public"]


def test_the_same_content_makes_the_same_package(site: Path) -> None:
    first, second = make(site), make(site, "two")
    for name in ("manifest.json", "manifest.json.sig"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    # As the collection writes it, so both make the same package.
    raw = (first / "manifest.json").read_bytes()
    assert raw == canonical(json.loads(raw))
    assert raw.startswith(b'{\n "files": [\n  {\n   "path": "golden.json",')


def test_only_some_files_are_encrypted(site: Path) -> None:
    run("encrypt", make(site), "--key", site / "model.key", "--output", site / "two", "--only", "model.onnx")
    assert (site / "two/labels.txt").read_text() == "a\nb\nc\n"
    assert not (site / "two/manifest.json.sig").exists()
    with pytest.raises(ServerError, match=r"has no file weights\.bin"):
        run("encrypt", site / "one", "--key", site / "model.key", "--output", site / "x", "--only", "weights.bin")
    with pytest.raises(ServerError, match="is encrypted already"):
        run("encrypt", site / "two", "--key", site / "model.key", "--output", site / "x")
    assert not (site / "x").exists()
    run("sign", site / "two", "--signing-key", site / "sign.key")
    assert run("verify", site / "two", "--public-key", site / "sign.key.pub") == 0


def test_a_model_whose_weights_cannot_be_kept_secret(site: Path) -> None:
    external_model(site / "m.onnx", subgraph=True)
    weights: list[str | Path] = ["--file", site / "weights.bin"]
    run("new", "--model", site / "m.onnx", "--name", "m", "--version", "1", "--output", site / "one", *weights)
    with pytest.raises(ServerError, match="which ONNX Runtime takes from the disk only"):
        run("encrypt", site / "one", "--key", site / "model.key", "--output", site / "two")
    assert not (site / "two").exists()


def test_a_passphrase_protects_the_signing_key(site: Path) -> None:
    (site / "passphrase").write_text("correct horse\n")
    (site / "wrong").write_text("battery staple\n")
    (site / "empty").write_text("\n")
    run("keys", "--signing", site / "safe.key", "--passphrase-file", site / "passphrase")
    assert b"ENCRYPTED" in (site / "safe.key").read_bytes()
    package = make(site)
    sign = partial(run, "sign", package, "--signing-key", site / "safe.key")
    assert sign("--passphrase-file", site / "passphrase") == 0
    assert run("verify", package, "--public-key", site / "safe.key.pub") == 0
    with pytest.raises(ServerError, match="or a wrong passphrase") as caught:
        sign("--passphrase-file", site / "wrong")
    assert "battery" not in str(caught.value)
    with pytest.raises(ServerError, match="needs its passphrase: give --passphrase-file"):
        sign()
    with pytest.raises(ServerError, match="holds no passphrase"):
        sign("--passphrase-file", site / "empty")
    with pytest.raises(ServerError, match="none cannot be read"):
        sign("--passphrase-file", site / "none")
    with pytest.raises(ServerError, match=r"sign\.key has no passphrase"):
        run("sign", package, "--signing-key", site / "sign.key", "--passphrase-file", site / "passphrase")


def test_what_is_not_proper_is_not_made(site: Path) -> None:
    (site / "serving.yml").write_text("{tags: public}")
    with pytest.raises(ServerError, match=r"serving\.tags: must be a list of tags, not text"):
        make(site)
    (site / "serving.yml").write_text("{pipeline: {outputs: [{output: z}]}}")
    with pytest.raises(ServerError, match="'z' is no output of the model, which has y, total"):
        make(site)
    (site / "serving.yml").write_text("{")
    with pytest.raises(ServerError, match=r"serving\.yml is not valid YAML"):
        make(site)
    (site / "serving.yml").write_text("{}")
    (site / "golden.json").write_text("{}")
    with pytest.raises(ServerError, match="must hold a list 'requests'"):
        make(site)
    (site / "golden.json").write_text(json.dumps({"requests": DOUBLING_GOLDEN}))
    with pytest.raises(ServerError, match="has a file of that name already"):
        make(site, "one", "--file", site / "labels.txt")
    (site / "m.onnx").rename(site / "real.onnx")
    (site / "m.onnx").write_text("no model")
    with pytest.raises(ServerError, match="ONNX Runtime cannot load"):
        make(site)
    (site / "real.onnx").rename(site / "m.onnx")
    assert not (site / "one").exists()
    make(site)
    with pytest.raises(ServerError, match="is there already: a version of a model never changes its content"):
        make(site)
    with pytest.raises(ServerError, match="--name: 'a/b' may only hold letters"):
        run("new", "--model", site / "m.onnx", "--name", "a/b", "--version", "1", "--output", site / "x")
    assert not list(site.glob(".making-*"))


def test_damage_is_found(site: Path) -> None:
    package = make(site)
    run("keys", "--signing", site / "other.key")
    with pytest.raises(ServerError, match="signed with another key"):
        run("verify", package, "--public-key", site / "other.key.pub")
    assert run("verify", package, "--public-key", site / "other.key.pub", "--public-key", site / "sign.key.pub") == 0
    (package / "labels.txt").write_text("x\n")
    with pytest.raises(ServerError, match=r"labels\.txt has SHA-256"):
        run("verify", package, "--public-key", site / "sign.key.pub")
    with pytest.raises(ServerError, match=r"labels\.txt has SHA-256"):
        run("sign", package, "--signing-key", site / "sign.key")
    (package / "manifest.json").unlink()
    with pytest.raises(ServerError, match=r"is not a model package: manifest\.json: No such file"):
        run("show", package)
