# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from ai102_server.config import Execution, load_config, parse_config
from ai102_server.errors import ConfigError

MINIMAL: dict[str, Any] = {"listen": {"port": 1}, "models": []}
FULL: dict[str, Any] = {
    "listen": {
        "host": "0.0.0.0",
        "port": 8443,
        "tls": {"certificate": "/pki/fullchain.pem", "key": "/pki/key.pem", "client_ca": "/pki/client_ca.pem"},
    },
    "threads": 8,
    "start": "degraded",
    "models": [{"name": "lines", "version": "1", "path": "/models/lines/1"}],
    "model_signing_public_key": "/etc/ai102/model_signing.pub",
    "execution": {
        "providers": ["CUDAExecutionProvider", "CPUExecutionProvider"],
        "required_provider": "CUDAExecutionProvider",
        "intra_op_threads": 2,
        "inter_op_threads": 1,
        "provider_options": {"CUDAExecutionProvider": {"device_id": 0, "do_copy_in_default_stream": True}},
    },
    "limits": {"max_body_bytes": 1048576, "drain_seconds": 20},
    "log": {"level": "info"},
    "release": "abc",
}


def changed(path: str, value: object) -> dict[str, Any]:
    """``FULL`` with the key at ``path`` set, or removed when ``value`` is ``...``."""
    document: dict[str, Any] = copy.deepcopy(FULL)
    *parents, last = path.split(".")
    target: Any = document
    for key in parents:
        target = target[int(key) if isinstance(target, list) else key]
    if value is ...:
        del target[last]
    else:
        target[last] = value
    return document


def problems(document: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(document)
    return caught.value.problems


def test_full_document() -> None:
    config = parse_config(FULL)
    assert config.listen.tls is not None
    assert config.listen.tls.client_ca == Path("/pki/client_ca.pem")
    assert config.listen.tls.minimum_version == "1.3"
    assert config.models[0].path == Path("/models/lines/1")
    assert config.threads == 8
    assert config.execution.required_provider == "CUDAExecutionProvider"
    # ONNX Runtime takes text, and 1 for true.
    assert config.execution.provider_options["CUDAExecutionProvider"] == {
        "device_id": "0",
        "do_copy_in_default_stream": "1",
    }
    assert config.limits.drain_seconds == 20
    assert config.release == "abc"


def test_defaults() -> None:
    config = parse_config({"listen": {"port": 8080}, "models": []})
    assert config.listen.host == "127.0.0.1"
    assert config.listen.tls is None
    assert config.execution.providers == ("CPUExecutionProvider",)
    assert config.execution.allow_spinning is False
    assert config.start == "strict"
    assert config.limits.max_body_bytes == 32 * 1024 * 1024


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("thread", 3, "thread: unknown key; did you mean 'threads'?"),
        ("zzz", 3, "zzz: unknown key; known keys here: access, batching, execution"),
        ("listen.tls.certifcate", "/x", "listen.tls.certifcate: unknown key; did you mean 'certificate'?"),
        ("models.0.pth", "/x", "models[0].pth: unknown key; did you mean 'path'?"),
        ("threads", "4", "threads: '4' is neither a whole number nor auto"),
        ("threads", True, "threads: must be a whole number, not true/false"),
        ("threads", 0, "threads: 0 is out of range, must be 1 to 1024"),
        ("listen", ..., "listen: is missing: give host and port, or uds"),
        ("listen", [1], "listen: must be a mapping of keys to values, not a list"),
        ("listen.port", 70000, "listen.port: 70000 is out of range, must be 0 to 65535"),
        ("listen.uds", "/run/x.sock", "listen.uds: cannot stand beside host and port: keep one of them"),
        ("listen.tls.key", ..., "listen.tls.key: is missing: path of the private key (PEM)"),
        ("listen.tls.key", "key.pem", "listen.tls.key: 'key.pem' must be an absolute path"),
        ("listen.tls.minimum_version", "1.1", "listen.tls.minimum_version: '1.1' is not one of 1.2, 1.3"),
        ("listen.uds_mode", "0999", "listen.uds_mode: must be an octal file mode in quotes"),
        ("models", ..., "models: is missing: list the models to serve"),
        ("models", {"a": 1}, "models: must be a list, not a mapping"),
        ("models", [FULL["models"][0]] * 2, "models[1]: model 'lines' version '1' is listed twice"),
        ("models.0.version", 1.1, "models[0].version: must be text, not a number; write it in quotes"),
        ("models.0.version", ..., "models[0].version: is missing: version of the model, as text"),
        ("models.0.name", "a/b", "models[0].name: 'a/b' may only hold letters, digits"),
        ("models.0.name", "..", "models[0].name: '..' may only hold"),
        ("execution.required_provider", "TensorrtExecutionProvider", "is not among providers: add it there"),
        ("execution.providers", ["CUDA"], "execution.providers: 'CUDA' is not an execution provider; write it in full"),
        ("execution.providers", [], "execution.providers: must be a list of execution providers"),
        ("execution.provider_options", {"XExecutionProvider": {}}, "'XExecutionProvider' is not among providers"),
        ("execution.allow_spinning", "no", "execution.allow_spinning: must be true or false, not text"),
        ("execution.graph_optimisation", "al", "did you mean 'all'?"),
        ("start", "strickt", "start: 'strickt' is not one of strict, degraded; did you mean 'strict'?"),
        ("limits.drain_seconds", 0, "limits.drain_seconds: 0 is out of range, must be 1 to 3600 seconds"),
        ("log.level", "loud", "log.level: 'loud' is not one of debug, info, warning, error"),
    ],
)
def test_says_what_is_wrong_and_where(path: str, value: object, expected: str) -> None:
    found = problems(changed(path, value))
    assert any(expected in problem for problem in found), found
    assert len(found) == 1, found


