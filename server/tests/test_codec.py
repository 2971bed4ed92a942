# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import math
import struct
from typing import Any

import numpy as np
import pytest

from ai102_server.codec import DATATYPES, InferRequest, TensorSpec, decode_request, encode_response
from ai102_server.codec.v2 import OutputRequest
from ai102_server.errors import RequestError

VALUES: dict[str, list[Any]] = {
    "BOOL": [True, False, True, True],
    "UINT8": [0, 1, 254, 255],
    "UINT16": [0, 1, 2, 65535],
    "UINT32": [0, 1, 2, 2**32 - 1],
    "UINT64": [0, 1, 2**63, 2**64 - 1],
    "INT8": [-128, -1, 0, 127],
    "INT16": [-(2**15), -1, 0, 2**15 - 1],
    "INT32": [-(2**31), -1, 0, 2**31 - 1],
    "INT64": [-(2**63), -1, 0, 2**63 - 1],
    "FP16": [0.0, -1.5, 65504.0, 0.25],
    "FP32": [0.0, -1.5, 2.0**100, 0.1],
    "FP64": [0.0, -1.5, 1e300, 0.1],
    "BYTES": ["", "text", "zwölf", "nul\0inside"],
}
FORMATS = dict(
    zip(
        ("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64"),
        "?BHIQbhiqefd",
        strict=True,
    )
)


def spec(datatype: str = "FP32", shape: tuple[int, ...] = (-1, 2), name: str = "x") -> TensorSpec:
    return TensorSpec(name, DATATYPES[datatype], shape)


def raw(datatype: str, values: list[Any]) -> bytes:
    """The binary form by way of ``struct``, so that numpy is not checked by numpy."""
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(v.encode())) + v.encode() for v in values)
    return struct.pack(f"<{len(values)}{FORMATS[datatype]}", *values)


