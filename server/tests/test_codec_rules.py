# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""BF16, bytes that are no text, NaN, booleans among numbers, batches, timeouts, and compressed bodies."""

from __future__ import annotations

import base64
import gzip
import json
import math
import struct
import tracemalloc
import zlib
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from ai102_server.codec import (
    BF16,
    BINARY_HEADER,
    DATATYPES,
    InferRequest,
    OutputRequest,
    TensorSpec,
    choose_encoding,
    compress,
    decode_request,
    decompress,
    encode_response,
    needs_ort_values,
    parse_timeout_header,
    request_encoding,
    run_with_ort_values,
)
from ai102_server.errors import RequestError
from test_codec import decode, decode_binary, refusal, spec, tensor

BITS = struct.pack("<4H", 0x3FC0, 0xC080, 0x7F80, 0x0001)
"""1.5, -4, infinity and the smallest subnormal number of bfloat16."""


def decode_with(document: object, *specs: TensorSpec, **options: Any) -> InferRequest:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return decode_request(body, None, {s.name: s for s in specs or (spec(),)}, {}, **options)


def refusal_with(document: object, *specs: TensorSpec, **options: Any) -> str:
    with pytest.raises(RequestError) as caught:
        decode_with(document, *specs, **options)
    assert caught.value.status == 400
    return caught.value.message


# --------------------------------------------------------------------------------------------------------------------
# BF16
# --------------------------------------------------------------------------------------------------------------------
def test_bfloat16_in_binary() -> None:
    for padding in range(4):
        parameters = {"binary_data_size": 8, "p": " " * padding}
        item = tensor(datatype="BF16", data=..., parameters=parameters)
        array = decode_binary({"inputs": [item]}, BITS, spec("BF16")).inputs["x"]
        assert array.dtype == ml_dtypes.bfloat16
        assert array.flags.aligned
        assert array.astype(np.float64).reshape(-1).tolist()[:3] == [1.5, -4.0, math.inf]
        assert array.tobytes() == BITS
    request = InferRequest(None, {}, (OutputRequest("x", True),))
    response = encode_response("m", "1", request, [array], {"x": spec("BF16")})
    assert response.body[response.header_length :] == BITS


def test_bfloat16_is_not_for_json() -> None:
    item = tensor(datatype="BF16")
    assert "is BF16, which only the binary form carries" in refusal({"inputs": [item]}, spec("BF16"))
    y = spec("BF16", name="y")
    json_only: list[dict[str, Any]] = [{}, {"outputs": [{"name": "y"}]}]
    json_only.append({"outputs": [{"name": "y", "parameters": {"binary_data": False}}]})
    for more in json_only:
        with pytest.raises(RequestError, match="output 'y' is BF16, which only the binary form carries: ask for it"):
            decode({"inputs": [tensor()], **more}, outputs=(y,))
    binary: list[dict[str, Any]] = [{"parameters": {"binary_data_output": True}}]
    binary.append({"outputs": [{"name": "y", "parameters": {"binary_data": True}}]})
    for more in binary:
        assert decode({"inputs": [tensor()], **more}, outputs=(y,)).outputs == (OutputRequest("y", True),)


