# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an image is made from and consists of. Real builds and pushes are in the Molecule scenario `image`."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.ai102.inference.plugins.module_utils._container_image import ImageError
from ansible_collections.ai102.inference.plugins.module_utils._image_build import Builder, Recipe, describe, run

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    project = tmp_path / "server"
    shutil.copytree(ROOT / "server", project, ignore=shutil.ignore_patterns("__pycache__", "tests", ".*"))
    locks = tmp_path / "locks"
    shutil.copytree(ROOT / "roles/artifacts/files/python", locks)
    return Recipe(project, locks, "cpu", base="python:3.13-slim")


def test_the_context_has_what_the_dockerfile_copies_and_no_more(recipe: Recipe, tmp_path: Path) -> None:
    context = tmp_path / "context"
    recipe.fill(context)
    for line in (ROOT / "server/Dockerfile").read_text().splitlines():
        words = line.split()
        if words[:1] == ["COPY"] and not words[1].startswith("--from"):
            for source in words[1:-1]:
                assert list(context.glob(source.replace("${FLAVOUR}", "cpu"))), source
    names = {str(path.relative_to(context)) for path in context.rglob("*") if path.is_file()}
    assert not [name for name in names if "test" in name or "gpu-cp" in name or name.endswith(".pyc")]


def test_the_same_inputs_are_the_same_tag_and_everything_counts(recipe: Recipe, tmp_path: Path) -> None:
    tag = recipe.tag()
    assert tag.startswith("0.1.0-cpu-")
    assert recipe.tag() == tag
    others = {
        replace(recipe, flavour="gpu").tag(),
        replace(recipe, base="python:3.12-slim").tag(),
        replace(recipe, base="", base_release="bookworm").tag(),
        replace(recipe, base="", base_release="trixie").tag(),
        replace(
            recipe, base="", base_release="trixie", base_mirror=("deb http://mirror.example/debian trixie main",)
        ).tag(),
        replace(recipe, build_args={"PIP_INDEX_URL": "https://mirror.example/simple"}).tag(),
    }
    (recipe.project / "src/ai102_server/py.typed").write_text("#\n")
    others.add(recipe.tag())
    lock = recipe.lock_dir / "server-cpu-cp313.txt"
    lock.write_text(lock.read_text() + "# another\n")
    others.add(recipe.tag())
    (recipe.project / "Dockerfile").write_text("FROM scratch\n")
    others.add(recipe.tag())
    assert len(others | {tag}) == 10


def test_what_is_missing_is_named(recipe: Recipe) -> None:
    with pytest.raises(ImageError, match="no lock of flavour 'tpu'"):
        replace(recipe, flavour="tpu").inputs()
    (recipe.project / "Dockerfile").unlink()
    with pytest.raises(ImageError, match="cannot be built without .*Dockerfile"):
        recipe.inputs()
    (recipe.project / "src/ai102_server/__init__.py").write_text("")
    with pytest.raises(ImageError, match="which version"):
        recipe.version()


def test_a_base_is_made_of_packages_and_the_authority_is_in_the_one_to_build_on_only(
    recipe: Recipe, tmp_path: Path
) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_text("PEM")
    made = replace(recipe, base="", base_release="bookworm", build_ca=str(authority))
    bases = made.bases()
    assert bases["BASE"] != bases["BUILD_BASE"]
    make, take, lines = made.base_commands("BASE")
    assert make[0] == "mmdebstrap"
    assert make[-2:] == ["bookworm", "-"]
    assert "ca.pem" not in " ".join(make + take)
    assert take[-1] == bases["BASE"]
    assert lines == ""
    make, take, _lines = made.base_commands("BUILD_BASE")
    assert f"--customize-hook=upload {authority} /etc/ssl/certs/ai102-build.pem" in make
    assert "ENV PIP_CERT=/etc/ssl/certs/ai102-build.pem" in take
    assert "python3-venv" in " ".join(make)
    plain = replace(made, build_ca="")
    assert plain.bases()["BASE"] == bases["BASE"]
    assert plain.bases()["BUILD_BASE"] != bases["BUILD_BASE"]
    mirrored = replace(plain, base_mirror=("deb http://mirror.example/debian bookworm main",))
    make, _take, lines = mirrored.base_commands("BASE")
    assert make[-3:] == ["bookworm", "-", "-"]
    assert lines == "deb http://mirror.example/debian bookworm main\n"


def test_the_build_gets_bases_flavour_and_labels(recipe: Recipe) -> None:
    made = replace(recipe, build_args={"PIP_INDEX_URL": "https://mirror.example/simple"})
    command = made.build_command("docker", "ai102-server:tag")
    assert command[:6] == ["docker", "build", "--file", "server/Dockerfile", "--tag", "ai102-server:tag"]
    given = {command[number + 1] for number, word in enumerate(command) if word in {"--build-arg", "--label"}}
    assert given == {
        "BASE=python:3.13-slim",
        "FLAVOUR=cpu",
        "PIP_INDEX_URL=https://mirror.example/simple",
        f"ai102.inputs={made.inputs()}",
        "ai102.flavour=cpu",
        "org.opencontainers.image.version=0.1.0",
    }
    assert command[-1] == "."


def test_a_program_that_is_missing_or_fails_is_said_in_its_words() -> None:
    with pytest.raises(ImageError, match="is not installed on the machine that builds"):
        run(["no-such-program-anywhere"], "building")
    with pytest.raises(ImageError, match=r"(?s)building failed:.*what went wrong"):
        run(["sh", "-c", "echo what went wrong; exit 3"], "building")
    assert run(["sh", "-c", "cat"], "reading", stdin="text") == "text"
    assert Builder("docker").source("a:1") == "docker-daemon:a:1"
    assert Builder("podman").source("a:1") == "containers-storage:localhost/a:1"


def test_layers_are_told_with_what_made_them() -> None:
    manifest = {"layers": [{"size": 50}, {"size": 7}]}
    config = {
        "created": "2026-11-23T00:00:00Z",
        "config": {"Labels": {"a": "b"}},
        "history": [
            {"comment": "Imported from -"},
            {"created_by": "ENV x", "empty_layer": True},
            {"created_by": "COPY  a"},
        ],
    }
    assert describe(manifest, config) == {
        "compressed_bytes": 57,
        "layers": [{"bytes": 50, "step": "Imported from -"}, {"bytes": 7, "step": "COPY a"}],
        "labels": {"a": "b"},
        "created": "2026-11-23T00:00:00Z",
    }
    assert describe(manifest, {})["layers"] == [{"bytes": 50, "step": ""}, {"bytes": 7, "step": ""}]
