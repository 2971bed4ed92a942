# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Making model packages on the control node."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import struct
import typing as t
from pathlib import Path

import pytest

pytest.importorskip("cryptography")
onnx = pytest.importorskip("onnx")

from ansible_collections.ai102.inference.plugins.module_utils import _onnx  # noqa: E402 - after importorskip
from ansible_collections.ai102.inference.plugins.module_utils._manifest import (  # noqa: E402 - after importorskip
    PackageError,
    canonical,
    verify_package,
)
from ansible_collections.ai102.inference.plugins.module_utils._model_package import (  # noqa: E402 - after importorskip
    Packager,
    SigningKey,
)
from ansible_collections.ai102.inference.plugins.module_utils._sealing import (  # noqa: E402 - after importorskip
    EncryptionKey,
    key_id,
)


def _model(path: Path, weight: float = 2.0) -> Path:
    content = struct.pack("<2f", weight, weight)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Mul", ["x", "w"], ["y"])],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 2])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 2])],
        [onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [1, 2], content, raw=True)],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))
    return path


def _golden(path: Path) -> Path:
    request = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}
    response = {"outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [2, 4]}]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"requests": [{"request": request, "response": response}]}))
    return path


class Site:
    """A control node with a model of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.model = _model(root / "models/m.onnx")
        self.golden = _golden(root / "models/m.json")
        self.fetched: dict[str, dict[str, str]] = {}
        self.trusted: list[str] = []
        self.opened: list[str] = []

    def entry(self, **changes: t.Any) -> dict[str, t.Any]:
        """Return an entry of ``ai102_models``."""
        base = {"name": "demo", "version": "1", "source": {"path": str(self.model)}, "golden": str(self.golden)}
        return {**base, **changes}

    def packager(self, cache: str = "cache", passphrase: str = "a passphrase", dry: bool = False) -> Packager:
        """Return what makes packages."""
        key = SigningKey(self.root / "secrets/model_signing.key", passphrase)
        encryption = EncryptionKey(self.root / "secrets/model_encryption.key", passphrase)
        shipped = self.root / "shipped"
        return Packager(self.root / cache, key, self.trusted, self.fetched, shipped, encryption, self.opened, dry=dry)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_package_is_made_signed_and_complete(site: Site) -> None:
    package = site.packager().package(site.entry(config={"labels": ["a"]}, licence="MIT"))
    assert package.path is not None
    manifest = verify_package(package.path, [(site.root / "secrets/model_signing.pub").read_text()], "demo", "1")
    assert sorted(entry.name for entry in package.path.iterdir()) == [
        "config.json", "golden.json", "manifest.json", "manifest.json.sig", "model.onnx",
    ]  # fmt: skip
    assert manifest["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
    assert (manifest["licence"], manifest["source"], manifest["config"]) == ("MIT", "m.onnx", "config.json")
    assert json.loads((package.path / "config.json").read_text()) == {"labels": ["a"]}


def test_settings_of_the_server_are_signed_with_the_model(site: Site) -> None:
    serving = {"tags": ["public"], "pipeline": {"outputs": [{"output": "y", "steps": ["softmax"]}]}}
    package = site.packager().package(site.entry(serving=serving))
    assert package.path is not None
    manifest = verify_package(package.path, [(site.root / "secrets/model_signing.pub").read_text()], "demo", "1")
    assert manifest["serving"] == serving
    # Without them the manifest is what it always was, and other settings make another package.
    plain = site.packager().package(site.entry(version="2"))
    assert plain.path is not None
    assert "serving" not in json.loads((plain.path / "manifest.json").read_text())
    changed = site.packager().package(site.entry(serving={"tags": []}))
    assert changed.manifest_sha256 != package.manifest_sha256
    with pytest.raises(PackageError, match="serving must be a dictionary"):
        site.packager().package(site.entry(serving="public"))


def test_the_key_is_made_once_encrypted_and_private(site: Site) -> None:
    site.packager().keys()
    key = site.root / "secrets/model_signing.key"
    content = key.read_bytes()
    assert b"ENCRYPTED" in content
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.parent.stat().st_mode & 0o777 == 0o700
    site.packager().keys()
    assert key.read_bytes() == content


def test_the_same_content_makes_the_same_package_on_any_day(site: Site) -> None:
    first = site.packager("one").package(site.entry())
    os.utime(site.model, (1, 1))
    second = site.packager("two").package(site.entry())
    assert first.path is not None
    assert second.path is not None
    assert first.manifest_sha256 == second.manifest_sha256
    for name in ("manifest.json", "manifest.json.sig"):
        assert (first.path / name).read_bytes() == (second.path / name).read_bytes()


def test_nothing_is_made_again_when_nothing_changed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    first = site.packager().package(site.entry())
    monkeypatch.setattr(_onnx, "model_facts", lambda path: pytest.fail("read the model again"))
    # Neither the passphrase nor the model is needed to see that.
    assert site.packager(passphrase="forgotten").package(site.entry()) == first


@pytest.mark.parametrize("change", ["model", "golden", "config", "licence"])
def test_whatever_changes_makes_another_package(site: Site, change: str) -> None:
    first = site.packager().package(site.entry())
    entry = site.entry()
    if change == "model":
        _model(site.model, 3.0)
    elif change == "golden":
        site.golden.write_text(site.golden.read_text() + "\n")
    else:
        entry[change] = {"labels": []} if change == "config" else "MIT"
    assert site.packager().package(entry).manifest_sha256 != first.manifest_sha256


def test_a_package_that_was_damaged_in_the_cache_is_made_again(site: Site) -> None:
    first = site.packager().package(site.entry())
    assert first.path is not None
    (first.path / "model.onnx").write_bytes(b"")
    second = site.packager().package(site.entry())
    assert second.path is not None
    verify_package(second.path, site.packager().keys())
    assert second == first


def test_check_mode_finds_mistakes_and_writes_nothing(site: Site) -> None:
    before = sorted(site.root.rglob("*"))
    package = site.packager(dry=True).package(site.entry())
    assert package.path is None
    assert len(package.manifest_sha256) == 64
    with pytest.raises(PackageError, match="no golden answers"):
        site.packager(dry=True).package(site.entry(golden=None))
    assert sorted(site.root.rglob("*")) == before


def test_a_model_of_the_lock_comes_with_its_golden_answers(site: Site) -> None:
    site.fetched["thing"] = {"path": str(site.model), "licence": "Apache-2.0", "origin": "wheel 1.0: m.onnx"}
    _golden(site.root / "shipped/golden/thing.json")
    entry = {"name": "demo", "version": "1", "source": {"lock": "thing"}}
    package = site.packager().package(entry)
    assert package.path is not None
    manifest = json.loads((package.path / "manifest.json").read_text())
    assert (manifest["licence"], manifest["source"]) == ("Apache-2.0", "wheel 1.0: m.onnx")


def test_a_model_of_the_lock_that_is_not_fetched_yet_is_predicted(site: Site) -> None:
    site.fetched["thing"] = {"path": "", "licence": "", "origin": ""}
    package = site.packager(dry=True).package({"name": "demo", "version": "1", "source": {"lock": "thing"}})
    assert (package.path, package.manifest_sha256) == (None, "")


def test_a_directory_brings_all_its_files(site: Site) -> None:
    _model(site.root / "dir/model.onnx")
    _golden(site.root / "dir/golden.json")
    (site.root / "dir/labels").mkdir()
    (site.root / "dir/labels/en.txt").write_text("cat\n")
    (site.root / "dir/manifest.json").write_text("an old one")
    package = site.packager().package(site.entry(source={"path": str(site.root / "dir")}, golden=None))
    assert package.path is not None
    assert (package.path / "labels/en.txt").read_text() == "cat\n"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"source": {}}, "exactly one of lock, path, package"),
        ({"source": {"path": "a", "lock": "b"}}, "exactly one"),
        ({"source": {"url": "https://x"}}, "exactly one"),
        ({"source": {"lock": "unknown"}}, "'unknown' was not fetched"),
        ({"source": {"path": "/nowhere.onnx"}}, "cannot be made of /nowhere.onnx: no such file"),
        ({"golden": None}, "has no golden answers"),
        ({"golden": "/nowhere.json"}, "golden.json cannot be made of"),
        ({"versoin": "2"}, "unknown keys versoin"),
        ({"name": "A"}, "model name 'A'"),
    ],
)
def test_mistakes_are_explained(site: Site, changes: dict[str, t.Any], problem: str) -> None:
    with pytest.raises(PackageError, match=problem):
        site.packager().package(site.entry(**changes))


def test_a_file_that_is_no_model_is_explained(site: Site) -> None:
    site.model.write_bytes(b"garbage")
    with pytest.raises(PackageError, match="model demo 1: .*is not an ONNX model"):
        site.packager().package(site.entry())
    assert [entry.name for entry in (site.root / "cache/models").glob("*/demo/*")] == [".lock"]


def test_golden_answers_that_are_not_json_are_explained(site: Site) -> None:
    site.golden.write_text("{")
    with pytest.raises(PackageError, match="model demo 1: .* is not JSON"):
        site.packager().package(site.entry())


def test_a_wrong_passphrase_is_refused_when_something_must_be_signed(site: Site) -> None:
    site.packager().package(site.entry())
    with pytest.raises(PackageError, match="cannot be opened"):
        site.packager(passphrase="a wrong one").package(site.entry(version="2"))
    assert not list((site.root / "cache/models").glob("*/demo/2-*"))


def test_a_short_passphrase_makes_no_key(site: Site) -> None:
    with pytest.raises(PackageError, match="8 characters"):
        site.packager(passphrase="short").package(site.entry())
    assert not (site.root / "secrets").exists()


def test_a_public_key_that_does_not_belong_to_the_private_one_is_found(site: Site) -> None:
    site.packager().keys()
    other = Site(site.root / "other")
    other.packager().keys()
    (site.root / "secrets/model_signing.pub").write_text((other.root / "secrets/model_signing.pub").read_text())
    with pytest.raises(PackageError, match="signature of manifest.json is wrong"):
        site.packager().package(site.entry())


def test_a_ready_made_package_is_taken_from_who_is_trusted_only(site: Site) -> None:
    vendor = Site(site.root / "vendor")
    made = vendor.packager().package(vendor.entry(name="bought"))
    entry = {"name": "bought", "version": "1", "source": {"package": str(made.path)}}
    with pytest.raises(PackageError, match="key that is not trusted"):
        site.packager().package(entry)
    site.trusted.append((vendor.root / "secrets/model_signing.pub").read_text())
    assert site.packager().package(entry) == made
    assert len(site.packager().keys()) == 2
    assert made.path is not None
    (made.path / "model.onnx").write_bytes(b"tampered")
    with pytest.raises(PackageError, match="model bought 1: model.onnx has sha256"):
        site.packager().package(entry)


def test_sites_that_share_a_cache_do_not_change_each_others_packages(site: Site) -> None:
    first = site.packager().package(site.entry())
    other = Site(site.root / "another")
    other.model, other.golden = site.model, site.golden
    second = other.packager(cache="../cache").package(site.entry())
    assert first.manifest_sha256 == second.manifest_sha256
    for package, secrets in ((first, site.root), (second, other.root)):
        assert package.path is not None
        verify_package(package.path, [(secrets / "secrets/model_signing.pub").read_text()], "demo", "1")


def test_an_encrypted_package_keeps_the_model_secret_and_the_golden_answers_readable(site: Site) -> None:
    entry = site.entry(encrypted=True, config={"labels": ["a"]})
    package = site.packager().package(entry)
    assert package.path is not None
    manifest = verify_package(package.path, [(site.root / "secrets/model_signing.pub").read_text()], "demo", "1")
    files = {file["path"]: file for file in manifest["files"]}
    assert [path for path, file in files.items() if "encryption" in file] == ["model.onnx"]
    clear, sealed = site.model.read_bytes(), (package.path / "model.onnx").read_bytes()
    assert files["model.onnx"]["encryption"] == {
        "scheme": "aes256-gcm-hkdf-stream",
        "key": key_id(EncryptionKey(site.root / "secrets/model_encryption.key", "a passphrase").key()),
        "segment": 1 << 20,
        "sha256": hashlib.sha256(clear).hexdigest(),
        "size": len(clear),
    }
    assert len(sealed) == len(clear) + 40 + 16
    assert clear[:16] not in sealed
    assert json.loads((package.path / "golden.json").read_text()) == json.loads(site.golden.read_text())
    assert json.loads((package.path / "config.json").read_text()) == {"labels": ["a"]}
    # A version never changes, so whoever has the key makes the same package again.
    assert site.packager("another").package(entry).manifest_sha256 == package.manifest_sha256
    dry = site.packager("a third", dry=True).package(entry)
    assert (dry.path, dry.manifest_sha256) == (None, package.manifest_sha256)
    assert not (site.root / "a third").exists()
    assert not list((site.root / "cache/models").glob("**/.*ing-*"))


def test_check_mode_makes_no_key(site: Site) -> None:
    assert site.packager(dry=True).package(site.entry(encrypted=True)).path is None
    assert not (site.root / "secrets").exists()


def test_without_encryption_there_is_no_key_for_it(site: Site) -> None:
    site.packager().package(site.entry())
    assert not (site.root / "secrets/model_encryption.key").exists()


@pytest.mark.parametrize(
    ("sealed", "opened", "words"),
    [
        ("model.onnx", [], "model.onnx is encrypted with key 00ff, which is not one of model_store_decryption_keys"),
        ("golden.json", ["00ff"], "--only model.onnx"),
        ("model.onnx", ["00ff"], ""),
    ],
)
def test_an_encrypted_package_of_a_vendor_needs_its_key_and_readable_golden_answers(
    site: Site, tmp_path: Path, sealed: str, opened: list[str], words: str
) -> None:
    made = site.packager().package(site.entry())
    assert made.path is not None
    path = tmp_path / "bought"
    shutil.copytree(made.path, path)
    manifest = json.loads((path / "manifest.json").read_text())
    for file in manifest["files"]:
        if file["path"] == sealed:
            file["encryption"] = {"key": "00ff"}
    data = canonical(manifest)
    (path / "manifest.json").write_bytes(data)
    (path / "manifest.json.sig").write_text(site.packager().key.sign(data))
    site.opened = opened
    entry = {"name": "demo", "version": "1", "source": {"package": str(path)}}
    if not words:
        assert site.packager().package(entry).path == path
        return
    with pytest.raises(PackageError, match=re.escape(words)):
        site.packager().package(entry)


def test_only_packages_made_here_are_encrypted_here(site: Site) -> None:
    entry = {"name": "demo", "version": "1", "source": {"package": "/somewhere"}}
    with pytest.raises(PackageError, match="`ai102-server package encrypt`"):
        site.packager().package({**entry, "encrypted": True})
    with pytest.raises(PackageError, match="must be true or false"):
        site.packager().package(site.entry(encrypted="yes"))