def test_bfloat16_through_onnx_runtime() -> None:
    bf16, fp32 = TensorProto.BFLOAT16, TensorProto.FLOAT
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["x"], ["wide"], to=fp32),
            helper.make_node("Mul", ["wide", "factor"], ["scaled"]),
            helper.make_node("Cast", ["scaled"], ["y"], to=bf16),
            helper.make_node("Identity", ["scaled"], ["z"]),
        ],
        "bf16",
        [helper.make_tensor_value_info("x", bf16, ["n", 2]), helper.make_tensor_value_info("factor", fp32, [])],
        [helper.make_tensor_value_info("y", bf16, ["n", 2]), helper.make_tensor_value_info("z", fp32, ["n", 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.array([[1.5, -4.0], [0.25, 3.0]], ml_dtypes.bfloat16)
    # The last but one is not contiguous: it must be sent as what it is, not as what lies in memory.
    for array in (x, x[:0], x.T, x[::-1]):
        y, z = run_with_ort_values(session, ["y", "z"], {"x": array, "factor": np.array(2, np.float32)})
        assert y.dtype == ml_dtypes.bfloat16
        assert y.shape == z.shape == array.shape
        assert y.astype(np.float32).tolist() == z.tolist() == (array.astype(np.float32) * 2).tolist()
    with pytest.raises(ValueError, match="cannot have inputs of text"):
        run_with_ort_values(session, ["y"], {"x": x, "factor": np.array("2", object)})
    assert needs_ort_values({"x": TensorSpec("x", BF16, (-1,))}, {})
    assert not needs_ort_values({"x": spec()}, {"y": spec("FP16")})


# --------------------------------------------------------------------------------------------------------------------
# Bytes
# --------------------------------------------------------------------------------------------------------------------
ANY_BYTES = [bytes(range(256)), b"", b"\xff\x00", b"text"]


def test_any_bytes() -> None:
    binary = TensorSpec("x", DATATYPES["BYTES"], (-1, 2), binary=True)
    tail = b"".join(struct.pack("<I", len(item)) + item for item in ANY_BYTES)
    item = tensor(datatype="BYTES", data=..., parameters={"binary_data_size": len(tail)})
    array = decode_binary({"inputs": [item]}, tail, binary).inputs["x"]
    assert array.shape == (2, 2)
    assert array.reshape(-1).tolist() == ANY_BYTES
    texts = [base64.b64encode(item).decode() for item in ANY_BYTES]
    for data in (texts, [texts[:2], texts[2:]]):
        again = decode({"inputs": [tensor(datatype="BYTES", data=data)]}, binary).inputs["x"]
        assert again.reshape(-1).tolist() == ANY_BYTES
    for wrong in ("a", "ab-_", "YQ==\n", "é"):
        item = tensor(datatype="BYTES", data=[*texts[:3], wrong])
        assert "is not base64" in refusal({"inputs": [item]}, binary)
    assert binary.to_json()["parameters"] == {"content_type": "base64"}
    assert "parameters" not in spec("BYTES").to_json()
    for asked in (False, True):
        response = encode_response(
            "m", "1", InferRequest(None, {}, (OutputRequest("x", asked),)), [array], {"x": binary}
        )
        if asked:
            assert response.body[response.header_length :] == tail
        else:
            (output,) = json.loads(response.body)["outputs"]
            assert output["data"] == texts
            assert output["parameters"] == {"content_type": "base64"}


# --------------------------------------------------------------------------------------------------------------------
# NaN
# --------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
def test_nan_in_json(datatype: str) -> None:
    item = tensor(datatype=datatype, data=[1, math.nan, -math.inf, math.inf])
    # What Python's json and rapidjson write, and what JavaScript and orjson write.
    literal = decode_with({"inputs": [item]}, spec(datatype)).inputs["x"]
    np.testing.assert_array_equal(literal, np.array([[1, math.nan], [-math.inf, math.inf]]))
    assert literal.dtype == DATATYPES[datatype].dtype
    item["data"] = [1, 2, 3, math.inf]
    assert decode_with({"inputs": [item]}, spec(datatype)).inputs["x"][1][1] == math.inf
    item["data"] = [1, None, 2.5, None]
    null = decode_with({"inputs": [item]}, spec(datatype)).inputs["x"]
    np.testing.assert_array_equal(null, np.array([[1, math.nan], [2.5, math.nan]]))
    assert "does not hold numbers only" in refusal_with({"inputs": [item]}, spec(datatype), allow_nan=False)
    item["data"] = [1, math.nan, 3, 4]
    assert "NaN and Infinity are no numbers" in refusal_with({"inputs": [item]}, spec(datatype), allow_nan=False)


def test_nan_is_for_floating_point_only() -> None:
    for datatype, data in (("INT32", [1, None, 3, 4]), ("INT32", [1, math.nan, 3, 4]), ("BOOL", [None] * 4)):
        assert "only, as" in refusal_with({"inputs": [tensor(datatype=datatype, data=data)]}, spec(datatype))


@pytest.mark.parametrize(
    "body",
    [
        b'{"inputs": NaN',
        b'{"id": "\\ud800", "inputs": [NaN]}',
        b'{"a": 123456789012345678901234567890, "inputs": [NaN]}',
        b'{"inputs": [NaN]}\xff',
        b"[" * 100_000 + b"NaN",
        b'{"a": ' + b"9" * 5000 + b', "inputs": [NaN]}',
    ],
)
def test_literals_do_not_loosen_the_rest(body: bytes) -> None:
    assert "is not valid JSON" in refusal_with(body)


def test_a_literal_is_no_request() -> None:
    assert refusal_with(b"NaN") == "the body must be a JSON object"


def test_literals_in_a_request_that_is_right_but_for_its_text() -> None:
    body = json.dumps({"id": "?", "inputs": [tensor(data=[1, 2, math.nan, 4])]}).encode()
    assert decode_with(body).id == "?"
    assert "is not valid JSON" in refusal_with(body.replace(b"?", b"\\ud800"))


def test_id() -> None:
    assert decode_with({"inputs": [tensor()]}).id is None
    assert decode_with({"inputs": [tensor()], "id": None}).id is None
    assert decode_with({"inputs": [tensor()], "id": "i"}).id == "i"


@pytest.mark.parametrize("datatype", ["FP16", "BF16", "FP32", "FP64"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_in_binary(datatype: str, value: float) -> None:
    values = np.array([[1, 2], [3, value]], DATATYPES[datatype].dtype)
    tail = values.tobytes()
    head = json.dumps({"inputs": [tensor(datatype=datatype, data=..., parameters={"binary_data_size": len(tail)})]})
    options: dict[str, Any] = {"inputs": {"x": spec(datatype)}, "outputs": {}}
    decoded = decode_request(head.encode() + tail, str(len(head)), **options).inputs["x"]
    np.testing.assert_array_equal(decoded.astype(np.float64), values.astype(np.float64))
    with pytest.raises(RequestError, match="holds NaN or infinities"):
        decode_request(head.encode() + tail, str(len(head)), **options, allow_nan=False)
    finite = np.ones((2, 2), DATATYPES[datatype].dtype).tobytes()
    assert decode_request(head.encode() + finite, str(len(head)), **options, allow_nan=False)


# --------------------------------------------------------------------------------------------------------------------
# Booleans, lengths, shapes
# --------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("count", [4, 2000, 20_000])
@pytest.mark.parametrize("datatype", ["FP32", "INT64", "UINT8"])
@pytest.mark.parametrize("word", [True, False])
def test_booleans_are_no_numbers(count: int, datatype: str, word: bool) -> None:
    whole: list[Any] = [7] * count
    item = tensor(datatype=datatype, shape=[count], data=whole)
    assert decode({"inputs": [item]}, spec(datatype, (-1,))).inputs["x"].tolist() == whole
    item["data"] = [*whole[:-1], word]
    assert "only, as" in refusal({"inputs": [item]}, spec(datatype, (-1,)))
    # Behind a binary header, and in a document that holds booleans elsewhere.
    with pytest.raises(RequestError, match="only, as"):
        decode_binary({"inputs": [item]}, b"", spec(datatype, (-1,)))
    for last in (0, 1):
        item["data"] = [*whole[:-1], last]
        document = {"inputs": [item], "parameters": {"binary_data_output": True}}
        assert decode(document, spec(datatype, (-1,))).inputs["x"][-1] == last


@pytest.mark.parametrize("word", [True, False])
@pytest.mark.parametrize("count", [3, 2000, 20_000])
def test_nothing_but_booleans(count: int, word: bool) -> None:
    item = tensor(shape=[count], data=[word] * count)
    assert "does not hold numbers only" in refusal({"inputs": [item]}, spec(shape=(-1,)))


def test_rows_that_are_missing_or_too_many() -> None:
    for data, shape in (([[1, 2]], "[1, 2]"), ([[1, 2], [3, 4], [5, 6]], "[3, 2]"), ([[]], "[1, 0]")):
        message = refusal({"inputs": [tensor(data=data)]})
        assert message == f"'data' of input 'x' has shape {shape}, which does not fit shape [2, 2] (4 elements)"
    assert "is ragged or too deeply" in refusal({"inputs": [tensor(shape=[], data=[[1]])]}, spec(shape=()))


def test_no_outputs_are_all_outputs() -> None:
    nothing: list[Any] = [None, []]
    for outputs in nothing:
        assert decode({"inputs": [tensor()], "outputs": outputs}, outputs=(spec(name="y"),)).outputs == (
            OutputRequest("y", False),
        )
    mistakes: list[Any] = [0, False, "", {}]
    for wrong in mistakes:
        with pytest.raises(RequestError, match="'outputs' must be a list"):
            decode({"inputs": [tensor()], "outputs": wrong}, outputs=(spec(name="y"),))


def test_nested_as_deep_as_the_shape() -> None:
    cube = np.arange(24).reshape(2, 3, 4)
    item = tensor(datatype="INT16", shape=[2, 3, 4], data=cube.tolist())
    decoded = decode({"inputs": [item]}, spec("INT16", (-1, 3, -1))).inputs["x"]
    np.testing.assert_array_equal(decoded, cube)
    item["data"] = cube.reshape(2, 12).tolist()
    assert "has shape [2, 12], which does not fit" in refusal({"inputs": [item]}, spec("INT16", (-1, 3, -1)))
    # An empty axis in front of another, flat and nested.
    empties: list[list[Any]] = [[], [[], []]]
    for data in empties:
        item = tensor(shape=[2, 0], data=data)
        assert decode({"inputs": [item]}, spec(shape=(-1, -1))).inputs["x"].shape == (2, 0)
    # Text has a length too.
    item = tensor(datatype="BYTES", data=["ab", "cd"])
    assert "has 2 elements" in refusal({"inputs": [item]}, spec("BYTES"))


def test_empty_tensors_are_bounded() -> None:
    for shape in ([0, 2**60], [2**40, 0], [0, 5000, 5000], [2**63 - 1, 0]):
        item = tensor(shape=shape, data=[])
        assert "is too large all the same" in refusal({"inputs": [item]}, spec(shape=(-1,) * len(shape)))
    for columns in (1000, 1 << 24):
        item = tensor(shape=[0, columns], data=[])
        assert decode({"inputs": [item]}, spec(shape=(-1, -1))).inputs["x"].shape == (0, columns)
    item = tensor(shape=[0, (1 << 24) + 1], data=[])
    assert "is too large all the same" in refusal({"inputs": [item]}, spec(shape=(-1, -1)))


def test_errors_show_no_more_than_a_piece_of_what_was_sent() -> None:
    for length, shown in ((58, f"'{'a' * 58}'"), (59, f"'{'a' * 59}…")):
        assert refusal({"inputs": [{"name": "a" * length}]}).startswith(f"unknown input {shown};")


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (tensor(name=["x"]), 'unknown input ["x"]; this model has: x'),
        (tensor(name={}), "unknown input {}; this model has: x"),
        (tensor(shape=...), "'shape' of input 'x' must be a list of whole numbers"),
        (tensor(shape=None), "'shape' of input 'x' must be a list of whole numbers"),
        (tensor(shape={}), "'shape' of input 'x' must be a list of whole numbers"),
    ],
)
def test_refuses_what_is_no_name_or_shape(item: dict[str, Any], message: str) -> None:
    assert refusal({"inputs": [item]}) == message


def test_null_is_nothing() -> None:
    document = {"inputs": [tensor(parameters=None)], "parameters": None, "outputs": [{"name": "y", "parameters": None}]}
    assert decode(document, outputs=(spec(name="y"),)).outputs == (OutputRequest("y", False),)


def test_empty_tensors_in_binary() -> None:
    for datatype in DATATYPES:
        item = tensor(datatype=datatype, shape=[0, 2], data=..., parameters={"binary_data_size": 0})
        array = decode_binary({"inputs": [item]}, b"", spec(datatype)).inputs["x"]
        assert array.shape == (0, 2)
        assert array.dtype == DATATYPES[datatype].dtype


def test_messages_are_bounded_and_exact() -> None:
    assert len(refusal({"inputs": [tensor(datatype=["secret"] * 1000)]})) < 200
    wrong = {"inputs": [tensor()], "parameters": {"binary_data_output": 1}}
    assert refusal(wrong) == "parameter 'binary_data_output' of the request must be true or false"
    assert refusal({"inputs": [tensor()], "parameters": []}) == "'parameters' of the request must be a JSON object"


def test_names_that_clients_know() -> None:
    assert BINARY_HEADER == "Inference-Header-Content-Length"
    assert spec().to_json() == {"name": "x", "datatype": "FP32", "shape": [-1, 2]}


def test_models_without_inputs() -> None:
    assert decode_request(b'{"inputs": []}', None, {}, {}).inputs == {}
    for body in (b"{}", b'{"inputs": {}}', b'{"inputs": [{"name": "x"}]}'):
        with pytest.raises(RequestError):
            decode_request(body, None, {}, {})


def test_batches() -> None:
    document = {"inputs": [tensor()]}
    assert decode_with(document, max_batch=2).inputs["x"].shape == (2, 2)
    message = refusal_with(document, max_batch=1)
    assert message == "input 'x' has a batch of 2; this model takes at most 1"
    # Whatever the other axes are.
    wide = {"inputs": [tensor(shape=[1, 4])]}
    assert decode_with(wide, spec(shape=(-1, -1)), max_batch=1).inputs["x"].shape == (1, 4)
    # The first axis is no batch when the model fixes it.
    assert decode_with(document, spec(shape=(2, 2)), max_batch=1)
    scalar = {"inputs": [tensor(shape=[], data=[1])]}
    assert decode_with(scalar, spec(shape=()), max_batch=1)


# --------------------------------------------------------------------------------------------------------------------
# Parameters
# --------------------------------------------------------------------------------------------------------------------
def test_timeouts() -> None:
    def seconds(header: str | None = None, **parameters: object) -> float | None:
        return decode_with({"inputs": [tensor()], "parameters": parameters}, timeout=header).deadline_seconds

    assert seconds() is None
    assert seconds(timeout=0) is None
    assert seconds(timeout=250_000) == pytest.approx(0.25)
    assert seconds("2") == 2
    assert seconds("2", timeout=250_000) == pytest.approx(0.25)
    assert seconds("0.1", timeout=250_000) == pytest.approx(0.1)
    mistakes: list[Any] = [-1, 1.5, "5", True, []]
    for wrong in mistakes:
        message = refusal_with({"inputs": [tensor()], "parameters": {"timeout": wrong}})
        assert message == "parameter 'timeout' of the request must be a whole number of microseconds"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1", 1),
        ("0.25", 0.25),
        (" 3 ", 3),
        ("2H", 7200),
        ("2M", 120),
        ("2S", 2),
        ("250m", 0.25),
        ("5u", 5e-6),
        ("9n", 9e-9),
    ],
)
def test_timeout_header(text: str, seconds: float) -> None:
    assert parse_timeout_header(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "0", "0.0", "0m", "-1", "+1", "1e3", "1.5m", "m", "nan", "inf", "1 s", "123456789", "٣"]
)
def test_refuses_timeout_header(text: str) -> None:
    with pytest.raises(RequestError, match="X-Request-Timeout must be a number of seconds above 0"):
        parse_timeout_header(text)


