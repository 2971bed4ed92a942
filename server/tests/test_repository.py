# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ai102_server.codec import DATATYPES
from ai102_server.errors import ModelError
from ai102_server.repository import (
    Batching,
    ModelPackage,
    Serving,
    compare_tensors,
    load_golden,
    load_public_keys,
    open_package,
)
from toolkit import DOUBLING_GOLDEN, Signer, doubling_model


@pytest.fixture
def package(signer: Signer) -> Path:
    declared = [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}]
    return Path(signer.package("m", "1", doubling_model, DOUBLING_GOLDEN, inputs=declared)["path"])


def opened(path: Path, signer: Signer, name: str = "m", version: str = "1") -> ModelPackage:
    return open_package(path, name, version, load_public_keys(signer.public_key))


def test_good_package(package: Path, signer: Signer) -> None:
    found = opened(package, signer)
    assert found.model_file == package / "model.onnx"
    assert found.golden_file == package / "golden.json"
    assert found.signed
    assert found.inputs is not None
    assert found.inputs[0].shape == (-1, 3)
    assert found.outputs is None


def test_without_a_key_hashes_are_still_verified(package: Path) -> None:
    (package / "manifest.json.sig").unlink()
    assert not open_package(package, "m", "1", None).signed
    (package / "golden.json").write_text("{}")
    with pytest.raises(ModelError, match=r"golden\.json has SHA-256 .* it is damaged"):
        open_package(package, "m", "1", None)


def corrupt_model(path: Path) -> None:
    raw = bytearray((path / "model.onnx").read_bytes())
    raw[len(raw) // 2] ^= 1
    (path / "model.onnx").write_bytes(raw)


def append_to_manifest(path: Path) -> None:
    (path / "manifest.json").write_bytes((path / "manifest.json").read_bytes() + b" ")


def foreign_signature(path: Path) -> None:
    other = Signer(path.parent)
    (path / "manifest.json.sig").write_bytes(base64.b64encode(other.key.sign((path / "manifest.json").read_bytes())))


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (corrupt_model, r"model\.onnx has SHA-256 \w+, the manifest says \w+: it is damaged"),
        (append_to_manifest, r"the signature of manifest\.json is wrong"),
        (foreign_signature, r"the signature of manifest\.json is wrong"),
        (lambda p: (p / "manifest.json.sig").unlink(), r"manifest\.json\.sig cannot be read: No such file"),
        (lambda p: (p / "manifest.json.sig").write_text("%%"), r"the signature of manifest\.json is wrong"),
        (lambda p: (p / "manifest.json.sig").write_text(""), r"the signature of manifest\.json is wrong"),
        (lambda p: (p / "manifest.json").unlink(), r"manifest\.json cannot be read: No such file"),
        (lambda p: (p / "model.onnx").unlink(), r"model\.onnx cannot be read: No such file"),
        (lambda p: (p / "extra.bin").write_text("x"), r"extra\.bin is not listed in manifest\.json: remove it"),
    ],
)
def test_damage_is_found(package: Path, signer: Signer, damage: Callable[[Path], Any], expected: str) -> None:
    damage(package)
    with pytest.raises(ModelError, match=expected):
        opened(package, signer)


def test_any_of_several_keys_may_have_signed(package: Path, signer: Signer, tmp_path: Path) -> None:
    own = signer.public_key.read_text()
    (tmp_path / "other").mkdir()
    other = Signer(tmp_path / "other").public_key.read_text()
    both = tmp_path / "both.pem"
    both.write_text(f"the old one\n{other}\n# the new one\n{own}")
    assert len(load_public_keys(both)) == 2
    assert open_package(package, "m", "1", load_public_keys(both)).signed
    both.write_text(other)
    with pytest.raises(ModelError, match="signed with another key"):
        open_package(package, "m", "1", load_public_keys(both))
    with pytest.raises(ModelError, match="signed with another key"):
        open_package(package, "m", "1", [])


