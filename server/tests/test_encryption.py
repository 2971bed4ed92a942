# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Encrypted model packages: the format, its keys, and packages that were tampered with."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from ai102_server.errors import ModelError
from ai102_server.repository import KeyRing, ModelPackage, load_keys, load_public_keys, open_package
from ai102_server.repository.encryption import (
    SCHEME,
    associated_data,
    decrypt,
    encrypt,
    key_id,
    load_key,
    read_credential,
)
from ai102_server.repository.external import external_files
from toolkit import DOUBLING_GOLDEN, Signer, doubling_model, save_model

KEY = bytes(range(32))
OTHER = bytes(range(1, 33))
BOUND = associated_data("m", "1", "model.onnx")
SEGMENT = 64
HEADER = 40


# --------------------------------------------------------------------------------------------------------------------
# Format
# --------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("length", "sealed"),
    [
        (8, "KEB3ETgt5MceLPuMWmeLb4YQlHUoGdNJ7Uapuq/t7fOZ2VtdwQchhECnXPA4ieZk/peEIb1bQBzgEbZ+runBJQ=="),
        (
            30,
            "KI4CT9lx51BG4slZXa0yTqgCPv5em/tyCBucz4t8dSr+vEJq7t185B1OnhQw9xZ0LYQmVPXvnAujIYyjhnOl2nAcT3x1+oCBr7xBFMkSb3Rj"
            "oJ/NH1W2LfojdZdBobAWjWIooGxc",
        ),
        (
            104,
            "KImUXClZtclqD9Ik/wHCeEkxbvaezNjJ4pG/hRphEXQECg2IUajO/RMHucl5Q2AMNGkkAYnSsLn/E2NajmdZxxzn9YeOT2+gfcffdwZjOJXO"
            "v0zCE43ZB7MNnVCzvBtURL7Qu97RzkmxDi3xul0y/ChavQxgoJEvEkAuOhOm8l3SYwlBC2Y6pD6yn9h0ErfB+gUuR+6mbtUWB5kAwjv9tQxH"
            "sAKKDNjjazOZdwN0qxUl545d7tSamrY5IZJRGTgP",
        ),
    ],
)
def test_reads_what_tink_wrote(length: int, sealed: str) -> None:
    # Made with the Python package tink 1.13 (AesGcmHkdfStreamingKey: SHA256, 32-byte derived key, 64-byte segments, key
    # bytes 0…31, RAW prefix) from the bytes 0…length-1; 8 fills the first segment exactly, 104 the third. Tink also
    # read what `encrypt` wrote, at ten lengths around the borders of segments of 4 KiB and 1 MiB.
    assert decrypt(base64.b64decode(sealed), KEY, BOUND, SEGMENT) == bytes(range(length))


@given(st.binary(max_size=400), st.integers(57, 200))
def test_what_is_sealed_opens(content: bytes, segment: int) -> None:
    sealed = encrypt(content, KEY, BOUND, segment)
    assert decrypt(sealed, KEY, BOUND, segment) == content
    # Nothing of the content shows, and no two files share salt or nonce.
    assert len(content) < 8 or content not in sealed
    assert sealed[1:HEADER] != encrypt(content, KEY, BOUND, segment)[1:HEADER]


@given(st.binary(max_size=300), st.data())
def test_any_change_is_refused(content: bytes, data: st.DataObject) -> None:
    sealed = bytearray(encrypt(content, KEY, BOUND, SEGMENT))
    at = data.draw(st.integers(0, len(sealed) - 1))
    sealed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ValueError, match=r"was changed|is not an encrypted file"):
        decrypt(bytes(sealed), KEY, BOUND, SEGMENT)


@given(st.binary(max_size=300), st.data())
def test_any_cut_and_any_addition_is_refused(content: bytes, data: st.DataObject) -> None:
    sealed = encrypt(content, KEY, BOUND, SEGMENT)
    cut = sealed[: data.draw(st.integers(0, len(sealed) - 1))]
    more = sealed + data.draw(st.binary(min_size=1, max_size=200))
    for wrong in (cut, more):
        with pytest.raises(ValueError, match=r"was changed|is not an encrypted file"):
            decrypt(wrong, KEY, BOUND, SEGMENT)


def test_segments_cannot_be_cut_off_swapped_or_repeated() -> None:
    sealed = encrypt(bytes(8 + 4 * 48), KEY, BOUND, SEGMENT)
    assert len(sealed) == 5 * SEGMENT
    segments = [sealed[at : at + SEGMENT] for at in range(0, len(sealed), SEGMENT)]
    orders = [[0, 1, 2, 3], [0], [0, 2, 1, 3, 4], [0, 1, 1, 2, 3, 4], [0, 4], [0, 2, 3, 4], [0, 1, 2, 3, 4, 4]]
    assert decrypt(b"".join(segments), KEY, BOUND, SEGMENT)
    for order in orders:
        with pytest.raises(ValueError, match="was changed, cut off"):
            decrypt(b"".join(segments[number] for number in order), KEY, BOUND, SEGMENT)


