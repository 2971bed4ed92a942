# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module ``model_store``: what it refuses, what it keeps, what it removes."""

from __future__ import annotations

import json
import os
import shutil
import types
import typing as t
from pathlib import Path

import pytest

pytest.importorskip("cryptography")

from ansible_collections.ai102.inference.plugins.module_utils._content import (
    ContentError,
    sha256_of,
)
from ansible_collections.ai102.inference.plugins.module_utils._manifest import (
    PackageError,
    canonical,
    generate_key,
    package_files,
    public_key_of,
    sign,
)
from ansible_collections.ai102.inference.plugins.module_utils._sealing import key_id
from ansible_collections.ai102.inference.plugins.modules.model_store import (
    run,
    surplus,
)

PASSPHRASE = "a passphrase"
KEY = generate_key(PASSPHRASE)
PUBLIC = public_key_of(KEY, PASSPHRASE)
OTHER = public_key_of(generate_key(PASSPHRASE), PASSPHRASE)


class World:
    """A control node with packages, and a host."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.models = root / "host/models"
        self.keep = 2
        self.public = PUBLIC
        self.keys: list[str] = []
        self.group = "root"

    def package(self, version: str, content: bytes = b"model", folder: str = "control") -> dict[str, t.Any]:
        """Make a package on the control node; return it as ``model_package`` does."""
        path = self.root / folder / version
        path.mkdir(parents=True)
        (path / "model.onnx").write_bytes(content)
        files = [{"path": "model.onnx", "sha256": sha256_of(path / "model.onnx"), "size": len(content)}]
        data = canonical({"schema": 1, "name": "demo", "version": version, "files": files})
        (path / "manifest.json").write_bytes(data)
        (path / "manifest.json.sig").write_text(sign(data, KEY, PASSPHRASE))
        return {
            "name": "demo",
            "version": version,
            "package": str(path),
            "manifest_sha256": sha256_of(path / "manifest.json"),
            "files": package_files(path),
        }

    def call(
        self, models: list[dict[str, t.Any]], incoming: dict[str, str] | None = None, check: bool = False
    ) -> dict[str, t.Any]:
        """Call the module once."""
        params = {
            "models": models,
            "public_keys": self.public,
            "public_keys_path": str(self.root / "host/etc/model_signing.pub"),
            "path": str(self.models),
            "blobs": str(self.root / "host/blobs"),
            "references": [str(self.root / "host/releases/*/config.yml")],
            "keep": self.keep,
            "decryption_keys": self.keys,
            "decryption_keys_path": str(self.root / "host/etc/model_keys"),
            "decryption_keys_group": self.group,
            "incoming": incoming or {},
        }
        return run(t.cast("t.Any", types.SimpleNamespace(params=params, check_mode=check)))

    def deliver(self, *models: dict[str, t.Any]) -> tuple[dict[str, t.Any], int]:
        """Do what the action plugin does; return the last answer and how many files were transferred."""
        answer = self.call(list(models))
        sources = {f["sha256"]: Path(m["package"]) / f["path"] for m in models for f in m["files"] if m["package"]}
        incoming = {}
        for sha256 in answer["missing"]:
            incoming[sha256] = str(self.root / f"incoming-{sha256}")
            shutil.copyfile(sources[sha256], incoming[sha256])
        return (self.call(list(models), incoming), len(incoming)) if incoming else (answer, 0)

    def installed(self) -> list[str]:
        """Return the versions on the host."""
        return sorted(path.name for path in self.models.glob("demo/*"))


@pytest.fixture
def world(tmp_path: Path) -> World:
    if os.geteuid() != 0:
        pytest.skip("directories of models belong to root")
    return World(tmp_path)


def test_a_version_is_delivered_once(world: World) -> None:
    package = world.package("1")
    answer, transferred = world.deliver(package)
    assert (answer["changed"], transferred, world.installed()) == (True, 3, ["1"])
    assert (world.root / "host/etc/model_signing.pub").read_text() == PUBLIC
    answer, transferred = world.deliver(package)
    assert (answer["changed"], transferred) == (False, 0)
    assert answer["models"] == [
        {
            "name": "demo",
            "version": "1",
            "path": str(world.models / "demo/1"),
            "manifest_sha256": package["manifest_sha256"],
        }
    ]
    assert not list(world.root.glob("incoming-*"))


def test_the_same_model_under_a_new_version_is_not_transferred_again(world: World) -> None:
    world.deliver(world.package("1"))
    one, two = world.package("2"), world.package("3", b"another")
    assert world.deliver(one)[1] == 2  # the manifest and its signature
    assert world.deliver(one, two)[1] == 3
    blob = (world.models / "demo/1/model.onnx").stat()
    assert blob.st_ino == (world.models / "demo/2/model.onnx").stat().st_ino


def test_other_content_under_the_same_version_is_refused(world: World) -> None:
    world.deliver(world.package("1"))
    with pytest.raises(
        PackageError, match="demo 1 is on the host with other content .* give the new content a new version"
    ):
        world.deliver(world.package("1", b"another", "control2"))
    assert (world.models / "demo/1/model.onnx").read_bytes() == b"model"


def test_a_refused_version_stops_the_others_before_anything_changes(world: World) -> None:
    world.deliver(world.package("1"))
    with pytest.raises(PackageError):
        world.deliver(world.package("2"), world.package("1", b"another", "control2"))
    assert world.installed() == ["1"]


def test_content_that_was_changed_on_the_way_is_refused(world: World) -> None:
    package = world.package("1")
    missing = world.call([package])["missing"]
    wrong = world.root / "wrong"
    wrong.write_bytes(b"tampered")
    with pytest.raises(ContentError, match="delivered content has sha256"):
        world.call([package], {missing[0]: str(wrong)})
    assert world.installed() == []


def test_a_package_of_an_unknown_key_is_refused_on_the_host_and_the_old_version_stays(world: World) -> None:
    world.deliver(world.package("1"))
    world.public = OTHER
    with pytest.raises(PackageError, match="model demo 2: the signature of manifest.json is wrong"):
        world.deliver(world.package("2"))
    assert world.installed() == ["1"]
    assert (world.root / "host/etc/model_signing.pub").read_text() == PUBLIC


def test_a_package_whose_manifest_lies_is_refused_on_the_host(world: World) -> None:
    package = world.package("1")
    path = Path(package["package"])
    (path / "model.onnx").write_bytes(b"MODEL")
    for file in package["files"]:
        if file["path"] == "model.onnx":
            file["sha256"] = sha256_of(path / "model.onnx")
    with pytest.raises(PackageError, match="model demo 1: model.onnx has sha256"):
        world.deliver(package)
    assert world.installed() == []


def test_a_damaged_version_is_repaired(world: World) -> None:
    package = world.package("1")
    world.deliver(package)
    (world.models / "demo/1/model.onnx").write_bytes(b"MODEL")
    answer, transferred = world.deliver(package)
    assert (answer["changed"], transferred) == (True, 1)
    assert (world.models / "demo/1/model.onnx").read_bytes() == b"model"
    assert "demo 1 (damaged)" in answer["diff"]["before"]


def test_unused_versions_go_and_used_ones_stay(world: World) -> None:
    world.keep = 1
    for number, version in enumerate(("1", "2", "3", "4")):
        world.deliver(world.package(version, version.encode()))
        os.utime(world.models / "demo" / version, (1_700_000_000 + number, 1_700_000_000 + number))
        if version == "1":
            config = world.root / "host/releases/r1/config.yml"
            config.parent.mkdir(parents=True)
            config.write_text(f"models:\n- {{path: {world.models}/demo/1}}\n")
    # 4 is wanted, 1 is in use, 3 is the one that is kept.
    assert world.installed() == ["1", "3", "4"]
    blobs = {blob.name for blob in (world.root / "host/blobs").iterdir()}
    assert len(blobs) == 9


def test_a_longer_name_is_no_reference(world: World, tmp_path: Path) -> None:
    for version in ("1", "10"):
        (tmp_path / "m/demo" / version).mkdir(parents=True)
    assert surplus(tmp_path / "m", set(), {"demo/10"}, 0) == [tmp_path / "m/demo/1"]


def test_check_mode_predicts_and_writes_nothing(world: World) -> None:
    package = world.package("1")
    answer = world.call([package], check=True)
    assert answer["changed"]
    assert answer["diff"]["after"] == f"demo 1 {package['manifest_sha256']}\n"
    assert not (world.root / "host").exists()
    world.deliver(package)
    assert not world.call([package], check=True)["changed"]


def test_check_mode_predicts_a_package_that_is_not_made_yet(world: World) -> None:
    unmade = {"name": "demo", "version": "1", "package": "", "manifest_sha256": "", "files": []}
    assert world.call([unmade], check=True)["changed"]
    with pytest.raises(PackageError, match="no package to deliver"):
        world.call([unmade])
    world.deliver(world.package("1"))
    assert not world.call([unmade], check=True)["changed"]


def test_check_mode_refuses_what_would_be_refused(world: World) -> None:
    world.deliver(world.package("1"))
    with pytest.raises(PackageError, match="a version never changes"):
        world.call([world.package("1", b"another", "control2")], check=True)


def test_a_new_signature_of_the_same_manifest_replaces_the_old_one(world: World) -> None:
    package = world.package("1")
    world.deliver(package)
    other = generate_key(PASSPHRASE)
    path = Path(package["package"])
    (path / "manifest.json.sig").write_text(sign((path / "manifest.json").read_bytes(), other, PASSPHRASE))
    package["files"] = package_files(path)
    world.public = public_key_of(other, PASSPHRASE)
    answer, transferred = world.deliver(package)
    assert (answer["changed"], transferred) == (True, 1)
    assert json.loads((world.models / "demo/1/manifest.json").read_text())["version"] == "1"


def test_keys_are_delivered_and_stay_while_a_release_names_them(world: World) -> None:
    """Only root and the group may read them; what nothing needs any more goes."""
    package = world.package("1")
    first, second = ("01" * 32, "02" * 32)
    world.keys = [first]
    answer, _transferred = world.deliver(package)
    (path,) = map(Path, answer["decryption_keys"])
    assert path.read_text() == f"{first}\n"
    assert path.name == f"{key_id(bytes.fromhex(first))}.key"
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o640, 0o750)
    assert first not in json.dumps(answer)
    assert world.deliver(package)[0]["changed"] is False

    path.chmod(0o644)
    assert world.call([package], check=True)["changed"] is True
    assert path.stat().st_mode & 0o777 == 0o644
    world.deliver(package)
    assert path.stat().st_mode & 0o777 == 0o640

    release = world.root / "host/releases/r1/config.yml"
    release.parent.mkdir(parents=True)
    release.write_text(f"decryption_keys: [{{file: {path}}}]")
    world.keys = [second]
    answer, _transferred = world.deliver(package)
    assert len(list(path.parent.iterdir())) == 2
    release.unlink()
    answer, _transferred = world.deliver(package)
    assert (answer["changed"], [str(left) for left in path.parent.iterdir()]) == (True, answer["decryption_keys"])
    world.keys = []
    world.deliver(package)
    assert not path.parent.exists()


def test_a_group_that_is_not_there_yet_matters_only_when_something_is_written(world: World) -> None:
    """The first check of a host comes before the group is made."""
    package = world.package("1")
    world.keys, world.group = ["01" * 32], "nobody-has-this-group"
    assert world.call([package], check=True)["changed"] is True
    with pytest.raises(ContentError, match="no such user or group"):
        world.deliver(package)
    assert world.installed() == []
