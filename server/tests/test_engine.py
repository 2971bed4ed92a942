# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from ai102_server.config import Execution, ModelRef, parse_config
from ai102_server.engine import Admission, LoadedModel, Loader, ModelSession, Registry, load_registry
from ai102_server.errors import RequestError
from toolkit import DOUBLING_GOLDEN, Signer, doubling_model, doubling_request, echo_model, save_model

CPU = Execution()
NO_MODELS = parse_config({"listen": {"port": 1}, "models": []})


def loaded(signer: Signer, entry: dict[str, str], execution: Execution = CPU) -> LoadedModel:
    ref = ModelRef(entry["name"], entry["version"], Path(entry["path"]))
    config = replace(NO_MODELS, execution=execution, model_signing_public_key=signer.public_key)
    return Loader(config).load(ref)


def golden(**changes: Any) -> list[dict[str, Any]]:
    return [{**DOUBLING_GOLDEN[0], **changes}]


def test_good_model(signer: Signer) -> None:
    model = loaded(signer, signer.package("m", "1", doubling_model, DOUBLING_GOLDEN))
    assert model.reason is None
    assert model.ready
    assert model.provider == "CPUExecutionProvider"
    assert model.golden == 1


def test_wrong_golden_answer(signer: Signer) -> None:
    model = loaded(signer, signer.package("m", "1", lambda path: doubling_model(path, 2.01), DOUBLING_GOLDEN))
    assert not model.ready
    assert model.reason == (
        "golden answer 0 is not reproduced on CPUExecutionProvider: output 'y': 3 of 3 elements differ "
        "(tolerance 0.001): [0] 2.01 instead of 2.0, [1] 4.02 instead of 4.0, [2] 6.0299997 instead of 6.0"
    )


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (golden(request=doubling_request([[1, 2]])), "golden request 0 is not one for this model: 'data' of input 'x'"),
        (
            golden(response={"outputs": [{"name": "q", "shape": [1], "datatype": "FP32", "data": [1]}]}),
            "golden answer 0 names unknown outputs: q",
        ),
        ([], "must hold a list 'requests' with at least one entry"),
    ],
)
def test_golden_answers_of_another_model(signer: Signer, answers: list[dict[str, Any]], expected: str) -> None:
    model = loaded(signer, signer.package("m", "1", doubling_model, answers))
    assert expected in str(model.reason)


def test_required_provider_that_is_not_there(signer: Signer) -> None:
    assert "CUDAExecutionProvider" not in ort.get_available_providers()
    execution = Execution(
        providers=("CUDAExecutionProvider", "CPUExecutionProvider"), required_provider="CUDAExecutionProvider"
    )
    model = loaded(signer, signer.package("m", "1", doubling_model, DOUBLING_GOLDEN), execution)
    assert model.reason == (
        "required execution provider CUDAExecutionProvider is not there: "
        "ONNX Runtime runs the model on CPUExecutionProvider"
    )
    assert model.provider == "CPUExecutionProvider"


def test_provider_that_is_not_required_may_be_missing_but_is_not_claimed(signer: Signer) -> None:
    execution = Execution(
        providers=("CUDAExecutionProvider", "CPUExecutionProvider"),
        provider_options={"CUDAExecutionProvider": {"device_id": "0"}},
    )
    model = loaded(signer, signer.package("m", "1", doubling_model, DOUBLING_GOLDEN), execution)
    assert model.ready
    assert model.provider == "CPUExecutionProvider"


def test_nvidia_libraries_are_loaded_before_the_first_session(
    monkeypatch: pytest.MonkeyPatch, base_config: dict[str, Any]
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(ort, "preload_dlls", lambda: calls.append("preload"))
    load_registry(parse_config(base_config))
    assert calls == []
    execution = {"providers": ["CUDAExecutionProvider", "CPUExecutionProvider"]}
    load_registry(parse_config({**base_config, "models": [], "execution": execution}))
    assert calls == ["preload"]


def test_session_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}
    real = ort.InferenceSession

    def spy(path: str, **options: Any) -> Any:
        seen.update(options)
        return real(path, **options)

    monkeypatch.setattr(ort, "InferenceSession", spy)
    execution = Execution(intra_op_threads=3, inter_op_threads=2, graph_optimisation="basic")
    ModelSession(doubling_model(tmp_path / "m.onnx"), execution)
    options = seen["sess_options"]
    assert options.intra_op_num_threads == 3
    assert options.inter_op_num_threads == 2
    assert options.execution_mode == ort.ExecutionMode.ORT_PARALLEL
    assert options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert seen["enable_fallback"] == 0