def tensor(**changes: Any) -> dict[str, Any]:
    item = {"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4], **changes}
    return {key: value for key, value in item.items() if value is not ...}


def decode(document: object, *specs: TensorSpec, outputs: tuple[TensorSpec, ...] = ()) -> InferRequest:
    inputs = {s.name: s for s in specs or (spec(),)}
    return decode_request(json.dumps(document).encode(), None, inputs, {s.name: s for s in outputs})


def decode_binary(document: object, tail: bytes, *specs: TensorSpec, length: str | None = None) -> InferRequest:
    head = json.dumps(document).encode()
    return decode_request(
        head + tail, str(len(head)) if length is None else length, {s.name: s for s in specs or (spec(),)}, {}
    )


def refusal(document: object, *specs: TensorSpec) -> str:
    with pytest.raises(RequestError) as caught:
        decode(document, *specs)
    assert caught.value.status == 400
    return caught.value.message


# --------------------------------------------------------------------------------------------------------------------
# Every datatype, both encodings, both ways
# --------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("datatype", VALUES)
@pytest.mark.parametrize("nested", [False, True])
def test_json_input(datatype: str, nested: bool) -> None:
    values = VALUES[datatype]
    data = [values[:2], values[2:]] if nested else values
    array = decode({"inputs": [tensor(datatype=datatype, data=data)]}, spec(datatype)).inputs["x"]
    assert array.dtype == DATATYPES[datatype].dtype
    assert array.shape == (2, 2)
    expected = np.array(values, dtype=DATATYPES[datatype].dtype)
    assert array.reshape(-1).tolist() == expected.tolist()


@pytest.mark.parametrize("datatype", VALUES)
def test_binary_input(datatype: str) -> None:
    values = VALUES[datatype]
    tail = raw(datatype, values)
    # Every length of the JSON part, so that tensors begin at every alignment.
    for padding in range(8):
        item = tensor(datatype=datatype, data=..., parameters={"binary_data_size": len(tail), "p": " " * padding})
        array = decode_binary({"inputs": [item]}, tail, spec(datatype)).inputs["x"]
        assert array.dtype == DATATYPES[datatype].dtype
        assert array.flags.aligned
        assert array.flags.c_contiguous
        expected = np.array(values, dtype=DATATYPES[datatype].dtype)
        assert array.reshape(-1).tolist() == expected.tolist()


@pytest.mark.parametrize("datatype", VALUES)
@pytest.mark.parametrize("binary", [False, True])
def test_output(datatype: str, binary: bool) -> None:
    values = VALUES[datatype]
    array = np.empty((2, 2), dtype=DATATYPES[datatype].dtype)
    array.reshape(-1)[:] = values
    request = InferRequest("id-1", {}, (OutputRequest("x", binary),))
    response = encode_response("m", "1", request, [array], {"x": spec(datatype)})
    length = response.header_length if binary else len(response.body)
    document = json.loads(response.body[:length])
    assert (document["model_name"], document["model_version"]) == ("m", "1")
    assert document["id"] == "id-1"
    (output,) = document["outputs"]
    assert (output["name"], output["shape"], output["datatype"]) == ("x", [2, 2], datatype)
    if binary:
        assert output["parameters"] == {"binary_data_size": len(raw(datatype, values))}
        assert response.body[length:] == raw(datatype, values)
        assert response.content_type == "application/octet-stream"
    else:
        assert output["data"] == pytest.approx(values) if datatype.startswith("FP") else output["data"] == values
        assert response.content_type == "application/json"


# --------------------------------------------------------------------------------------------------------------------
# Requests
# --------------------------------------------------------------------------------------------------------------------
def test_several_tensors_mixed() -> None:
    a, b, c = spec("INT32", (2,), "a"), spec("FP16", (1, 2), "b"), spec("BYTES", (-1,), "c")
    tail = raw("INT32", [7, 8]) + raw("BYTES", ["é"])
    items = [
        {"name": "a", "shape": [2], "datatype": "INT32", "parameters": {"binary_data_size": 8}},
        {"name": "b", "shape": [1, 2], "datatype": "FP16", "data": [0.5, 1]},
        {"name": "c", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 6}},
    ]
    inputs = decode_binary({"inputs": items}, tail, a, b, c).inputs
    assert inputs["a"].tolist() == [7, 8]
    assert inputs["b"].tolist() == [[0.5, 1.0]]
    assert inputs["c"].tolist() == ["é"]


def test_outputs() -> None:
    outputs = (spec(name="y"), spec(name="z"))
    document: dict[str, Any] = {"inputs": [tensor()]}
    assert decode(document, outputs=outputs).outputs == (OutputRequest("y", False), OutputRequest("z", False))
    document["parameters"] = {"binary_data_output": True}
    assert decode(document, outputs=outputs).outputs == (OutputRequest("y", True), OutputRequest("z", True))
    document["outputs"] = [{"name": "z", "parameters": {"binary_data": False}}, {"name": "y"}]
    assert decode(document, outputs=outputs).outputs == (OutputRequest("z", False), OutputRequest("y", True))


def test_scalar_and_empty() -> None:
    scalar = decode({"inputs": [tensor(shape=[], data=[5])]}, spec(shape=())).inputs["x"]
    assert scalar.shape == ()
    assert scalar == 5
    empty = decode({"inputs": [tensor(shape=[0, 2], data=[])]}).inputs["x"]
    assert empty.shape == (0, 2)
    assert empty.dtype == np.float32


