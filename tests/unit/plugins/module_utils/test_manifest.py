# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The manifest of a model package, its signature, and the verification of both."""

from __future__ import annotations

import base64
import json
import sys
import typing as t
from pathlib import Path

import pytest

pytest.importorskip("cryptography")

from ansible_collections.ai102.inference.plugins.module_utils import _manifest
from ansible_collections.ai102.inference.plugins.module_utils._content import sha256_of
from ansible_collections.ai102.inference.plugins.module_utils._manifest import (
    PackageError,
    canonical,
    check_golden,
    check_identity,
    generate_key,
    make_manifest,
    package_files,
    public_key_of,
    sign,
    signature_is_right,
    split_keys,
    verify_package,
)

INPUTS = [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
OUTPUTS = [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}]
KEY = generate_key("a passphrase")
PUBLIC = public_key_of(KEY, "a passphrase")
OTHER = public_key_of(generate_key("a passphrase"), "a passphrase")


def golden(**changes: t.Any) -> dict[str, t.Any]:
    """Return golden answers for ``y = 2 x``; ``changes`` go to the request's tensor."""
    return {
        "requests": [
            {
                "request": {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2], **changes}]},
                "response": {"outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [2, 4]}]},
            }
        ]
    }


@pytest.fixture
def package(tmp_path: Path) -> Path:
    path = tmp_path / "package"
    path.mkdir()
    (path / "model.onnx").write_bytes(b"model")
    (path / "golden.json").write_text(json.dumps(golden()))
    facts = {"inputs": INPUTS, "outputs": OUTPUTS, "opset": {}, "ir_version": 8, "producer": "", "external_files": []}
    files = {name: path / name for name in ("model.onnx", "golden.json")}
    data = canonical(make_manifest("demo", "1", files, facts, "Apache-2.0", "here"))
    (path / "manifest.json").write_bytes(data)
    (path / "manifest.json.sig").write_text(sign(data, KEY, "a passphrase"))
    return path


@pytest.mark.parametrize(
    ("name", "version"),
    [("Demo", "1"), ("../x", "1"), ("", "1"), (None, "1"), ("a", "../1"), ("a", ""), ("a", True), ("a-", "1")],
)
def test_names_and_versions_that_are_no_directory_names_are_refused(name: t.Any, version: t.Any) -> None:
    with pytest.raises(PackageError, match="may have"):
        check_identity(name, version)


def test_a_number_may_be_a_version() -> None:
    assert check_identity("text-line.orientation_2", 3) == ("text-line.orientation_2", "3")


def test_the_same_content_is_the_same_bytes() -> None:
    assert canonical({"b": 1, "a": "°"}) == canonical({"a": "°", "b": 1}) == '{\n "a": "°",\n "b": 1\n}\n'.encode()


def test_golden_answers_that_fit_pass() -> None:
    check_golden(golden(), INPUTS, OUTPUTS)


def test_with_a_pipeline_golden_answers_are_in_terms_of_clients() -> None:
    document = golden()
    document["requests"][0]["request"]["inputs"] = [{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["…"]}]
    with pytest.raises(PackageError, match="the model has no input 'image'"):
        check_golden(document, INPUTS, OUTPUTS)
    check_golden(document, None, None)
    document["requests"][0]["request"]["inputs"] = []
    with pytest.raises(PackageError, match="no request with inputs"):
        check_golden(document, None, None)


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ({}, "need a list `requests`"),
        ({"requests": []}, "at least one"),
        ({"requests": [{}]}, "golden request 1 has no request with inputs"),
        ({"requests": [{"request": golden()["requests"][0]["request"]}]}, "has no response with outputs"),
        (golden(name="z"), "the model has no input 'z': x"),
        (golden(datatype="INT64"), "input x is FP32, not INT64"),
        (golden(shape=[1, 3]), r"has shape \[1, 3\], the model wants \[-1, 2\]"),
        (golden(shape=[2]), r"has shape \[2\]"),
        (golden(shape=None), "has shape None"),
    ],
)
def test_golden_answers_that_do_not_fit_are_explained(document: t.Any, problem: str) -> None:
    with pytest.raises(PackageError, match=problem):
        check_golden(document, INPUTS, OUTPUTS)


def test_a_missing_input_of_a_golden_request_is_named() -> None:
    with pytest.raises(PackageError, match="golden request 1 lacks the inputs mask"):
        check_golden(golden(), [*INPUTS, {"name": "mask", "datatype": "INT64", "shape": [-1]}], OUTPUTS)


