# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""The model store: its configuration, what it serves, and pins."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from pathlib import Path

import pytest

from ai102_server.config import ModelRef, parse_config
from ai102_server.config.reader import Section
from ai102_server.config.store import KeySource, Policy, Store, read_store
from ai102_server.errors import ConfigError, ModelError
from ai102_server.repository.store import (
    decryption_keys,
    pin,
    public_keys,
    read_pins,
    rollback,
    scan,
    survey,
    unpin,
)
from toolkit import Signer


# --------------------------------------------------------------------------------------------------------------------
# Configuration
# --------------------------------------------------------------------------------------------------------------------
def parsed(document: object) -> tuple[Store, list[str]]:
    problems: list[str] = []
    return read_store(Section(document, "store", problems)), problems


def test_the_whole_section() -> None:
    store, problems = parsed(
        {
            "path": "/models",
            "poll_seconds": 0.5,
            "state": "/state",
            "default_policy": {"latest": 2},
            "policies": {
                "a": {"specific": ["1", 2]},
                "b": "all",
                "c": "none",
                "d": {"pinned": "1.5"},
                "e": {"all": True, "pinned": 3},
            },
            "public_keys": "/one.pem",
            "decryption_keys": [{"file": "/key"}, {"credential": "model_key"}],
        }
    )
    assert problems == []
    assert store == Store(
        path=Path("/models"),
        poll_seconds=0.5,
        state=Path("/state"),
        default_policy=Policy("latest", 2),
        policies={
            "a": Policy("specific", versions=("1", "2")),
            "b": Policy("all"),
            "c": Policy("none"),
            "d": Policy("latest", 1, pinned="1.5"),
            "e": Policy("all", pinned="3"),
        },
        public_keys=(Path("/one.pem"),),
        decryption_keys=(KeySource(Path("/key")), KeySource(credential="model_key")),
    )
    assert store.policy("a").versions == ("1", "2")
    assert store.policy("z").count == 2
    assert parsed(None) == (Store(), [])
    assert parsed({"public_keys": ["/a", "/b"]})[0].public_keys == (Path("/a"), Path("/b"))


def test_all_mistakes_at_once() -> None:
    _, problems = parsed(
        {
            "path": "models",
            "default_policy": "newest",
            "policies": {
                "a": {"latest": 0},
                "b": {"latest": 1, "specific": ["1"]},
                "c": {"specific": []},
                "d": {"all": False},
                "e": {"last": 1},
                "f/g": "all",
                "h": 3,
            },
            "decryption_keys": [{"file": "/a", "credential": "b"}, {}, {"path": "/a"}, "/key"],
            "polices": {},
        }
    )
    assert problems == [
        "store.path: 'models' must be an absolute path",
        "store.default_policy: 'newest' is not one of all, none; or {latest: 2}, {specific: [\"1\"]}",
        "store.policies.a.latest: 0 is out of range, must be 1 to 1000",
        "store.policies.b: has latest and specific: keep one of them",
        "store.policies.c.specific: must be a list of versions, not an empty one",
        "store.policies.d.all: must be true or left out",
        "store.policies.e.last: unknown key; did you mean 'latest'?",
        "store.policies.f/g: 'f/g' may only hold letters, digits, '.', '_' and '-'",
        "store.policies.h: must be a mapping of keys to values, not a number",
        "store.decryption_keys[0]: must have either file or credential",
        "store.decryption_keys[1]: must have either file or credential",
        "store.decryption_keys[2]: must have either file or credential",
        "store.decryption_keys[2].path: unknown key; known keys here: credential, file",
        "store.decryption_keys[3]: must be a mapping of keys to values, not text",
        "store.polices: unknown key; did you mean 'policies'?",
    ]
    assert parsed({"decryption_keys": "/key"})[1] == [
        "store.decryption_keys: must be a list of {file: …} and {credential: …}, not text"
    ]


# --------------------------------------------------------------------------------------------------------------------
# What is served
# --------------------------------------------------------------------------------------------------------------------
def put(root: Path, name: str, version: str, content: bytes = b"model") -> Path:
    path = root / name / version
    path.mkdir(parents=True)
    (path / "model.onnx").write_bytes(content)
    entry = {"path": "model.onnx", "sha256": "0" * 64, "size": len(content)}
    (path / "manifest.json").write_text(json.dumps({"schema": 1, "files": [entry]}))
    return path