def test_binary_elements_are_not_copied() -> None:
    tail = raw("FP32", [1, 2, 3, 4])
    item = tensor(data=..., parameters={"binary_data_size": 16})
    head = json.dumps({"inputs": [item]}).encode()
    head += b" " * (-len(head) % 16)
    body = head + tail
    array = decode_request(body, str(len(head)), {"x": spec()}, {}).inputs["x"]
    assert np.shares_memory(array, np.frombuffer(body, np.uint8))


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (tensor(name="q"), "unknown input 'q'; this model has: x"),
        (tensor(name=7), "unknown input 7"),
        (tensor(name=...), "unknown input null"),
        (5, "each input must be a JSON object"),
        (tensor(datatype="FP64"), "has datatype 'FP64'; expected 'FP32'"),
        (tensor(datatype="FLOAT"), "'FLOAT', which is no known datatype; expected 'FP32'"),
        (tensor(datatype=["FP32"]), "which is no known datatype"),
        (tensor(shape=[4]), "has shape [4]; expected [-1, 2] (-1: any length)"),
        (tensor(shape=[1, 4]), "has shape [1,4]; expected [-1, 2]"),
        (tensor(shape=[-2, -2]), "'shape' of input 'x' must be a list of whole numbers"),
        (tensor(shape=[2.0, 2]), "must be a list of whole numbers"),
        (tensor(shape=[True, 2]), "must be a list of whole numbers"),
        (tensor(shape="2,2"), "must be a list of whole numbers"),
        (tensor(shape=[2**62, 2]), "has 4 elements, which does not fit shape"),
        (tensor(data=[1, 2, 3]), "has 3 elements, which does not fit shape [2, 2] (4 elements)"),
        (tensor(data=[[1, 2, 3, 4]]), "has shape [1, 4], which does not fit"),
        (tensor(data=[[1, 2], [3]]), "is ragged or too deeply nested"),
        (tensor(data=[1, 2, 3, "4"]), "does not hold numbers only, as FP32 needs"),
        (tensor(data=[[1, 2], 3]), "is ragged or too deeply nested"),
        (tensor(data=[[1, 2], "34"]), "is ragged or too deeply nested"),
        (tensor(data=[1, 2, 3, [4]]), "does not hold numbers only"),
        (tensor(data=[[[1], [2]], [[3], [4]]]), "has shape [2, 2, 1], which does not fit"),
        (tensor(data=[True, False, True, False]), "does not hold numbers only"),
        (tensor(data=[1, 2, 3, 1e39]), "holds numbers too large for FP32"),
        (tensor(data="1234"), "has no 'data' list"),
        (tensor(data=...), "has no 'data' list"),
        (tensor(parameters=[]), "'parameters' of the input 'x' must be a JSON object"),
        (tensor(parameters={"shared_memory_region": "r"}), "'shared_memory_region' of the input 'x' is not supported"),
        (tensor(parameters={"binary_data_size": 16}), "has both 'data' and 'binary_data_size'"),
        (tensor(data=[], parameters={"binary_data_size": 0}), "has both 'data' and 'binary_data_size'"),
        (tensor(data=..., parameters={"binary_data_size": 16}), "is 16, but only 0 bytes are left"),
        (tensor(data=None, parameters={"binary_data_size": 16}), "is 16, but only 0 bytes are left"),
        (tensor(data=..., parameters={"binary_data_size": -1}), "must be a number of bytes"),
        (tensor(data=..., parameters={"binary_data_size": True}), "must be a number of bytes"),
        (tensor(data=..., parameters={"binary_data_size": "16"}), "must be a number of bytes"),
        (tensor(data=..., parameters={"binary_data_size": 0}), "takes 16 bytes, but 'binary_data_size' is 0"),
    ],
)
def test_refuses_input(item: object, expected: str) -> None:
    assert expected in refusal({"inputs": [item]})


