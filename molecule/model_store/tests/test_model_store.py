"""What the role ``model_store`` leaves on a host, signed and able to compute."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime
import pytest
from run_module import PROJECT
from testinfra.host import Host

MODELS = "/var/lib/ai102/models"
SECRETS = PROJECT / ".cache/molecule/model_store/secrets"
PASSPHRASE = "only-for-tests"
TYPES = {"FP32": np.float32, "INT32": np.int32}


@pytest.mark.parametrize("name", ["text-line-orientation", "file-type"])
def test_a_model_is_there_signed_and_read_only(host: Host, name: str) -> None:
    """OpenSSL alone can verify the signature; the hashes are those of the files; nobody may write."""
    path = f"{MODELS}/{name}/1"
    manifest = json.loads(host.file(f"{path}/manifest.json").content_string)
    assert {entry["path"] for entry in manifest["files"]} == {"model.onnx", "golden.json", "config.json"}
    for entry in manifest["files"]:
        assert host.file(f"{path}/{entry['path']}").sha256sum == entry["sha256"]
    assert manifest["licence"] == "Apache-2.0"
    host.check_output(f"sh -c 'base64 -d {path}/manifest.json.sig > /tmp/signature'")
    verified = host.run(
        "openssl pkeyutl -verify -rawin -pubin -inkey /etc/ai102/model_signing.pub "
        f"-sigfile /tmp/signature -in {path}/manifest.json"
    )
    assert verified.rc == 0, verified.stdout
    assert set(host.check_output(f"stat -c '%U %a' {path}/*").splitlines()) == {"root 444"}
    assert host.file(path).mode == 0o755


@pytest.mark.parametrize("name", ["text-line-orientation", "file-type"])
def test_a_model_reproduces_its_golden_answers(host: Host, name: str) -> None:
    """The model as it lies on the host computes its golden answers, which say what a person expects."""
    path = f"{MODELS}/{name}/1"
    session = onnxruntime.InferenceSession(host.file(f"{path}/model.onnx").content, providers=["CPUExecutionProvider"])
    labels = json.loads(host.file(f"{path}/config.json").content_string)["labels"]
    seen = []
    for item in json.loads(host.file(f"{path}/golden.json").content_string)["requests"]:
        feed = {
            tensor["name"]: np.array(tensor["data"], dtype=TYPES[tensor["datatype"]]).reshape(tensor["shape"])
            for tensor in item["request"]["inputs"]
        }
        (expected,) = item["response"]["outputs"]
        (actual,) = session.run([expected["name"]], feed)
        assert list(actual.shape) == expected["shape"]
        assert np.abs(actual.ravel() - np.array(expected["data"])).max() <= item["tolerance"]
        seen.append(labels[int(actual.argmax())])
    assert seen == {"text-line-orientation": ["0°", "180°"], "file-type": ["python", "json"]}[name]


def test_the_signing_key_never_leaves_the_control_node(host: Host) -> None:
    """The private key is encrypted on the control node, and no host has it."""
    key = (SECRETS / "model_signing.key").read_text()
    assert key.startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert (SECRETS / "model_signing.key").stat().st_mode & 0o777 == 0o600
    assert host.run("grep -rl 'PRIVATE KEY' /etc/ai102 /var/lib/ai102").stdout == ""