@pytest.mark.parametrize(
    ("key", "bound"),
    [
        (OTHER, BOUND),
        (KEY, associated_data("n", "1", "model.onnx")),
        (KEY, associated_data("m", "2", "model.onnx")),
        (KEY, associated_data("m", "1", "other.onnx")),
    ],
)
def test_opens_with_its_key_and_at_its_place_only(key: bytes, bound: bytes) -> None:
    sealed = encrypt(b"model", KEY, BOUND)
    with pytest.raises(ValueError, match="was changed, cut off, or sealed with another key or for another place"):
        decrypt(sealed, key, bound)


# --------------------------------------------------------------------------------------------------------------------
# Keys
# --------------------------------------------------------------------------------------------------------------------
def key_file(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    "content",
    [
        KEY,
        KEY.hex().encode(),
        KEY.hex().upper().encode() + b"\n",
        base64.b64encode(KEY),
        b" " + base64.b64encode(KEY) + b"\r\n",
    ],
)
def test_forms_of_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    assert load_key(key_file(tmp_path / "key", content)) == KEY
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert read_credential("key") == KEY


@pytest.mark.parametrize(
    "content",
    [b"", KEY[:31], KEY + b"\n", KEY.hex().encode()[:-1], b"g" * 64, b"\xff" * 64, base64.b64encode(KEY[:31])],
)
def test_what_is_no_key(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ModelError, match="does not hold 32 bytes") as caught:
        load_key(key_file(tmp_path / "key", content))
    assert len(content) < 8 or content.decode("latin-1") not in str(caught.value)


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    for mode in (0o400, 0o600, 0o440, 0o640):
        assert load_key(key_file(tmp_path / "key", KEY, mode)) == KEY
        (tmp_path / "key").unlink()
    for mode in (0o604, 0o602, 0o660, 0o610, 0o644):
        with pytest.raises(ModelError, match=f"has mode 0{mode:o}: others can get at it"):
            load_key(key_file(tmp_path / "key", KEY, mode))
        (tmp_path / "key").unlink()


def test_keys_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="key cannot be read: No such file"):
        load_key(tmp_path / "key")
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(ModelError, match="systemd gave no credentials; add LoadCredentialEncrypted=model_key"):
        read_credential("model_key")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    with pytest.raises(ModelError, match="credential 'model_key' cannot be read: No such file"):
        read_credential("model_key")


def test_a_ring_of_keys_shows_ids_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    key_file(tmp_path / "new", OTHER)
    ring = load_keys([key_file(tmp_path / "old", KEY)], ["new"])
    assert ring.ids == (key_id(KEY), key_id(OTHER))
    assert ring.get(key_id(OTHER)) == OTHER
    assert repr(ring) == f"KeyRing({key_id(KEY)}, {key_id(OTHER)})"
    with pytest.raises(ValueError, match=f"is encrypted with key 0123, but the keys here are {key_id(KEY)}, "):
        ring.get("0123")
    with pytest.raises(ValueError, match="but there is no decryption key here"):
        KeyRing().get("0123")


# --------------------------------------------------------------------------------------------------------------------
# Packages
# --------------------------------------------------------------------------------------------------------------------
def seal_files(signer: Signer, path: Path, key: bytes, *names: str) -> None:
    """Encrypt files of a package and sign it again."""
    manifest = json.loads((path / "manifest.json").read_bytes())
    for entry in manifest["files"]:
        if entry["path"] in names:
            plain = (path / entry["path"]).read_bytes()
            bound = associated_data(manifest["name"], manifest["version"], entry["path"])
            sealed = encrypt(plain, key, bound, 4096)
            (path / entry["path"]).write_bytes(sealed)
            entry["encryption"] = {
                "scheme": SCHEME,
                "key": key_id(key),
                "segment": 4096,
                "sha256": entry["sha256"],
                "size": len(plain),
            }
            entry |= {"sha256": hashlib.sha256(sealed).hexdigest(), "size": len(sealed)}
    signer.seal(path, manifest)


def edit_entry(signer: Signer, path: Path, **changes: Any) -> None:
    manifest = json.loads((path / "manifest.json").read_bytes())
    for entry in manifest["files"]:
        if entry["path"] == "model.onnx":
            entry["encryption"].update(changes)
    signer.seal(path, manifest)


