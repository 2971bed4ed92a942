# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lock, the control node's cache, and what it fetches and builds."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import typing as t
import zipfile
from pathlib import Path

import pytest
import yaml
from ansible_collections.ai102.inference.plugins.module_utils import _artifacts
from ansible_collections.ai102.inference.plugins.module_utils._artifacts import (
    ArtifactError,
    Cache,
    Wheel,
    environment_digest,
    lock_entry,
    model_wheel,
    parse_python_lock,
    render_requirements,
    rewrite_url,
    source_digest,
)

ROLE_FILES = Path(__file__).resolve().parents[4] / "roles/artifacts/files"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _wheel(content: bytes, name: str = "demo") -> Wheel:
    return Wheel(name, "1.0", f"{name}-1.0-py3-none-any.whl", _sha256(content), len(content))


def _bundle(tmp_path: Path, content: bytes) -> Path:
    target = tmp_path / "bundle/sha256" / _sha256(content)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    return tmp_path / "bundle"


def test_a_lock_is_read_and_written_the_same() -> None:
    text = f"# head\n# demo-1.0-py3-none-any.whl 12\ndemo==1.0 --hash=sha256:{'a' * 64}\n"
    (wheel,) = parse_python_lock(text)
    assert wheel == Wheel("demo", "1.0", "demo-1.0-py3-none-any.whl", "a" * 64, 12)
    assert render_requirements([wheel]) == f"demo==1.0 --hash=sha256:{'a' * 64}\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f"demo==1.0 --hash=sha256:{'a' * 64}\n", "no file name above it"),
        ("# demo-1.0-py3-none-any.whl 12\ndemo==1.0\n", "not a pin with one sha256"),
        ("demo>=1\n", "not a pin"),
        ("-r other.txt\n", "not a pin"),
    ],
)
def test_a_lock_that_does_not_pin_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ArtifactError, match=problem):
        parse_python_lock(text)


@pytest.mark.parametrize("path", sorted(ROLE_FILES.glob("python/*.txt")), ids=lambda path: path.stem)
def test_the_locks_of_the_role_hold_wheels_for_their_python(path: Path) -> None:
    wheels = parse_python_lock(path.read_text())
    names = {wheel.name for wheel in wheels}
    flavour, python = path.stem.removeprefix("server-").split("-")
    assert {"flask", "granian", "numpy"} <= names
    assert ("onnxruntime-gpu" in names) == (flavour != "cpu")
    assert ("onnxruntime" in names) == (flavour == "cpu")
    runtime = next(wheel for wheel in wheels if wheel.name.startswith("onnxruntime"))
    assert f"-{python}-{python}-" in runtime.filename


def test_all_flavours_and_pythons_have_a_lock() -> None:
    summary = yaml.safe_load((ROLE_FILES / "python/summary.yml").read_text())
    assert {flavour: sorted(found) for flavour, found in summary.items()} == {
        flavour: ["cp310", "cp311", "cp312", "cp313"] for flavour in ("cpu", "gpu", "gpu_cuda12")
    }
    assert all(entry["minimum_driver"] >= 525 for entry in summary["gpu"].values())
    # What Debian has, 535 and 550, must be enough.
    assert {entry["minimum_driver"] for entry in summary["gpu_cuda12"].values()} == {525}


def test_the_models_of_the_lock_are_complete() -> None:
    lock = yaml.safe_load((ROLE_FILES / "lock.yml").read_text())
    for entry in lock["models"].values():
        assert len(model_wheel(entry).sha256) == len(entry["member_sha256"]) == 64
        assert entry["licence"]


def test_an_unknown_entry_is_named_with_those_that_exist() -> None:
    with pytest.raises(ArtifactError, match="the lock has no model 'x'; it has: a, b"):
        lock_entry({"models": {"b": {}, "a": {}}}, "models", "x")


def test_the_longest_prefix_is_rewritten() -> None:
    rewrites = {"https://a/": "https://m/", "https://a/b/": "https://n/"}
    assert rewrite_url("https://a/b/c", rewrites) == "https://n/c"
    assert rewrite_url("https://z/", rewrites) == "https://z/"


