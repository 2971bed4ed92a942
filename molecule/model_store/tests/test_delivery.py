"""Delivering versions, and refusing what is wrong. Each call is a run of Ansible, so on one host only."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from run_module import PROJECT, Module
from testinfra.host import Host

# It has openssl only.
testinfra_hosts = ["docker://ai102-mol-model-store"]
MODELS = "/var/lib/ai102/models"
SECRETS = PROJECT / ".cache/molecule/model_store/secrets"
PASSPHRASE = "only-for-tests"
TYPES = {"FP32": np.float32, "INT32": np.int32}


class Site:
    """A control node with a small model of its own, and one host."""

    def __init__(self, root: Path, module: Module, host: Host) -> None:
        self.root = root
        self.module = module
        self.host = host
        self.secrets = SECRETS
        self.keep = 9

    def package(self, version: str, weight: float = 2.0, **changes: Any) -> dict[str, Any]:
        """Package the model ``y = x * weight``; return the module's result."""
        content = struct.pack("<2f", weight, weight)
        graph = onnx.helper.make_graph(
            [onnx.helper.make_node("Mul", ["x", "w"], ["y"])],
            "double",
            [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 2])],
            [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 2])],
            [onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [1, 2], content, raw=True)],
        )
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, str(self.root / "double.onnx"))
        tensors = [
            {"name": name, "datatype": "FP32", "shape": [1, 2], "data": data}
            for name, data in (("x", [1, 2]), ("y", [weight, 2 * weight]))
        ]
        golden = {"requests": [{"request": {"inputs": tensors[:1]}, "response": {"outputs": tensors[1:]}}]}
        (self.root / "double.json").write_text(json.dumps(golden))
        source = {"path": str(self.root / "double.onnx")}
        entry = {"name": "double", "version": version, "source": source, "golden": str(self.root / "double.json")}
        return self.make({**entry, **changes})

    def make(self, entry: dict[str, Any], trusted: list[str] | None = None, expect: str = "ok") -> dict[str, Any]:
        """Call ``model_package``."""
        return self.module(
            "model_package",
            expect=expect,
            models=[entry],
            cache_dir=str(self.root / "cache"),
            signing_key=str(self.secrets / "model_signing.key"),
            passphrase=PASSPHRASE,
            trusted_keys=trusted or [],
            shipped=str(PROJECT / "roles/model_store/files"),
        )

    def deliver(self, packaged: dict[str, Any], expect: str) -> dict[str, Any]:
        """Call ``model_store`` with what ``package`` returned."""
        return self.module(
            "model_store",
            expect=expect,
            models=packaged["models"],
            public_keys=packaged["public_keys"],
            keep=self.keep,
            references=["/opt/ai102/inference_server/releases/*/config.yml"],
        )

    def versions(self) -> list[str]:
        """Return the versions of the model on the host."""
        return sorted(str(self.host.run(f"ls {MODELS}/double").stdout).split())


@pytest.fixture
def site(tmp_path: Path, module: Module, host: Host) -> Iterator[Site]:
    yield Site(tmp_path, module, host)
    host.check_output(f"rm -rf {MODELS}/double /opt/ai102/inference_server")


def test_a_version_is_delivered_once_and_shares_its_content(site: Site) -> None:
    """The second delivery does nothing, and a version with the same model costs its manifest and signature only."""
    first = site.package("1")
    assert site.deliver(first, "changed")["transferred"] == 4
    assert site.deliver(first, "ok")["transferred"] == 0
    assert site.deliver(site.package("2"), "changed")["transferred"] == 2
    assert site.host.check_output(f"stat -c %h {MODELS}/double/1/model.onnx") == "3"


def test_a_version_never_changes(site: Site) -> None:
    """Other content under the same version is refused with advice, and the host keeps what it had."""
    site.deliver(site.package("1"), "changed")
    before = site.host.file(f"{MODELS}/double/1/model.onnx").sha256sum
    refused = site.deliver(site.package("1", weight=3.0), "failed")
    assert "a version never changes, so give the new content a new version" in refused["msg"]
    assert site.host.file(f"{MODELS}/double/1/model.onnx").sha256sum == before