def served(store: Store, *refs: ModelRef) -> list[str]:
    return [f"{item.name} {item.version}" for item in scan(store, refs)]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    for version in ("1", "2", "10", "1.9"):
        put(root, "m", version)
    put(root, "n", "1")
    return root


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (Policy(), ["m 10"]),
        (Policy("latest", 3), ["m 1.9", "m 2", "m 10"]),
        (Policy("latest", 9), ["m 1", "m 1.9", "m 2", "m 10"]),
        (Policy("specific", versions=("10", "1", "7")), ["m 1", "m 10"]),
        (Policy("all"), ["m 1", "m 1.9", "m 2", "m 10"]),
        (Policy("none"), []),
        (Policy("latest", 1, pinned="2"), ["m 2"]),
        (Policy("latest", 2, pinned="2"), ["m 1.9", "m 2"]),
        (Policy("all", pinned="2"), ["m 1", "m 1.9", "m 2"]),
        (Policy("specific", versions=("1", "10"), pinned="2"), ["m 1"]),
        (Policy("latest", 1, pinned="9"), ["m 2"]),
    ],
)
def test_policies(models: Path, policy: Policy, expected: list[str]) -> None:
    assert served(Store(path=models, default_policy=Policy("none"), policies={"m": policy})) == expected


def test_what_is_not_complete_is_waited_for(models: Path) -> None:
    def reasons() -> dict[str, str]:
        return {str(item.path.relative_to(models)): item.reason for item in survey(Store(path=models)).ignored}

    for version, at in (("11", "manifest.json"), ("12", "model.onnx")):
        (put(models, "m", version) / at).unlink()
    (put(models, "m", "13") / "model.onnx").write_bytes(b"mod")
    (put(models, "m", "14") / "manifest.json").write_text("{")
    (put(models, "m", "15") / "manifest.json").write_text('{"files": [{"path": "a\\u0000b", "size": 1}]}')
    put(models, "m", ".staging-16")
    put(models, "m", "a b")
    put(models, ".hidden", "1")
    (models / "README").write_text("not a model")
    assert served(Store(path=models)) == ["m 10", "n 1"]
    assert reasons() == {
        "m/11": "it has no manifest.json (yet)",
        "m/12": "model.onnx is not there (yet)",
        "m/13": "model.onnx has 3 of 5 bytes: it is being copied, or damaged",
        "m/14": "its manifest.json is not one of a model package",
        "m/15": "its manifest.json is not one of a model package",
        "m/a b": "its name 'a b' may only hold letters, digits, '.', '_' and '-'",
    }
    # As soon as the copy is complete, it counts.
    (models / "m/13/model.onnx").write_bytes(b"model")
    assert served(Store(path=models)) == ["m 13", "n 1"]


def test_a_manifest_without_sizes_is_believed(models: Path) -> None:
    # Packages made before sizes were written.
    (put(models, "m", "20") / "manifest.json").write_text('{"files": [{"path": "model.onnx"}]}')
    assert served(Store(path=models)) == ["m 20", "n 1"]


def test_the_stamp_says_when_a_package_changed(models: Path) -> None:
    def stamp() -> str:
        return scan(Store(path=models))[0].stamp

    first = stamp()
    assert stamp() == first
    manifest = models / "m/10/manifest.json"
    os.utime(manifest, (1, 1))
    second = stamp()
    assert second != first
    (models / "m/10/manifest.json.sig").write_text("signed")
    assert stamp() != second