def test_a_file_is_fetched_once(tmp_path: Path) -> None:
    opened: list[str] = []

    def fetch(url: str) -> t.Any:
        opened.append(url)
        return io.BytesIO(b"content")

    cache = Cache(tmp_path / "cache")
    for _time in range(2):
        path = cache.file("https://vendor/x", _sha256(b"content"), 7, fetch)
        assert path.read_bytes() == b"content"
    assert opened == ["https://vendor/x"]


def test_a_file_with_another_hash_is_refused_and_not_kept(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    with pytest.raises(ArtifactError, match="the lock says"):
        cache.file("https://vendor/x", _sha256(b"good"), -1, lambda url: io.BytesIO(b"evil"))
    assert list((tmp_path / "cache/sha256").iterdir()) == []


def test_a_failing_download_is_tried_again(tmp_path: Path) -> None:
    tries = 0

    def fetch(url: str) -> t.Any:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise OSError("connection reset")
        return io.BytesIO(b"content")

    assert Cache(tmp_path).file("https://vendor/x", _sha256(b"content"), -1, fetch, retries=3).is_file()

    def unreachable(url: str) -> io.BytesIO:
        raise OSError("boom")

    with pytest.raises(ArtifactError, match=r"cannot fetch https://vendor/y: boom"):
        Cache(tmp_path).file("https://vendor/y", "0" * 64, -1, unreachable)


def test_a_bundle_is_looked_into_first(tmp_path: Path) -> None:
    bundle = _bundle(tmp_path, b"content")
    cache = Cache(tmp_path / "cache", bundle=str(bundle), online=False)
    path = cache.file("https://vendor/x", _sha256(b"content"), -1, lambda url: pytest.fail("went online"))
    assert path == tmp_path / "cache/sha256" / _sha256(b"content")


def test_a_tampered_bundle_is_refused(tmp_path: Path) -> None:
    bundle = _bundle(tmp_path, b"content")
    (bundle / "sha256" / _sha256(b"content")).write_bytes(b"tampered")
    with pytest.raises(ArtifactError, match=r"\(bundle\) has sha256"):
        Cache(tmp_path / "cache", bundle=str(bundle)).find(_sha256(b"content"))


def test_bundle_mode_never_goes_online(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", bundle=str(tmp_path / "bundle"), online=False)
    with pytest.raises(ArtifactError, match="artifacts_source is 'bundle'"):
        cache.file("https://vendor/x", "0" * 64, -1, lambda url: pytest.fail("went online"))
    with pytest.raises(ArtifactError, match="demo-1.0-py3-none-any.whl is neither"):
        cache.wheels([_wheel(b"x")], "3.11")


class _Pip:
    """Stands in for pip: brings the wheels whose content it was given, and counts."""

    def __init__(self, contents: dict[str, bytes]) -> None:
        self.contents = contents
        self.asked: list[list[str]] = []

    def __call__(self, command: list[str], **_options: t.Any) -> subprocess.CompletedProcess[str]:
        requirements = Path(command[command.index("--requirement") + 1]).read_text()
        self.asked.append([line.split("==")[0] for line in requirements.splitlines()])
        for name in self.asked[-1]:
            if name in self.contents:
                Path(command[command.index("--dest") + 1], f"{name}-1.0-py3-none-any.whl").write_bytes(
                    self.contents[name]
                )
        return subprocess.CompletedProcess(command, 0, "", "")


def test_only_absent_wheels_are_asked_of_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = {"a": b"aa", "b": b"bb"}
    wheels = [_wheel(content, name) for name, content in contents.items()]
    pip = _Pip(contents)
    monkeypatch.setattr(subprocess, "run", pip)
    cache = Cache(tmp_path)
    cache.wheels(wheels[:1], "3.11")
    paths = cache.wheels(wheels, "3.11")
    cache.wheels(wheels, "3.11")
    assert pip.asked == [["a"], ["b"]]
    assert paths[wheels[1].sha256].read_bytes() == b"bb"


def test_a_wheel_that_pip_does_not_bring_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", _Pip({"a": b"other"}))
    with pytest.raises(ArtifactError, match="did not bring a-1.0-py3-none-any.whl"):
        Cache(tmp_path).wheels([_wheel(b"aa", "a")], "3.11")


def test_a_model_is_taken_out_of_its_wheel(tmp_path: Path) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("pkg/model.onnx", b"model")
    bundle = _bundle(tmp_path, archive.getvalue())
    cache = Cache(tmp_path / "cache", bundle=str(bundle), online=False)
    wheel = _wheel(archive.getvalue())
    assert cache.member(wheel, "pkg/model.onnx", _sha256(b"model")).read_bytes() == b"model"
    with pytest.raises(ArtifactError, match="has no member pkg/other"):
        cache.member(wheel, "pkg/other", _sha256(b"other"))
    with pytest.raises(ArtifactError, match="the lock says"):
        cache.member(wheel, "pkg/model.onnx", _sha256(b"another model"))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    (root / "src/demo").mkdir(parents=True)
    (root / "src/demo/__init__.py").write_text('__version__ = "1.0"\n')
    (root / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "demo"\nversion = "1.0"\nrequires-python = ">=3.10"\n'
        '[tool.hatch.build.targets.wheel]\npackages = ["src/demo"]\n'
    )
    return root


def test_only_sources_count_in_a_projects_digest(project: Path) -> None:
    before = source_digest(project)
    (project / "tests").mkdir()
    (project / "tests/test_x.py").write_text("")
    (project / ".coverage").write_text("")
    (project / "src/demo/__pycache__").mkdir()
    (project / "src/demo/__pycache__/x.pyc").write_bytes(b"x")
    assert source_digest(project) == before
    (project / "src/demo/new.py").write_text("")
    assert source_digest(project) != before


def test_what_is_no_project_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"has no pyproject.toml"):
        source_digest(tmp_path)


def test_a_wheel_is_built_once_and_always_the_same(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    first, path = Cache(tmp_path / "one").build(project)
    second, _path = Cache(tmp_path / "two").build(project)
    assert first == second
    assert path.is_file()
    assert first.filename == "demo-1.0-py3-none-any.whl"
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("built again"))
    assert Cache(tmp_path / "one").build(project)[0] == first


def test_a_project_that_does_not_build_says_why(project: Path, tmp_path: Path) -> None:
    (project / "pyproject.toml").write_text("this is not TOML")
    with pytest.raises(ArtifactError, match="cannot build the wheel"):
        Cache(tmp_path / "cache").build(project)
    assert not (tmp_path / "cache/built").exists()


def test_an_environment_is_named_by_all_that_is_in_it() -> None:
    wheels = [_wheel(b"a", "a")]
    base = environment_digest(wheels, "sources", "3.11", "cpu")
    assert base == environment_digest(list(wheels), "sources", "3.11", "cpu")
    others = {
        environment_digest([_wheel(b"b", "a")], "sources", "3.11", "cpu"),
        environment_digest(wheels, "other", "3.11", "cpu"),
        environment_digest(wheels, "sources", "3.12", "cpu"),
        environment_digest(wheels, "sources", "3.11", "gpu"),
    }
    assert base not in others
    assert len(others) == 4


def test_a_record_of_a_wheel_that_is_gone_is_not_believed(project: Path, tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    record = tmp_path / "built" / f"{source_digest(project)}.json"
    record.parent.mkdir()
    record.write_text(json.dumps(_wheel(b"gone")._asdict()))
    assert cache.built(project) is None


def test_parallel_processes_fetch_once(tmp_path: Path) -> None:
    """Four processes want the same file at the same time; the fetching is seen once."""
    script = f"""
import io, sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from ansible_collections.ai102.inference.plugins.module_utils._artifacts import Cache
def fetch(url):
    with open({str(tmp_path / "log")!r}, "a") as log:
        log.write("fetched\\n")
    time.sleep(0.3)
    return io.BytesIO(b"content")
Cache({str(tmp_path / "cache")!r}).file("https://vendor/x", {_sha256(b"content")!r}, -1, fetch)
"""
    environment = {"PYTHONPATH": str(_namespace_root()), "PATH": "/usr/bin:/bin"}
    running = [subprocess.Popen([sys.executable, "-c", script], env=environment) for _number in range(4)]
    assert [process.wait(30) for process in running] == [0] * 4
    assert (tmp_path / "log").read_text() == "fetched\n"


def _namespace_root() -> Path:
    """Return what must be on the path of Python for ``ansible_collections`` to be found."""
    path = Path(_artifacts.__file__).resolve()
    installed = [parent.parent for parent in path.parents if parent.name == "ansible_collections"]
    return installed[0] if installed else path.parents[2] / ".collections"
