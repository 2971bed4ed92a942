# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Facts of ONNX model files."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

onnx = pytest.importorskip("onnx")

from ansible_collections.ai102.inference.plugins.module_utils._onnx import (  # noqa: E402 - after importorskip
    ModelFileError,
    model_facts,
)


def save_model(path: Path, weight: float = 2.0, external: bool = False) -> Path:
    """Write a model ``y = x * weight`` with a dynamic batch."""
    content = struct.pack("<2f", weight, weight)
    tensor = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [1, 2], content, raw=True)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Mul", ["x", "w"], ["y"])],
        "g",
        [
            onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 2]),
            onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [1, 2]),
        ],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 2])],
        [tensor],
    )
    model = onnx.helper.make_model(
        graph,
        opset_imports=[onnx.helper.make_opsetid("", 17)],
        producer_name="test",
        producer_version="1",
        ir_version=8,
    )
    entry = model.metadata_props.add()
    entry.key, entry.value = "task", "double"
    if external:
        onnx.save(model, str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    else:
        onnx.save(model, str(path))
    return path


def test_facts_of_a_small_model(tmp_path: Path) -> None:
    path = save_model(tmp_path / "m.onnx")
    facts = model_facts(path)
    assert facts["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2], "dynamic_axes": {"0": "batch"}}]
    assert facts["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1, 2], "dynamic_axes": {"0": "batch"}}]
    assert facts["batchable"] is True
    assert facts["opset"] == {"ai.onnx": 17}
    assert facts["ir_version"] == 8
    assert facts["producer"] == "test 1"
    assert facts["metadata"] == {"task": "double"}
    assert facts["operators"] == {"Mul": 1}
    assert facts["parameters"] == 2
    assert facts["external_files"] == []
    assert facts["size"] == path.stat().st_size


def test_weights_beside_the_model_are_named_and_counted(tmp_path: Path) -> None:
    facts = model_facts(save_model(tmp_path / "m.onnx", external=True))
    assert facts["external_files"] == ["weights.bin"]
    assert facts["external_size"] == (tmp_path / "weights.bin").stat().st_size > 0


def test_datatypes_have_their_v2_names(tmp_path: Path) -> None:
    kinds = {"STRING": "BYTES", "INT64": "INT64", "FLOAT16": "FP16", "BOOL": "BOOL", "UINT8": "UINT8", "DOUBLE": "FP64"}
    values = [onnx.helper.make_tensor_value_info(kind, getattr(onnx.TensorProto, kind), [1]) for kind in kinds]
    outputs = [onnx.helper.make_tensor_value_info(f"o{v.name}", v.type.tensor_type.elem_type, [1]) for v in values]
    nodes = [onnx.helper.make_node("Identity", [kind], [f"o{kind}"]) for kind in kinds]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "g", values, outputs),
        opset_imports=[onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.microsoft", 1)],
        ir_version=8,
    )
    onnx.save(model, str(tmp_path / "m.onnx"))
    facts = model_facts(tmp_path / "m.onnx")
    assert {tensor["name"]: tensor["datatype"] for tensor in facts["inputs"]} == kinds
    assert facts["opset"] == {"ai.onnx": 17, "com.microsoft": 1}
    assert facts["batchable"] is False


def test_operators_of_branches_and_other_domains_are_counted(tmp_path: Path) -> None:
    branch = onnx.helper.make_graph(
        [onnx.helper.make_node("Gelu", ["x"], ["b"], domain="com.microsoft")],
        "then",
        [],
        [onnx.helper.make_tensor_value_info("b", onnx.TensorProto.FLOAT, [1])],
    )
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)],
            "g",
            [
                onnx.helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, [1]),
                onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1]),
            ],
            [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])],
        ),
        ir_version=8,
    )
    onnx.save(model, str(tmp_path / "m.onnx"))
    assert model_facts(tmp_path / "m.onnx", check=False)["operators"] == {"If": 1, "com.microsoft:Gelu": 2}


@pytest.mark.parametrize("content", [b"", b"not a model at all", b"\x08\x07garbage" * 50])
def test_what_is_no_model_is_said_so(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ModelFileError, match=r"m\.onnx is not an ONNX model"):
        model_facts(tmp_path / "m.onnx")


def test_a_truncated_model_is_damaged(tmp_path: Path) -> None:
    path = save_model(tmp_path / "m.onnx")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ModelFileError, match=r"m\.onnx is (damaged|not an ONNX model)"):
        model_facts(path)


def test_a_graph_that_refers_to_nothing_is_damaged(tmp_path: Path) -> None:
    path = save_model(tmp_path / "m.onnx")
    model = onnx.load(str(path))
    model.graph.node[0].input[1] = "no_such_tensor"
    onnx.save(model, str(path))
    with pytest.raises(ModelFileError, match="is damaged"):
        model_facts(path)
    assert model_facts(path, check=False)["operators"] == {"Mul": 1}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"nowhere\.onnx cannot be read: No such file"):
        model_facts(tmp_path / "nowhere.onnx")