def test_manifests_are_read_once(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(path=models)
    scan(store)
    monkeypatch.setattr("ai102_server.repository.store.orjson.loads", lambda _: pytest.fail("parsed again"))
    assert served(store) == ["m 10", "n 1"]


def test_a_store_that_cannot_be_read_is_an_error_not_an_empty_one(models: Path) -> None:
    with pytest.raises(ModelError, match=r"model store: .*gone cannot be read: No such file"):
        scan(Store(path=models / "gone"))


def test_listed_models_are_always_served(models: Path, tmp_path: Path) -> None:
    elsewhere = put(tmp_path, "elsewhere", "5")
    refs = (ModelRef("m", "5", elsewhere), ModelRef("o", "1", tmp_path / "broken"), ModelRef("m", "10", elsewhere))
    found = {(item.name, item.version): item.path for item in scan(Store(path=models), refs)}
    assert found == {
        ("m", "5"): elsewhere,
        ("m", "10"): elsewhere,
        ("n", "1"): models / "n/1",
        ("o", "1"): tmp_path / "broken",
    }
    assert served(Store(), *refs) == ["m 5", "m 10", "o 1"]
    assert scan(Store()) == []


# --------------------------------------------------------------------------------------------------------------------
# Pins
# --------------------------------------------------------------------------------------------------------------------
@pytest.fixture
def store(models: Path, tmp_path: Path) -> Store:
    return Store(path=models, state=tmp_path / "state/models")


def test_rollback_step_by_step(store: Store, models: Path) -> None:
    assert rollback(store, "m") == "2"
    assert served(store) == ["m 2", "n 1"]
    # A new version does not undo it, and neither does another process.
    put(models, "m", "11")
    assert served(Store(path=store.path, state=store.state)) == ["m 2", "n 1"]
    assert survey(store).pins == {"m": "2"}
    assert rollback(store, "m") == "1.9"
    assert rollback(store, "m") == "1"
    with pytest.raises(ModelError, match="model 'm' has no version before '1' to roll back to"):
        rollback(store, "m")
    unpin(store, "m")
    unpin(store, "m")
    assert served(store) == ["m 11", "n 1"]
    assert read_pins(store) == {}


def test_rollback_keeps_to_the_policy(store: Store) -> None:
    specific = Store(store.path, state=store.state, policies={"m": Policy("specific", versions=("1", "10"))})
    assert rollback(specific, "m") == "1"
    assert served(specific) == ["m 1", "n 1"]


def test_rollback_of_listed_models(store: Store, tmp_path: Path) -> None:
    refs = tuple(ModelRef("x", version, put(tmp_path, "x", version)) for version in ("1", "2"))
    only_listed = Store(state=store.state)
    assert rollback(only_listed, "x", refs) == "1"
    assert served(only_listed, *refs) == ["x 1"]


def test_a_pin_is_one_of_what_is_there(store: Store) -> None:
    pin(store, "m", "1.9")
    assert served(store) == ["m 1.9", "n 1"]
    with pytest.raises(ModelError, match=r"'m' has no version '7' in the store; there is: 1, 1\.9, 2, 10$"):
        pin(store, "m", "7")
    with pytest.raises(ModelError, match="'z' has no version '1' in the store; there is none"):
        pin(store, "z", "1")
    with pytest.raises(ModelError, match="model 'z' is not served"):
        rollback(store, "z")


def test_a_pinned_version_that_is_gone_lets_nothing_newer_through(store: Store, models: Path) -> None:
    pin(store, "m", "2")
    shutil.rmtree(models / "m/2")
    found = survey(store)
    assert [item.version for item in found.desired if item.name == "m"] == ["1.9"]
    assert [item.reason for item in found.ignored] == [
        "version '2' is pinned, but cannot be served; newer versions are held back"
    ]


def test_an_operators_pin_comes_before_the_configuration(store: Store) -> None:
    pinned = Store(store.path, state=store.state, default_policy=Policy(pinned="2"))
    assert served(pinned) == ["m 2", "n 1"]
    pin(pinned, "m", "10")
    assert served(pinned) == ["m 10", "n 1"]


def test_pins_that_cannot_be_read_or_written(store: Store, models: Path) -> None:
    with pytest.raises(ModelError, match=r"store\.state is not configured"):
        rollback(Store(path=models), "m")
    assert store.state is not None
    store.state.mkdir(parents=True)
    for text in ("{", "[]", '{"schema": 2, "pins": {}}', '{"schema": 1, "pins": {"m": 1}}'):
        (store.state / "pins.json").write_text(text)
        # Serving the newest version by mistake would undo what an operator decided.
        with pytest.raises(
            ModelError, match=r"pins\.json (is not .*|cannot be .*); remove it to serve what the policies say"
        ):
            scan(store)
    (models / "file").write_text("")
    with pytest.raises(ModelError, match=r"pins\.json cannot be read: Not a directory"):
        rollback(Store(path=models, state=models / "file/state"), "m")


def test_a_failed_write_leaves_the_old_pins(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    pin(store, "m", "2")
    assert store.state is not None

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ai102_server.repository.store.os.fsync", full)
    with pytest.raises(ModelError, match=r"pins\.json cannot be written: No space left"):
        pin(store, "m", "1")
    assert read_pins(store) == {"m": "2"}
    assert sorted(path.name for path in store.state.iterdir()) == [".pins.json.lock", "pins.json"]


def _pin(store: Store, name: str) -> None:
    pin(store, name, "1")


def test_writers_do_not_forget_each_others_pins(store: Store, models: Path) -> None:
    names = [f"p{number}" for number in range(8)]
    for name in names:
        put(models, name, "1")
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_pin, args=(store, name)) for name in names]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert read_pins(store) == dict.fromkeys(names, "1")


# --------------------------------------------------------------------------------------------------------------------
# Keys
# --------------------------------------------------------------------------------------------------------------------
def test_keys_of_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths: list[Path] = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        paths.append(Signer(tmp_path / name).public_key)
    assert public_keys(Store()) is None
    found = public_keys(Store(public_keys=(paths[0],)), paths[1])
    assert found is not None
    assert len(found) == 2
    key = tmp_path / "key"
    key.write_bytes(bytes(32))
    key.chmod(0o600)
    (tmp_path / "model_key").write_bytes(bytes(range(32)))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    sources = (KeySource(file=key), KeySource(credential="model_key"))
    assert len(decryption_keys(Store(decryption_keys=sources)).ids) == 2


def test_a_store_stands_in_for_a_list_of_models() -> None:
    listen = {"uds": "/run/x.sock"}
    config = parse_config({"listen": listen, "store": {"path": "/models"}})
    assert (config.models, config.store.path) == ((), Path("/models"))
    with pytest.raises(ConfigError, match=r"models: is missing: .* or name a directory in store\.path"):
        parse_config({"listen": listen, "store": {"state": "/state"}})