@pytest.mark.parametrize(
    ("datatype", "data", "expected"),
    [
        ("INT32", [1.5, 2, 3, 4], "does not hold whole numbers only"),
        ("INT32", [1.0, 2, 3, 4], "does not hold whole numbers only"),
        ("INT32", [True, False, True, False], "does not hold whole numbers only"),
        ("INT32", [1, 2, 3, 2**31], "out of the range of INT32"),
        ("UINT8", [1, 2, 3, -1], "out of the range of UINT8"),
        ("UINT8", [1, 2, 3, 256], "out of the range of UINT8"),
        ("INT64", [1, 2, 3, 2**63], "out of the range of INT64"),
        ("UINT64", [-1, 2, 3, 2**63], "out of the range of UINT64"),
        ("UINT64", [1, 2, 3, 2**64], "does not hold whole numbers only"),
        ("BOOL", [0, 1, 0, 1], "does not hold true and false only"),
        ("BYTES", [1, 2, 3, 4], "does not hold strings only"),
        ("BYTES", ["a", "b", "c", None], "does not hold strings only"),
        ("BYTES", [["a", "b"], ["c"]], "is ragged or too deeply nested"),
        ("BYTES", [["a", "b"], "cd"], "is ragged or too deeply nested"),
        ("FP16", [1, 2, 3, 70000], "too large for FP16"),
    ],
)
def test_refuses_values(datatype: str, data: list[Any], expected: str) -> None:
    assert expected in refusal({"inputs": [tensor(datatype=datatype, data=data)]}, spec(datatype))


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ([], "must be a JSON object"),
        ({}, "'inputs' must be a list of tensors"),
        ({"inputs": []}, "'inputs' must be a list of tensors"),
        ({"inputs": [tensor(), tensor()]}, "input 'x' is given twice"),
        ({"inputs": [tensor()], "id": 5}, "'id' must be a string"),
        ({"inputs": [tensor()], "parameters": 5}, "'parameters' of the request must be a JSON object"),
        ({"inputs": [tensor()], "parameters": {"binary_data_output": 1}}, "must be true or false"),
        ({"inputs": [tensor()], "outputs": 5}, "'outputs' must be a list"),
        ({"inputs": [tensor()], "outputs": [{"name": "q"}]}, "unknown output 'q'"),
        ({"inputs": [tensor()], "outputs": [{}]}, "unknown output null"),
    ],
)
def test_refuses_document(document: object, expected: str) -> None:
    assert expected in refusal(document)


def test_refuses_outputs_twice_and_classification() -> None:
    outputs = (spec(name="y"),)
    with pytest.raises(RequestError, match="asked for twice"):
        decode({"inputs": [tensor()], "outputs": [{"name": "y"}, {"name": "y"}]}, outputs=outputs)
    with pytest.raises(RequestError, match="'classification' of the output 'y' is not supported"):
        decode({"inputs": [tensor()], "outputs": [{"name": "y", "parameters": {"classification": 3}}]}, outputs=outputs)


def test_refuses_missing_inputs() -> None:
    assert refusal({"inputs": [tensor()]}, spec(), spec(name="y"), spec(name="z")) == "missing inputs: y, z"


def test_refuses_broken_json() -> None:
    deep = b'{"inputs": [{"name":"x","shape":[2,2],"datatype":"FP32","data":' + b"[" * 500 + b"]" * 500 + b"}]}"
    for body in (b"", b"{", b"\xff", b"NaN", b'{"inputs": NaN}', deep, b"[" * 100_000):
        with pytest.raises(RequestError) as caught:
            decode_request(body, None, {"x": spec()}, {})
        assert caught.value.status == 400


@pytest.mark.parametrize("length", ["", "-1", "+5", " 5", "5.0", "1_0", "99999", "9" * 5000, "٣"])
def test_refuses_header_length(length: str) -> None:
    with pytest.raises(RequestError, match="Inference-Header-Content-Length"):
        decode_binary({"inputs": [tensor()]}, b"", length=length)


def test_refuses_surplus_bytes() -> None:
    item = tensor(data=..., parameters={"binary_data_size": 16})
    with pytest.raises(RequestError, match="3 bytes at the end of the body belong to no input"):
        decode_binary({"inputs": [item]}, bytes(19))


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        (b"\x01\x00\x00", "the length of element 0 is cut off"),
        (b"\x01\x00\x00\x00a\x01\x00\x00", "the length of element 1 is cut off"),
        (b"\x02\x00\x00\x00a", "element 0 is cut off"),
        (b"\xff\xff\xff\xffa", "element 0 is cut off"),
        (b"\x01\x00\x00\x00a", "has 1 elements, its shape says 2"),
        (b"\x01\x00\x00\x00a" * 3, "has more elements than its shape says"),
        (b"\x01\x00\x00\x00\xff" * 2, "element 0 is not UTF-8 text"),
    ],
)
def test_refuses_binary_text(tail: bytes, expected: str) -> None:
    item = tensor(shape=[1, 2], datatype="BYTES", data=..., parameters={"binary_data_size": len(tail)})
    with pytest.raises(RequestError, match=expected):
        decode_binary({"inputs": [item]}, tail, spec("BYTES"))