def test_sequences_are_not_ignored() -> None:
    for wrong in (5, "abc"):
        message = refusal_with({"inputs": [tensor()], "parameters": {"sequence_id": wrong}})
        assert "parameter 'sequence_id' of the request is not supported" in message
    for none in (0, ""):
        assert decode_with({"inputs": [tensor()], "parameters": {"sequence_id": none, "priority": 1}})


# --------------------------------------------------------------------------------------------------------------------
# Compression
# --------------------------------------------------------------------------------------------------------------------
TEXT = b"a body to compress " * 100


def raw_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(6, zlib.DEFLATED, -15)
    return stream.compress(data) + stream.flush()


@pytest.mark.parametrize(
    ("encoding", "body", "expected"),
    [
        ("gzip", gzip.compress(TEXT), TEXT),
        ("gzip", gzip.compress(TEXT) + gzip.compress(b"more"), TEXT + b"more"),
        ("gzip", gzip.compress(b""), b""),
        ("deflate", zlib.compress(TEXT), TEXT),
        ("deflate", zlib.compress(TEXT, 9), TEXT),
        ("deflate", raw_deflate(TEXT), TEXT),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 7, 1 << 20])
def test_decompress(encoding: str, body: bytes, expected: bytes, size: int) -> None:
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    assert decompress(chunks, encoding, len(expected)) == expected
    if expected:
        with pytest.raises(RequestError) as caught:
            decompress(chunks, encoding, len(expected) - 1)
        assert caught.value.status == 413


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", b""),
        ("gzip", b"plain"),
        ("gzip", gzip.compress(TEXT)[:-1]),
        ("gzip", gzip.compress(TEXT) + b"x"),
        ("gzip", zlib.compress(TEXT)),
        ("deflate", b""),
        ("deflate", b"x"),
        ("deflate", zlib.compress(TEXT)[:-1]),
        ("deflate", zlib.compress(TEXT) + b"x"),
        ("deflate", gzip.compress(TEXT)),
    ],
)
def test_refuses_broken_compression(encoding: str, body: bytes) -> None:
    for chunks in ([body], [body[at : at + 1] for at in range(len(body))]):
        with pytest.raises(RequestError, match="is not what its Content-Encoding says") as caught:
            decompress(chunks, encoding, 1 << 20)
        assert caught.value.status == 400