@pytest.fixture
def sealed(signer: Signer) -> Path:
    path = Path(signer.package("m", "1", doubling_model, DOUBLING_GOLDEN)["path"])
    seal_files(signer, path, KEY, "model.onnx", "golden.json")
    return path


def opened(signer: Signer, path: Path, *keys: bytes, version: str = "1") -> ModelPackage:
    return open_package(path, "m", version, load_public_keys(signer.public_key), KeyRing(keys))


def test_an_encrypted_model_runs_from_memory(signer: Signer, sealed: Path, tmp_path: Path) -> None:
    plain = doubling_model(tmp_path / "plain.onnx").read_bytes()
    package = opened(signer, sealed, OTHER, KEY)
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert package.encrypted
    assert package.model_sha256 == hashlib.sha256(plain).hexdigest()
    model = package.open_model()
    assert model == plain
    assert package.external_data(plain) == {}
    session = ort.InferenceSession(model)
    assert session.run(["total"], {"x": np.ones((1, 3), np.float32)})[0].tolist() == [6.0]
    assert package.read_golden()[0].outputs == tuple(DOUBLING_GOLDEN[0]["response"]["outputs"])
    # Nothing that was decrypted was written anywhere, and no key shows.
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == before
    assert KEY.hex() not in repr(package)


def test_a_plain_package_hands_its_path_over(signer: Signer) -> None:
    path = Path(signer.package("m", "1", doubling_model)["path"])
    package = opened(signer, path)
    assert not package.encrypted
    assert package.open_model() == path / "model.onnx"
    assert package.read_golden() == ()


def test_an_encrypted_package_is_verified_without_its_key(signer: Signer, sealed: Path) -> None:
    package = opened(signer, sealed)
    with pytest.raises(ModelError, match=rf"model\.onnx is encrypted with key {key_id(KEY)}, but there is no decryp"):
        package.open_model()
    with pytest.raises(ModelError, match=rf"but the keys here are {key_id(OTHER)}$"):
        opened(signer, sealed, OTHER).open_model()


def flip(path: Path) -> None:
    raw = bytearray((path / "model.onnx").read_bytes())
    raw[100] ^= 1
    (path / "model.onnx").write_bytes(raw)


@pytest.mark.parametrize(
    "damage",
    [flip, lambda path: (path / "model.onnx").write_bytes((path / "model.onnx").read_bytes()[:-1])],
)
def test_a_changed_file_is_refused_before_it_is_decrypted(
    signer: Signer, sealed: Path, damage: Callable[[Path], Any]
) -> None:
    package = opened(signer, sealed, KEY)
    damage(sealed)
    with pytest.raises(ModelError, match=r"model\.onnx has SHA-256 \w+, the manifest says \w+: it is damaged"):
        opened(signer, sealed, KEY)
    with pytest.raises(ModelError, match=r"model\.onnx has changed since it was verified"):
        package.open_model()


def test_a_file_of_another_version_is_refused_even_when_signed(signer: Signer, sealed: Path) -> None:
    other = Path(signer.package("m", "2", doubling_model)["path"])
    manifest = json.loads((other / "manifest.json").read_bytes())
    (other / "model.onnx").write_bytes((sealed / "model.onnx").read_bytes())
    entries = json.loads((sealed / "manifest.json").read_bytes())["files"]
    signer.seal(other, {**manifest, "files": [entry for entry in entries if entry["path"] == "model.onnx"]})
    with pytest.raises(ModelError, match="was changed, cut off, or sealed with another key or for another place"):
        opened(signer, other, KEY, version="2").open_model()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"scheme": "rot13"}, r"model\.onnx is encrypted by 'rot13', which is not aes256-gcm-hkdf-stream"),
        ({"segment": 0}, r"encryption of model\.onnx without a proper key, segment, sha256 and size"),
        ({"segment": 1 << 40}, "without a proper key, segment"),
        ({"segment": True}, "without a proper key, segment"),
        ({"key": 1}, "without a proper key, segment"),
        ({"sha256": "abc"}, "without a proper key, segment"),
        ({"size": "1"}, "without a proper key, segment"),
        ({"segment": 8192, "sha256": "0" * 64}, r"was decrypted, but is not the content the manifest describes"),
        ({"size": 1}, "was decrypted, but is not the content the manifest describes"),
    ],
)
def test_a_wrong_description_is_refused(signer: Signer, sealed: Path, changes: dict[str, Any], expected: str) -> None:
    edit_entry(signer, sealed, **changes)
    with pytest.raises(ModelError, match=expected):
        opened(signer, sealed, KEY).open_model()