def test_manifest_that_declares_other_tensors(signer: Signer) -> None:
    declared = [{"name": "x", "datatype": "FP64", "shape": [-1, 3]}]
    model = loaded(signer, signer.package("m", "1", doubling_model, DOUBLING_GOLDEN, inputs=declared))
    assert "the manifest's inputs" in str(model.reason)


def garbage(path: Path) -> Path:
    path.write_bytes(b"this is no model")
    return path


def test_garbage(signer: Signer) -> None:
    model = loaded(signer, signer.package("m", "1", garbage))
    assert "ONNX Runtime cannot load" in str(model.reason)
    assert model.session is None


def sequence_model(path: Path) -> Path:
    graph = helper.make_graph(
        [helper.make_node("SequenceConstruct", ["x"], ["y"])],
        "sequence",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)],
    )
    return save_model(graph, path)


def test_model_that_the_protocol_cannot_carry(signer: Signer) -> None:
    model = loaded(signer, signer.package("m", "1", sequence_model))
    assert "output 'y' is of type seq(tensor(float)), which V2 cannot carry" in str(model.reason)


def test_models_without_golden_answers_are_warmed_up_with_zeros(signer: Signer) -> None:
    model = loaded(signer, signer.package("m", "1", echo_model))
    assert model.ready
    assert model.session is not None
    sample = model.session.sample_inputs()
    assert sample["in_BYTES"].tolist() == [[""]]
    assert sample["in_FP16"].dtype == np.float16


def test_a_bug_in_a_library_costs_one_model_only(monkeypatch: pytest.MonkeyPatch, base_config: dict[str, Any]) -> None:
    monkeypatch.setattr("ai102_server.engine.loader.open_package", _failing_for("doubling"))
    registry = load_registry(parse_config(base_config))
    states = {(model.name, model.version): model.reason for model in registry}
    assert states["doubling", "1"] == "unexpected RuntimeError, see the log"
    assert states["slow", "1"] is None


def _failing_for(name: str) -> Callable[..., Any]:
    from ai102_server.repository import open_package

    def fail(path: Path, model: str, version: str, *keys: Any) -> Any:
        if model == name:
            raise RuntimeError("surprise")
        return open_package(path, model, version, *keys)

    return fail


def test_unusable_key_makes_every_model_not_ready(base_config: dict[str, Any], tmp_path: Path) -> None:
    config = parse_config({**base_config, "model_signing_public_key": str(tmp_path / "absent.pem")})
    registry = load_registry(config)
    assert not registry.ready
    assert all("cannot be read" in str(model.reason) for model in registry)


# --------------------------------------------------------------------------------------------------------------------
# Versions, admission
# --------------------------------------------------------------------------------------------------------------------
def test_versions() -> None:
    order = ["1", "1.9", "1.10", "2", "10"]
    registry = Registry(LoadedModel("m", version, None, None, None) for version in ("10", "1.9", "2", "1.10", "1"))
    assert registry.versions("m") == order
    assert registry.get("m").version == "10"
    assert registry.get("m", "2").version == "2"
    with pytest.raises(RequestError, match="unknown model 'q'") as caught:
        registry.get("q")
    assert caught.value.status == 404
    with pytest.raises(RequestError, match=r"model 'm' has no version '3'; there is: 1, 1\.9, 1\.10, 2, 10"):
        registry.get("m", "3")


def test_admission() -> None:
    admission = Admission(2)
    admission.enter()
    admission.enter()
    with pytest.raises(RequestError) as caught:
        admission.enter()
    assert caught.value.status == 503
    assert caught.value.retry_after == 1
    assert admission.inflight == 2
    admission.leave()
    assert admission.inflight == 1
    admission.enter()
    assert admission.inflight == 2