def test_refuses_binary_booleans_that_are_none() -> None:
    item = tensor(datatype="BOOL", data=..., parameters={"binary_data_size": 4})
    with pytest.raises(RequestError, match="bytes other than 0 and 1"):
        decode_binary({"inputs": [item]}, b"\x00\x01\x02\x00", spec("BOOL"))


@pytest.mark.parametrize("datatype", ["INT32", "FP32", "BOOL", "BYTES"])
def test_no_elements(datatype: str) -> None:
    item = tensor(datatype=datatype, shape=[0], data=[])
    assert decode({"inputs": [item]}, spec(datatype, (-1,))).inputs["x"].shape == (0,)


def test_an_empty_text_at_the_end() -> None:
    tail = raw("BYTES", ["ab", ""])
    item = tensor(datatype="BYTES", shape=[2], data=..., parameters={"binary_data_size": len(tail)})
    assert decode_binary({"inputs": [item]}, tail, spec("BYTES", (-1,))).inputs["x"].tolist() == ["ab", ""]


def test_messages_do_not_carry_payloads_back() -> None:
    message = refusal({"inputs": [tensor(name="secret " * 1000)]})
    assert len(message) < 200


# --------------------------------------------------------------------------------------------------------------------
# Responses
# --------------------------------------------------------------------------------------------------------------------
def test_mixed_outputs_follow_the_order_asked_for() -> None:
    specs = {"y": spec(name="y"), "z": spec("INT64", (-1,), "z"), "s": spec("BYTES", (-1,), "s")}
    request = InferRequest(None, {}, (OutputRequest("z", True), OutputRequest("y", False), OutputRequest("s", True)))
    texts = np.array(["a", "bc"], dtype=object)
    arrays: list[Any] = [np.arange(2), np.ones((1, 2), np.float32), texts]
    response = encode_response("m", "1", request, arrays, specs)
    assert response.header_length is not None
    document = json.loads(response.body[: response.header_length])
    assert [output["name"] for output in document["outputs"]] == ["z", "y", "s"]
    assert "id" not in document
    assert response.body[response.header_length :] == raw("INT64", [0, 1]) + raw("BYTES", ["a", "bc"])


def test_arrays_in_any_layout() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    for binary in (False, True):
        request = InferRequest(None, {}, (OutputRequest("x", binary),))
        response = encode_response("m", "1", request, [array], {"x": spec(shape=(3, 2))})
        if binary:
            assert response.body[response.header_length :] == raw("FP32", [0, 3, 1, 4, 2, 5])
        else:
            assert json.loads(response.body)["outputs"][0]["data"] == [0, 3, 1, 4, 2, 5]


def test_arrays_of_another_byte_order_and_text_of_both_kinds() -> None:
    request = InferRequest(None, {}, (OutputRequest("x", True),))
    array = np.array([[1.5, -2.0]], dtype=">f4")
    response = encode_response("m", "1", request, [array], {"x": spec(shape=(1, 2))})
    assert response.body[response.header_length :] == raw("FP32", [1.5, -2.0])
    mixed = np.array([b"\xff", "b"], dtype=object)
    request = InferRequest(None, {}, (OutputRequest("x", False),))
    response = encode_response("m", "1", request, [mixed], {"x": spec("BYTES", (-1,))})
    (output,) = json.loads(response.body)["outputs"]
    assert output["data"] == ["/w==", "Yg=="]


def test_what_json_cannot_carry_is_null() -> None:
    array = np.array([[math.nan, math.inf]], dtype=np.float32)
    request = InferRequest(None, {}, (OutputRequest("x", False),))
    document = json.loads(encode_response("m", "1", request, [array], {"x": spec()}).body)
    assert document["outputs"][0]["data"] == [None, None]