def test_a_right_package_is_verified(package: Path) -> None:
    assert verify_package(package, [OTHER, PUBLIC], "demo", "1")["licence"] == "Apache-2.0"


def _change_model(package: Path) -> None:
    (package / "model.onnx").write_bytes(b"MODEL")


def _change_manifest(package: Path) -> None:
    text = (package / "manifest.json").read_text()
    (package / "manifest.json").write_text(text.replace("Apache-2.0", "Apache-2.1"))


def _change_both(package: Path) -> None:
    old = sha256_of(package / "model.onnx")
    _change_model(package)
    text = (package / "manifest.json").read_text()
    (package / "manifest.json").write_text(text.replace(old, sha256_of(package / "model.onnx")))


def _add_file(package: Path) -> None:
    (package / "weights.bin").write_bytes(b"unsigned")


def _link_file(package: Path) -> None:
    (package / "model.onnx").rename(package.parent / "model.onnx")
    (package / "model.onnx").symlink_to(package.parent / "model.onnx")


def _remove_file(package: Path) -> None:
    (package / "golden.json").unlink()


def _remove_signature(package: Path) -> None:
    (package / "manifest.json.sig").unlink()


def _cut_signature(package: Path) -> None:
    (package / "manifest.json.sig").write_text(base64.b64encode(b"short").decode())


def _garble_signature(package: Path) -> None:
    (package / "manifest.json.sig").write_text("not base64!")


@pytest.mark.parametrize(
    ("tamper", "problem"),
    [
        (_change_model, "model.onnx has sha256 .* refused"),
        (_change_manifest, "signature of manifest.json is wrong"),
        (_change_both, "signature of manifest.json is wrong"),
        (_add_file, "weights.bin is not named"),
        (_link_file, "model.onnx is missing"),
        (_remove_file, "golden.json is missing"),
        (_remove_signature, "signature cannot be read"),
        (_cut_signature, "signature of manifest.json is wrong"),
        (_garble_signature, "signature of manifest.json is wrong"),
    ],
)
@pytest.mark.parametrize("how", ["cryptography", "openssl"])
def test_a_tampered_package_is_refused(
    package: Path, tamper: t.Callable[[Path], None], problem: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "openssl":
        _without_cryptography(monkeypatch)
    verify_package(package, [PUBLIC], "demo", "1")
    tamper(package)
    with pytest.raises(PackageError, match=f"model demo 1: .*{problem}"):
        verify_package(package, [PUBLIC], "demo", "1")


def _without_cryptography(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("cryptography")]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)


def test_a_key_that_is_not_trusted_is_refused(package: Path) -> None:
    for keys in ([OTHER], []):
        with pytest.raises(PackageError, match="key that is not trusted"):
            verify_package(package, keys)


def test_another_model_under_this_name_is_refused(package: Path) -> None:
    with pytest.raises(PackageError, match="model demo 2: the package is of model demo 1"):
        verify_package(package, [PUBLIC], "demo", "2")


def test_without_cryptography_and_openssl_nothing_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    _without_cryptography(monkeypatch)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(PackageError, match=r"install openssl 3\.0"):
        signature_is_right(b"x", base64.b64encode(bytes(64)).decode(), [PUBLIC])


def test_a_wrong_passphrase_is_said_so() -> None:
    with pytest.raises(PackageError, match="cannot be opened with ai102_secrets_passphrase"):
        sign(b"x", KEY, "another")


def test_the_private_key_is_encrypted() -> None:
    assert b"ENCRYPTED PRIVATE KEY" in KEY


def test_several_keys_in_one_text_are_split() -> None:
    assert split_keys(f"vendor:\n{OTHER}\nours:\n{PUBLIC}") == [OTHER, PUBLIC]
    assert _manifest.split_keys("nothing") == []


def test_all_files_of_a_package_are_delivered(package: Path) -> None:
    names = {entry["path"]: entry["size"] for entry in package_files(package)}
    assert names == {entry.name: entry.stat().st_size for entry in package.iterdir()}


def test_external_weights_must_be_there(package: Path) -> None:
    facts = {
        "inputs": INPUTS,
        "outputs": OUTPUTS,
        "opset": {},
        "ir_version": 8,
        "producer": "",
        "external_files": ["w.bin"],
    }
    files = {name: package / name for name in ("model.onnx", "golden.json")}
    with pytest.raises(PackageError, match=r"keeps weights in w\.bin, which is not there"):
        make_manifest("demo", "1", files, facts, "", "")
