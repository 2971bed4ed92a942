"""A broken release is refused or switched back by itself; what served goes on serving, and it is said why."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rolled_out import PROJECT, STATE, UNIT, Load, Play, Played, SiteHost, another_release

IN_FORCE = {
    "gateway1": ["/etc/ai102/gateway/current"],
    "inference1": ["/opt/ai102/inference_server/current"],
    "inference2": ["/opt/ai102/inference_server/current"],
}
MODELS = [
    {"name": "text-line-orientation", "version": "1", "source": {"lock": "text-line-orientation"}},
    {"name": "file-type", "version": "1", "source": {"lock": "file-type"}},
]


@pytest.fixture(autouse=True)
def _what_served_goes_on_serving(hosts: dict[str, SiteHost], load: Callable[[int], Load]) -> Iterator[None]:
    def in_force() -> dict[str, str]:
        return {
            f"{name}:{path}": hosts[name].run("readlink", path).stdout
            for name, paths in IN_FORCE.items()
            for path in paths
        }

    before = in_force()
    yield
    assert in_force() == before
    for name in ("inference1", "inference2"):
        assert hosts[name].sh(f"systemctl is-active {UNIT}") == "active"
    figures = load(2).figures()
    assert figures["failed"] == 0, figures
    assert len(figures["upstreams"]) >= 2, figures


def _refused(played: Played, *reasons: str) -> None:
    assert played.returncode != 0, played.output[-3000:]
    for reason in reasons:
        assert reason in played.flat, f"'{reason}' is not said in: {played.flat[-4000:]}"


def test_a_package_that_cannot_be_imported(play: Play, tmp_path: Path) -> None:
    source = another_release(tmp_path, "import a_module_that_nobody_has")
    _refused(play("--extra-vars", f"artifacts_server_source={source}"), "a_module_that_nobody_has")


def test_a_release_that_does_not_start(play: Play) -> None:
    """It passes every check beside the running one, and fails only once it is switched to."""
    played = play("--extra-vars", "inference_server_listen_address=203.0.113.7")
    _refused(played, "was refused on inference1", "is in force again", "203.0.113.7")
    assert "was refused on inference2" not in played.flat  # the roll stopped at the first host


def _model(tmp_path: Path, **changes: Any) -> str:
    return json.dumps({"ai102_models": [*MODELS[:1], {"name": "file-type", "version": "2", **changes}]})


def _package() -> Path:
    """The package of file-type/1 that the rollout made on the control node and signed with the site's key."""
    site = hashlib.sha256((STATE / "secrets/model_signing.pub").read_bytes()).hexdigest()[:16]
    found = list((Path.home() / ".cache/ai102/models" / site / "file-type").glob("1-*/manifest.json"))
    assert len(found) == 1, f"packages on the control node: {found}"
    return found[0].parent


def test_wrong_golden_answers(play: Play, tmp_path: Path) -> None:
    golden = json.loads((PROJECT / "roles/model_store/files/golden/file-type.json").read_text())
    outputs = golden["requests"][0]["response"]["outputs"][0]
    outputs["data"] = outputs["data"][::-1]
    (tmp_path / "golden.json").write_text(json.dumps(golden))
    played = play(
        "--extra-vars",
        _model(tmp_path, source={"path": str(_package() / "model.onnx")}, golden=str(tmp_path / "golden.json")),
    )
    _refused(played, "golden", "file-type")


def test_a_model_with_a_wrong_hash(play: Play, tmp_path: Path) -> None:
    package = tmp_path / "package"
    shutil.copytree(_package(), package)
    package.chmod(0o755)
    manifest = json.loads((package / "manifest.json").read_text())
    model = package / "model.onnx"
    model.chmod(0o644)
    model.write_bytes(model.read_bytes()[:-1] + b"\0")
    models = [MODELS[0], {"name": "file-type", "version": manifest["version"], "source": {"package": str(package)}}]
    _refused(play("--extra-vars", json.dumps({"ai102_models": models})), "model.onnx", "file-type")


def test_a_model_with_a_wrong_signature(play: Play, tmp_path: Path) -> None:
    package = tmp_path / "package"
    shutil.copytree(_package(), package)
    package.chmod(0o755)
    manifest = package / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_text(manifest.read_text().replace("Apache-2.0", "MIT"))
    models = [MODELS[0], {"name": "file-type", "version": "1", "source": {"package": str(package)}}]
    _refused(play("--extra-vars", json.dumps({"ai102_models": models})), "signature", "file-type")


def test_an_invalid_nginx_configuration(play: Play) -> None:
    _refused(play("--extra-vars", "gateway_certificate=/etc/ai102/pki/server/nothing.pem"), "nginx", "nothing.pem")


def test_a_check_still_changes_nothing(play: Play) -> None:
    assert STATE.is_dir()
    played = play("--check", "--diff")
    assert played.returncode == 0, played.output[-3000:]
    assert not played.changed