def test_all_mistakes_at_once() -> None:
    found = problems({"listen": {"prot": 1}, "models": [{"nam": "a"}], "threads": -1})
    assert len(found) == 6, found


def test_tls_on_a_unix_socket_is_refused() -> None:
    tls = {"certificate": "/a", "key": "/b"}
    assert "tls" in problems({"listen": {"uds": "/run/x", "tls": tls}, "models": []})[0]


def test_whole_numbers_are_versions_and_empty_sections_are_absent() -> None:
    config = parse_config({**FULL, "models": [{**FULL["models"][0], "version": 3}], "limits": None})
    assert config.models[0].version == "3"
    assert config.limits.queue == 64


@pytest.mark.parametrize("document", [None, [], "text"])
def test_not_a_mapping(document: object) -> None:
    assert problems(document)


def test_file(tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    with pytest.raises(ConfigError, match=r"config\.yml: cannot be read: No such file"):
        load_config(path)
    path.write_text("listen: {port: 8080}\nmodels: []\n")
    assert load_config(path).listen.port == 8080
    path.write_text("listen: {port: 8080")
    with pytest.raises(ConfigError, match="is not valid YAML"):
        load_config(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(path)


def test_release_is_the_directory_below_releases(tmp_path: Path) -> None:
    directory = tmp_path / "releases" / "3f2a"
    directory.mkdir(parents=True)
    (directory / "config.yml").write_text("listen: {port: 8080}\nmodels: []\n")
    (tmp_path / "current").symlink_to(directory)
    assert load_config(tmp_path / "current" / "config.yml").release == "3f2a"
    (directory / "config.yml").write_text("listen: {port: 8080}\nmodels: []\nrelease: mine\n")
    assert load_config(tmp_path / "current" / "config.yml").release == "mine"
    (tmp_path / "config.yml").write_text("listen: {port: 8080}\nmodels: []\n")
    assert load_config(tmp_path / "config.yml").release is None


def test_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert Execution(devices=(1, 3)).gpus() == (1, 3)
    assert Execution().gpus() == (0,)
    monkeypatch.setattr(
        Path, "glob", lambda _self, _pattern: map(Path, ["/dev/nvidia0", "/dev/nvidia1", "/dev/nvidiactl"])
    )
    assert Execution().gpus() == (0, 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,7")
    assert Execution().gpus() == (0, 1, 2), "CUDA numbers those that are visible"


def test_workers_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def plan(processors: int, **more: Any) -> tuple[int, int]:
        monkeypatch.setattr("ai102_server.config.processors", lambda: processors)
        config = parse_config({**MINIMAL, **more})
        return config.plan_workers(), config.plan_threads()

    assert plan(1) == (1, 1)
    assert plan(4) == (4, 1)
    assert plan(64) == (8, 8)
    assert plan(8, execution={"intra_op_threads": 4}) == (2, 1)
    assert plan(8, workers=2) == (2, 4)
    assert plan(8, workers=2, threads=3) == (2, 3)
    assert plan(8, workers="auto", threads="auto") == (8, 1)
    gpus = {"providers": ["CUDAExecutionProvider"], "devices": [0, 1, 2]}
    assert plan(64, execution=gpus) == (12, 2)
    assert plan(6, execution=gpus) == (3, 2), "a processor for each GPU's engine process"
    assert plan(2, execution=gpus) == (3, 2)
    assert plan(64, execution={**gpus, "engine": "worker"}) == (3, 2)


def test_engine_processes() -> None:
    def uses(*providers: str, **more: Any) -> bool:
        execution = {"providers": list(providers), **more}
        return parse_config({**MINIMAL, "execution": execution}).execution.engine_processes

    assert not uses("CPUExecutionProvider")
    assert uses("CPUExecutionProvider", engine="process")
    assert uses("CUDAExecutionProvider", "CPUExecutionProvider")
    assert uses("TensorrtExecutionProvider")
    assert not uses("CUDAExecutionProvider", engine="worker")
    with pytest.raises(ConfigError, match=r"execution\.engine.*auto, worker, process"):
        uses("CPUExecutionProvider", engine="thread")


def test_named_options_of_gpus() -> None:
    execution = parse_config(
        {
            **MINIMAL,
            "execution": {
                "providers": ["TensorrtExecutionProvider", "CUDAExecutionProvider"],
                "cuda": {"memory_limit_bytes": 1 << 30, "arena_strategy": "same_as_requested", "tf32": False},
                "tensorrt": {"fp16": True, "int8": True, "calibration_table": "t.flatbuffers", "engine_cache": "/c"},
                "provider_options": {"CUDAExecutionProvider": {"use_tf32": True}},
            },
        }
    ).execution
    assert execution.provider_options == {
        "CUDAExecutionProvider": {
            "gpu_mem_limit": str(1 << 30),
            "arena_extend_strategy": "kSameAsRequested",
            "use_tf32": "1",
        },
        "TensorrtExecutionProvider": {
            "trt_fp16_enable": "1",
            "trt_int8_enable": "1",
            "trt_int8_calibration_table_name": "t.flatbuffers",
            "trt_int8_use_native_calibration_table": "0",
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": "/c",
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": "/c",
        },
    }
    assert "did you mean 'tf32'?" in "".join(problems({**MINIMAL, "execution": {"cuda": {"tf23": True}}}))