def test_what_is_compressed_is_bounded_too() -> None:
    empty = gzip.compress(b"")
    assert decompress([empty * 64], "gzip", 1 << 20) == b""
    with pytest.raises(RequestError) as caught:
        decompress([empty * 65], "gzip", 1 << 20)
    assert caught.value.status == 400
    # Empty blocks without end unfold to nothing.
    stream = zlib.compressobj(6, zlib.DEFLATED, 31)
    blocks = b"".join([stream.compress(b""), *(stream.flush(zlib.Z_FULL_FLUSH) for _ in range(10))])
    with pytest.raises(RequestError) as caught:
        decompress((blocks + b"\0\0\0\xff\xff" * 100 for _ in range(1000)), "gzip", 2000)
    assert caught.value.status in {400, 413}
    noise = bytes(range(256)) * 8
    stored = gzip.compress(noise, 0)
    assert len(stored) > len(noise)
    assert decompress([stored], "gzip", len(noise)) == noise


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_bombs_do_not_unfold(encoding: str) -> None:
    stream = zlib.compressobj(9, zlib.DEFLATED, 31 if encoding == "gzip" else 15)
    bomb = b"".join([*(stream.compress(bytes(1 << 20)) for _ in range(64)), stream.flush()])
    assert len(bomb) < 100_000
    limit = 1 << 18
    tracemalloc.start()
    try:
        with pytest.raises(RequestError) as caught:
            decompress([bomb], encoding, limit)
        assert caught.value.status == 413
        assert tracemalloc.get_traced_memory()[1] < 2 * limit + len(bomb) + 100_000
    finally:
        tracemalloc.stop()