# --------------------------------------------------------------------------------------------------------------------
# Weights in files of their own
# --------------------------------------------------------------------------------------------------------------------
def external_model(path: Path, *, subgraph: bool = False) -> Path:
    """``y = w x`` with ``w`` in the file ``weights.bin``; with ``subgraph``, ``w`` belongs to a branch."""
    weights = numpy_helper.from_array(np.full(300, 2, np.float32), "w")
    multiply = helper.make_node("Mul", ["x", "w"], ["y"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 300])
    branch = helper.make_graph([multiply], "branch", [], [y], [weights])
    graph = helper.make_graph(
        [helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)] if subgraph else [multiply],
        "external",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 300])],
        [y],
        [numpy_helper.from_array(np.array(True), "yes") if subgraph else weights],
    )
    save_model(graph, path)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=100)
    return path


def test_weights_in_another_file_are_handed_over_in_memory(
    signer: Signer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(signer.package("m", "1", external_model)["path"])
    seal_files(signer, path, KEY, "model.onnx", "weights.bin")
    package = opened(signer, path, KEY)
    model = package.open_model()
    assert isinstance(model, bytes)
    data = package.external_data(model)
    assert list(data) == ["weights.bin"]
    options = ort.SessionOptions()
    options.add_external_initializers_from_files_in_memory(
        list(data), list(data.values()), [len(content) for content in data.values()]
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    session = ort.InferenceSession(model, options)
    assert session.run(["y"], {"x": np.ones((1, 300), np.float32)})[0][0, 0] == 2.0


def test_weights_of_a_subgraph_in_another_file_are_refused(signer: Signer) -> None:
    # ONNX Runtime would look for them in the working directory.
    path = Path(signer.package("m", "1", partial(external_model, subgraph=True))["path"])
    seal_files(signer, path, KEY, "model.onnx")
    package = opened(signer, path, KEY)
    model = package.open_model()
    assert isinstance(model, bytes)
    with pytest.raises(
        ModelError, match=r"subgraph or an attribute in the file 'weights\.bin', which ONNX Runtime takes"
    ):
        package.external_data(model)


def test_weights_that_are_not_in_the_package_are_refused(signer: Signer) -> None:
    path = Path(signer.package("m", "1", external_model)["path"])
    (path / "weights.bin").unlink()
    manifest = json.loads((path / "manifest.json").read_bytes())
    signer.seal(path, {key: value for key, value in manifest.items() if key != "files"})
    package = opened(signer, path)
    with pytest.raises(ModelError, match=r"weights\.bin is not listed in manifest\.json"):
        package.external_data((path / "model.onnx").read_bytes())


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.binary(max_size=200))
def test_bytes_that_are_no_model(content: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert external_files(content) == ()


def test_weights_of_a_sparse_tensor_are_found() -> None:
    values = numpy_helper.from_array(np.ones(300, np.float32), "w")
    onnx.external_data_helper.set_external_data(values, "weights.bin")
    values.data_location = TensorProto.EXTERNAL
    indices = numpy_helper.from_array(np.arange(300, dtype=np.int64), "indices")
    for first, second in ((values, indices), (indices, values)):
        graph = onnx.GraphProto(name="g", sparse_initializer=[onnx.SparseTensorProto(values=first, indices=second)])
        with pytest.raises(
            ValueError, match=r"in the file 'weights\.bin', which ONNX Runtime takes from the disk only"
        ):
            external_files(helper.make_model(graph).SerializeToString())


def test_a_model_that_is_cut_off(tmp_path: Path) -> None:
    model = doubling_model(tmp_path / "m.onnx").read_bytes()
    assert external_files(model) == ()
    for end in range(1, len(model)):
        # Some ends are those of a field, and then it is a shorter model.
        with contextlib.suppress(ValueError):
            assert external_files(model[:end]) == ()
    # A field of 5 bytes with 2, one of a number without it, one of 4 bytes with none.
    for content in (b"\x0a\x05ab", b"\x08", b"\x0d"):
        with pytest.raises(ValueError, match="is cut off"):
            external_files(content)


def test_a_model_nested_without_end() -> None:
    # graph → node → attribute → graph → …, each with its length in front.
    content = b""
    for _ in range(100):
        for tag in (b"\x32", b"\x2a", b"\x0a"):
            size = len(content)
            content = tag + bytes(((size & 0x7F) | 0x80, (size >> 7 & 0x7F) | 0x80, size >> 14)) + content
    with pytest.raises(ValueError, match="nested too deeply"):
        external_files(b"\x3a" + bytes(((len(content) & 0x7F) | 0x80, len(content) >> 7)) + content)


def test_large_files_are_many_segments() -> None:
    content = os.urandom(3_000_000)
    sealed = encrypt(content, KEY, BOUND)
    assert len(sealed) == len(content) + HEADER + 3 * 16
    assert decrypt(sealed, KEY, BOUND) == content