SERVING = {
    "batching": {"enabled": "auto", "max_size": 32, "preferred_sizes": [16, 8]},
    "instances": 2,
    "padding": {"ids": 0, "text": ""},
    "tags": ["ocr", "tenant:clinic"],
    "pipeline": {"inputs": []},
}


def test_settings_of_the_model(package: Path, signer: Signer) -> None:
    assert opened(package, signer).serving == Serving()
    manifest = json.loads((package / "manifest.json").read_bytes())
    signer.seal(package, {**manifest, "serving": SERVING})
    found = opened(package, signer)
    assert found.serving == Serving(
        batching=Batching(enabled=None, max_size=32, preferred_sizes=(8, 16)),
        instances=2,
        padding={"ids": 0, "text": ""},
        tags=frozenset({"ocr", "tenant:clinic"}),
        pipeline={"inputs": []},
    )
    assert found.tags == {"ocr", "tenant:clinic"}
    signer.seal(package, {**manifest, "serving": {"batching": {"enabled": False, "max_size": 1}, "instances": 1}})
    assert opened(package, signer).serving == Serving(batching=Batching(enabled=False, max_size=1), instances=1)


def test_all_mistakes_in_the_settings_are_reported_at_once(package: Path, signer: Signer) -> None:
    manifest = json.loads((package / "manifest.json").read_bytes())
    serving = {
        "batching": {"enabled": "maybe", "max_size": 4, "preferred_sizes": [8], "size": 1},
        "instances": 0,
        "padding": {"x": [1]},
        "tags": "ocr",
        "pipeline": [],
        "tag": [],
    }
    signer.seal(package, {**manifest, "serving": serving})
    with pytest.raises(ModelError) as caught:
        opened(package, signer)
    for expected in (
        'serving.batching.enabled: must be true, false or "auto", not text',
        "serving.batching.preferred_sizes: holds a size over max_size (4)",
        "serving.batching.size: unknown key; did you mean 'max_size'?",
        "serving.instances: 0 is out of range, must be 1 to 64",
        "serving.padding: 'x' must be filled with a number, true, false or text, not a list",
        "serving.tags: must be a list of tags, not text",
        "serving.pipeline: must be a mapping of inputs and outputs, not a list",
        "serving.tag: unknown key; did you mean 'tags'?",
    ):
        assert expected in str(caught.value)


def test_package_of_another_model_is_refused(package: Path, signer: Signer) -> None:
    with pytest.raises(ModelError, match="the package is of model 'm' version '1'"):
        opened(package, signer, version="2")
    with pytest.raises(ModelError, match="the package is of model 'm' version '1'"):
        opened(package, signer, name="n")


ENTRY = {"path": "model.onnx", "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"schema": 2}, "is not of schema 1"),
        ({"files": []}, "lists no files"),
        ({"files": [{**ENTRY, "path": "../model.onnx"}]}, "without a proper relative path"),
        ({"files": [{**ENTRY, "path": "/etc/passwd"}]}, "without a proper relative path"),
        ({"files": [{**ENTRY, "path": "./model.onnx"}]}, "without a proper relative path"),
        ({"files": [{"path": "model.onnx"}]}, "without a proper relative path and sha256"),
        ({"files": ["model.onnx"]}, "without a proper relative path and sha256"),
        ({"model": "other.onnx"}, "names 'other.onnx' as its model, but does not list that file"),
        ({"golden": "other.json"}, "names 'other.json' as its golden answers"),
        ({"inputs": [{"name": "x", "datatype": "FLOAT", "shape": []}]}, "without a proper name, datatype and shape"),
        ({"inputs": {"x": 1}}, "without a proper name, datatype and shape"),
    ],
)
def test_signed_nonsense_is_refused(package: Path, signer: Signer, changes: dict[str, Any], expected: str) -> None:
    manifest = json.loads((package / "manifest.json").read_bytes())
    signer.seal(package, {**manifest, **changes})
    with pytest.raises(ModelError, match=expected):
        opened(package, signer)