def test_request_encoding() -> None:
    for value in (None, "", "identity", " Identity "):
        assert request_encoding(value) is None
    assert request_encoding("GZIP") == request_encoding("x-gzip") == "gzip"
    assert request_encoding(" deflate") == "deflate"
    for value in ("br", "gzip, gzip", "zstd"):
        with pytest.raises(RequestError) as caught:
            request_encoding(value)
        assert caught.value.status == 415
        assert caught.value.headers == {"Accept-Encoding": "gzip, deflate"}


@pytest.mark.parametrize(
    ("accept", "encoding"),
    [
        (None, None),
        ("", None),
        ("*", None),
        ("identity", None),
        ("br", None),
        ("gzip", "gzip"),
        ("x-gzip", "gzip"),
        ("deflate", "deflate"),
        ("deflate, gzip", "gzip"),
        ("gzip, deflate", "gzip"),
        ("gzip;q=0", None),
        ("gzip;q=0.2, deflate;q=0.5", "deflate"),
        ("gzip;q=x", None),
        ("br;q=1.0, gzip; q=0.8, *;q=0.1", "gzip"),
    ],
)
def test_choose_encoding(accept: str | None, encoding: str | None) -> None:
    assert choose_encoding(accept) == encoding


def test_compress() -> None:
    assert gzip.decompress(compress(TEXT, "gzip")) == TEXT
    assert zlib.decompress(compress(TEXT, "deflate")) == TEXT
    assert len(compress(TEXT, "gzip")) < len(TEXT) / 5