def test_a_package_that_was_tampered_with_is_refused_and_the_old_version_stays(site: Site) -> None:
    """Neither a changed model with its old hash nor one with a new hash and an old signature is taken."""
    site.deliver(site.package("1"), "changed")
    packaged = site.package("2", weight=3.0)
    package = Path(packaged["models"][0]["package"])
    model = package / "model.onnx"
    model.write_bytes(model.read_bytes().replace(b"double", b"treble"))
    assert "has changed since it was described" in site.deliver(packaged, "failed")["msg"]

    new = hashlib.sha256(model.read_bytes()).hexdigest()
    for entry in packaged["models"][0]["files"]:
        if entry["path"] == "model.onnx":
            old, entry["sha256"] = entry["sha256"], new
    assert f"model.onnx has sha256 {new}" in site.deliver(packaged, "failed")["msg"]

    manifest = package / "manifest.json"
    manifest.write_text(manifest.read_text().replace(old, new))
    digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
    packaged["models"][0]["manifest_sha256"] = digest
    for entry in packaged["models"][0]["files"]:
        if entry["path"] == "manifest.json":
            entry["sha256"] = digest
    assert "the signature of manifest.json is wrong" in site.deliver(packaged, "failed")["msg"]
    assert site.versions() == ["1"]


def test_a_package_of_a_vendor_needs_the_vendors_key(site: Site, tmp_path: Path) -> None:
    """A ready-made package is refused until its signer is trusted, and is then delivered as it was signed."""
    vendor = Site(tmp_path / "vendor", site.module, site.host)
    vendor.root.mkdir()
    vendor.secrets = tmp_path / "vendor/secrets"
    made = vendor.package("1")["models"][0]
    shutil.copytree(made["package"], tmp_path / "bought")
    entry = {"name": "double", "version": "1", "source": {"package": str(tmp_path / "bought")}}
    assert "key that is not trusted" in site.make(entry, expect="failed")["msg"]
    packaged = site.make(entry, trusted=[str(vendor.secrets / "model_signing.pub")])
    site.deliver(packaged, "changed")
    signature = site.host.file(f"{MODELS}/double/1/manifest.json.sig").content_string
    assert signature == (Path(made["package"]) / "manifest.json.sig").read_text()
    assert site.host.file("/etc/ai102/model_signing.pub").content_string.count("BEGIN PUBLIC KEY") == 2
    site.deliver(site.package("2"), "changed")
    assert site.host.file("/etc/ai102/model_signing.pub").content_string.count("BEGIN PUBLIC KEY") == 1


def test_a_damaged_model_is_repaired(site: Site) -> None:
    """A file that somebody wrote to is delivered again, and only that one."""
    packaged = site.package("1")
    site.deliver(packaged, "changed")
    site.host.check_output(f"sh -c 'echo damage >> {MODELS}/double/1/model.onnx'")
    assert site.deliver(packaged, "changed")["transferred"] == 1
    site.deliver(packaged, "ok")


def test_versions_in_use_are_never_removed(site: Site) -> None:
    """Of three versions, the one that a release names and the wanted one stay."""
    for version, weight in (("1", 2.0), ("2", 3.0)):
        site.deliver(site.package(version, weight), "changed")
    site.host.check_output("mkdir -p /opt/ai102/inference_server/releases/r1")
    config = " ".join(f"{MODELS}/{name}/1" for name in ("double", "file-type", "text-line-orientation"))
    site.host.check_output(f'sh -c "echo \\"{config}\\" > /opt/ai102/inference_server/releases/r1/config.yml"')
    site.keep = 0
    removed = site.deliver(site.package("3", 4.0), "changed")["removed"]
    assert f"{MODELS}/double/2" in removed
    assert f"{MODELS}/double/1" not in removed
    assert site.versions() == ["1", "3"]


def test_a_file_that_is_no_model_is_refused_on_the_control_node(site: Site) -> None:
    """The message names the file and says what it is not."""
    (site.root / "broken.onnx").write_bytes(b"this is not a model")
    (site.root / "broken.json").write_text("{}")
    entry = {"name": "broken", "version": "1", "source": {"path": str(site.root / "broken.onnx")}}
    result = site.make({**entry, "golden": str(site.root / "broken.json")}, expect="failed")
    assert "broken.onnx is not an ONNX model" in result["msg"]