def test_public_key(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    with pytest.raises(ModelError, match="cannot be read"):
        load_public_keys(path)
    path.write_text("no key")
    with pytest.raises(ModelError, match="is not a public key"):
        load_public_keys(path)
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    path.write_bytes(key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(ModelError, match="is not an Ed25519 key"):
        load_public_keys(path)


# --------------------------------------------------------------------------------------------------------------------
# Golden answers
# --------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "are not valid JSON"),
        ("[]", "must hold a list 'requests'"),
        ('{"requests": []}', "must hold a list 'requests'"),
        ('{"requests": [1]}', r"requests\[0\] has no 'request'"),
        ('{"requests": [{"request": {}}]}', r"requests\[0\] has no 'response' with outputs, so it proves nothing"),
        ('{"requests": [{"request": {}, "response": {"outputs": []}}]}', "proves nothing"),
        ('{"requests": [{"request": {}, "response": {"outputs": [{}]}, "tolerance": -1}]}', "tolerance must be"),
        ('{"requests": [{"request": {}, "response": {"outputs": [{}]}, "tolerance": "1"}]}', "tolerance must be"),
    ],
)
def test_malformed_golden_answers(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "golden.json"
    path.write_text(text)
    with pytest.raises(ModelError, match=expected):
        load_golden(path)


def differs(datatype: str, recorded: list[Any], computed: list[Any], tolerance: float = 0.001) -> str | None:
    array = np.array(computed, dtype=DATATYPES[datatype].dtype)
    expected = {"name": "y", "shape": [len(computed)], "datatype": datatype, "data": recorded}
    return compare_tensors(expected, array, DATATYPES[datatype], tolerance)


@pytest.mark.parametrize(
    ("datatype", "recorded", "computed", "same"),
    [
        ("FP32", [1.0, 2.0], [1.0009, 1.9981], True),
        ("FP32", [1.0, 2.0], [1.002, 2.0], False),
        ("FP32", [1000.0], [1000.9], True),
        ("FP32", [1000.0], [1001.1], False),
        ("FP32", [0.0], [0.0009], True),
        ("FP32", [None], [float("nan")], True),
        ("FP32", [None], [float("inf")], True),
        ("FP32", [None], [1.0], False),
        ("FP32", [1.0], [float("nan")], False),
        ("FP32", [[1.0], [2.0]], [1.0, 2.0], True),
        ("INT64", [1000], [1000], True),
        ("INT64", [1000], [1001], False),
        ("INT64", [None], [1], False),
        ("BOOL", [True], [True], True),
        ("BOOL", [True], [False], False),
        ("BYTES", ["a"], ["a"], True),
        ("BYTES", ["a"], ["b"], False),
        ("FP32", [1.0, 2.0], [1.0], False),
        ("FP32", ["x"], [1.0], False),
    ],
)
def test_comparison(datatype: str, recorded: list[Any], computed: list[Any], same: bool) -> None:
    assert (differs(datatype, recorded, computed) is None) is same


def test_differences_in_words() -> None:
    text = differs("FP32", [1, 1, 1, 1, 1], [1, 2, 2, 2, 2])
    assert text == (
        "output 'y': 4 of 5 elements differ (tolerance 0.001): "
        "[1] 2.0 instead of 1.0, [2] 2.0 instead of 1.0, [3] 2.0 instead of 1.0, …"
    )
    array = np.zeros((1, 2), np.float32)
    wrong_type = {"name": "y", "shape": [1, 2], "datatype": "FP64", "data": [0, 0]}
    assert "has datatype FP32, expected FP64" in str(compare_tensors(wrong_type, array, DATATYPES["FP32"], 0))
    wrong_shape = {"name": "y", "shape": [2], "datatype": "FP32", "data": [0, 0]}
    assert "has shape [1, 2], expected [2]" in str(compare_tensors(wrong_shape, array, DATATYPES["FP32"], 0))
