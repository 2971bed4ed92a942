# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Pipelines: compared with the packages whose models they are for, hostile input, and mistakes in declarations."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from ai102_server.codec import DATATYPES, TensorSpec
from ai102_server.codec.datatypes import Array
from ai102_server.errors import ModelError, RequestError
from ai102_server.pipeline import Pipeline, load
from ai102_server.pipeline.pipeline import read_pipeline
from ai102_server.repository import load_public_keys, open_package
from toolkit import Signer, doubling_model

GOLDEN = json.loads((Path(__file__).parent / "data/pipeline.json").read_text())


def spec(name: str, datatype: str, *shape: int) -> TensorSpec:
    return TensorSpec(name, DATATYPES[datatype], shape)


def made(
    declared: Mapping[str, Any],
    inputs: list[TensorSpec],
    outputs: list[TensorSpec] | None = None,
    files: Mapping[str, bytes] | None = None,
) -> Pipeline:
    def read(name: str) -> bytes:
        if name not in (files or {}):
            raise ModelError(f"{name} is not listed in manifest.json")
        return (files or {})[name]

    return read_pipeline(declared, inputs, outputs or [spec("y", "FP32", -1, 2)], read, "model 'm'")


def elements(*items: bytes | str) -> Array:
    array: Array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


def image_pipeline(
    *steps: Any, shape: tuple[int, ...] = (-1, -1, -1, 3), datatype: str = "FP32", **more: Any
) -> Callable[..., Array]:
    pipeline = made(
        {"inputs": [{"name": "image", "input": "x", "steps": list(steps), **more}]}, [spec("x", datatype, *shape)]
    )
    return lambda *images: pipeline.before({"image": elements(*images)})["x"]


def encoded(array: Any, form: str = "PNG", mode: str | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture = Image.fromarray(np.asarray(array))
    (picture.convert(mode) if mode else picture).save(buffer, form, **options)
    return buffer.getvalue()


def noise(height: int, width: int, channels: int = 3) -> Array:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


# --------------------------------------------------------------------------------------------------------------------
# The same as the packages whose models these are
# --------------------------------------------------------------------------------------------------------------------
OCR = {
    "inputs": [
        {
            "name": "image",
            "input": "x",
            "steps": [
                {"decode": {"channels": "BGR"}},
                {"resize": {"height": 48, "max_width": 192, "antialias": False}},
                {"normalise": {"divide": 255, "mean": 0.5, "std": 0.5}},
                {"pad": {"width": 192}},
                {"layout": "NCHW"},
            ],
        }
    ],
    "outputs": [
        {
            "output": "save_infer_model/scale_0.tmp_1",
            "steps": [{"top": {"labels": "config.json", "outputs": {"label": "label", "score": "score"}}}],
        }
    ],
}
OCR_LABELS = {"config.json": b'{"title": "Is a line of text upright?", "labels": ["0", "180"]}'}


def ocr() -> Pipeline:
    inputs = [spec("x", "FP32", -1, 3, -1, -1)]
    return made(OCR, inputs, [spec("save_infer_model/scale_0.tmp_1", "FP32", -1, 2)], OCR_LABELS)


@pytest.mark.parametrize("name", ["upright", "narrow"])
def test_a_line_of_text_is_prepared_as_rapidocr_does(name: str) -> None:
    case = GOLDEN["images"][name]
    array = ocr().before({"image": elements(base64.b64decode(case["png"]))})["x"]
    assert array.shape == (1, 3, 48, 192)
    assert array.dtype == np.float32
    expected = np.asarray(Image.open(io.BytesIO(base64.b64decode(case["resized"])))).transpose(2, 0, 1)
    width = expected.shape[2]
    found = (array[0, :, :, :width] * 0.5 + 0.5) * 255
    # OpenCV interpolates with whole numbers, so a level may be rounded the other way.
    assert np.abs(found - expected).max() <= 1.01
    assert np.abs(found - expected).mean() < 0.1
    # Padded with zeros after normalisation, which is grey.
    assert not array[0, :, :, width:].any()


def test_a_file_becomes_the_numbers_that_magika_makes() -> None:
    step = {"bytes": {"head": 1024, "tail": 1024, "block": 4096, "padding": 256}}
    pipeline = made(
        {"inputs": [{"name": "file", "input": "bytes", "steps": [step]}]}, [spec("bytes", "INT32", -1, 2048)]
    )
    cases = GOLDEN["files"]
    rows = pipeline.before({"file": elements(*(file_content(name) for name in cases))})["bytes"]
    assert rows.dtype == np.int32
    found = {
        name: hashlib.sha256(row.astype("<i4").tobytes()).hexdigest() for name, row in zip(cases, rows, strict=True)
    }
    assert found == {name: case["features"] for name, case in cases.items()}


def test_bytes_in_every_type_that_holds_them() -> None:
    for datatype, padding in (("UINT8", 0), ("UINT8", 255), ("INT16", -1), ("INT64", 256), ("FP32", 256)):
        step = {"bytes": {"head": 3, "tail": 2, "strip": False, "padding": padding}}
        declared = {"inputs": [{"name": "file", "input": "x", "steps": [step]}]}
        pipeline = made(declared, [spec("x", datatype, -1, 5)])
        rows = pipeline.before({"file": elements(b" \xff", b"", b"abcd")})["x"]
        assert rows.dtype == DATATYPES[datatype].dtype
        fill = [padding] * 5
        assert rows.tolist() == [[32, 255, padding, 32, 255], fill, [97, 98, 99, 99, 100]]


def file_content(name: str) -> bytes:
    if name == "long":
        return b"  " + b"SELECT id, name FROM customers WHERE id = 1;\n" * 300 + b"\t\n"
    return base64.b64decode(GOLDEN["files"][name]["content"])


def model_file(name: str, sha256: str) -> Path:
    """A model below the directory that AI102_TEST_MODELS names; both are files of packages, see data/pipeline.json."""
    root = os.environ.get("AI102_TEST_MODELS")
    for path in Path(root).rglob("*.onnx") if root else ():
        if hashlib.sha256(path.read_bytes()).hexdigest() == sha256:
            return path
    pytest.skip(f"AI102_TEST_MODELS names no directory with the model of {name}")


def test_answers_of_the_real_classifier_of_lines() -> None:
    ort = pytest.importorskip("onnxruntime")
    path = model_file("rapidocr-onnxruntime", "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c")
    pipeline, session = ocr(), ort.InferenceSession(str(path))
    cases = GOLDEN["images"]
    inputs = pipeline.before({"image": elements(*(base64.b64decode(case["png"]) for case in cases.values()))})
    scores = session.run(["save_infer_model/scale_0.tmp_1"], inputs)[0]
    for case, row in zip(cases.values(), scores, strict=True):
        assert np.abs(row - case["probabilities"]).max() < 0.005
    answer = pipeline.after({"save_infer_model/scale_0.tmp_1": scores})
    assert answer["label"].tolist() == [["0"], ["180"], ["180"]]


def test_answers_of_the_real_classifier_of_files() -> None:
    ort = pytest.importorskip("onnxruntime")
    path = model_file("magika", "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c")
    config = Path(__file__).parents[2] / "roles/model_store/files/config/file-type.json"
    step = {"bytes": {"head": 1024, "tail": 1024}}
    top = {"top": {"labels": "config.json", "outputs": {"label": "kind", "score": "score"}}}
    pipeline = made(
        {
            "inputs": [{"name": "file", "input": "bytes", "steps": [step]}],
            "outputs": [{"output": "target_label", "steps": [top]}],
        },
        [spec("bytes", "INT32", -1, 2048)],
        [spec("target_label", "FP32", -1, 214)],
        {"config.json": config.read_bytes()},
    )
    session = ort.InferenceSession(str(path))
    cases = GOLDEN["files"]
    inputs = pipeline.before({"file": elements(*(file_content(name) for name in cases))})
    answer = pipeline.after({"target_label": session.run(["target_label"], inputs)[0]})
    assert answer["kind"][:, 0].tolist() == [case["label"] for case in cases.values()]
    assert answer["score"][:, 0].tolist() == pytest.approx([case["score"] for case in cases.values()], abs=1e-3)


# --------------------------------------------------------------------------------------------------------------------
# Images
# --------------------------------------------------------------------------------------------------------------------
PICTURE = noise(6, 8)


def test_pixels_come_as_they_are() -> None:
    array = image_pipeline("decode", datatype="UINT8")(encoded(PICTURE))
    assert array.dtype == np.uint8
    assert (array == PICTURE).all()
    assert (
        image_pipeline({"decode": {"channels": "BGR"}}, datatype="UINT8")(encoded(PICTURE)) == PICTURE[:, :, ::-1]
    ).all()
    bgr = image_pipeline(
        {"decode": {"channels": "BGR"}}, {"resize": {"height": 6, "width": 8}}, {"layout": "NCHW"}, shape=(-1, 3, 6, 8)
    )
    assert (bgr(encoded(PICTURE))[0] == PICTURE[:, :, ::-1].transpose(2, 0, 1)).all()
    grey = image_pipeline({"decode": {"channels": "GREY"}}, datatype="UINT8", shape=(-1, -1, -1, 1))
    assert (grey(encoded(PICTURE))[0, :, :, 0] == np.asarray(Image.fromarray(PICTURE).convert("L"))).all()


@pytest.mark.parametrize(
    ("array", "mode", "expected"),
    [
        (np.full((2, 2), 200, np.uint8), None, 200),
        (np.full((2, 2), 200, np.uint8), "LA", 200),
        (np.full((2, 2), 51400, np.uint16), None, 200),
        (np.full((2, 2), 255, np.uint8), "1", 255),
        (np.full((2, 2, 3), 200, np.uint8), "P", 200),
        (np.full((2, 2, 3), 200, np.uint8), "RGBA", 200),
    ],
)
def test_every_kind_of_png(array: Array, mode: str | None, expected: int) -> None:
    found = image_pipeline("decode", datatype="UINT8")(encoded(array, "PNG", mode))
    assert found.shape == (1, 2, 2, 3)
    assert np.abs(found.astype(int) - expected).max() <= 4


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_other_formats_when_they_are_asked_for(form: str) -> None:
    smooth = np.full((8, 8, 3), (200, 100, 50), np.uint8)
    found = image_pipeline({"decode": {"formats": [form]}}, datatype="UINT8")(encoded(smooth, form))
    assert np.abs(found[0].astype(int) - smooth).max() <= 12
    others = [name for name in ("JPEG", "PNG") if name != form]
    with pytest.raises(RequestError, match=f"image 0 is not an image of the formats {', '.join(others)}"):
        image_pipeline({"decode": {"formats": others}}, datatype="UINT8")(encoded(smooth, form))


def test_transparency() -> None:
    clear = np.zeros((2, 2, 4), np.uint8)
    clear[0, :] = (10, 20, 30, 255)
    assert (image_pipeline("decode", datatype="UINT8")(encoded(clear))[0] == clear[:, :, :3]).all()
    laid = image_pipeline({"decode": {"alpha": [255, 0, 255]}}, datatype="UINT8")(encoded(clear))[0]
    assert laid[0].tolist() == [[10, 20, 30]] * 2
    assert laid[1].tolist() == [[255, 0, 255]] * 2


@pytest.mark.parametrize("orientation", range(1, 10))
def test_orientation(orientation: int) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(noise(16, 8), "PNG", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    assert (image_pipeline("decode", datatype="UINT8")(content)[0] == expected).all()
    plain = image_pipeline({"decode": {"orientation": False}}, datatype="UINT8")(content)
    assert (plain[0] == noise(16, 8)).all()


@pytest.mark.parametrize(
    ("options", "before", "after"),
    [
        ({"width": 5, "height": 7}, (20, 10), (7, 5)),
        ({"height": 48, "max_width": 192}, (10, 101), (48, 192)),
        ({"height": 48, "max_width": 192}, (100, 101), (48, 49)),
        ({"height": 10}, (100, 1), (10, 1)),
        ({"shorter": 10}, (30, 20), (15, 10)),
        ({"shorter": 10}, (20, 33), (10, 16)),
        ({"longer": 10}, (30, 20), (10, 6)),
        ({"longer": 10}, (20, 30), (6, 10)),
        ({"longer": 10}, (10, 10), (10, 10)),
        ({"longer": 10}, (1, 900), (1, 10)),
    ],
)
def test_sizes(options: dict[str, Any], before: tuple[int, int], after: tuple[int, int]) -> None:
    for more in ({}, {"antialias": False}, {"filter": "nearest"}):
        array = image_pipeline("decode", {"resize": {**options, **more}}, datatype="UINT8")(encoded(noise(*before)))
        assert array.shape == (1, *after, 3)


def test_filters_are_pillows() -> None:
    for name in ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"):
        picture = Image.fromarray(noise(40, 30))
        expected = np.asarray(picture.resize((12, 9), Image.Resampling[name.upper()]))
        step = {"resize": {"width": 12, "height": 9, "filter": name}}
        assert (image_pipeline("decode", step, datatype="UINT8")(encoded(noise(40, 30)))[0] == expected).all()
    grey = image_pipeline({"decode": {"channels": "GREY"}}, step, datatype="UINT8", shape=(-1, 9, 12, 1))
    assert grey(encoded(noise(40, 30, 1))).shape == (1, 9, 12, 1)


def test_sampling_without_antialiasing_by_hand() -> None:
    ramp = np.array([[0, 100, 200, 50]], np.uint8)
    step = {"resize": {"width": 2, "height": 1, "antialias": False}}
    pipeline = image_pipeline({"decode": {"channels": "GREY"}}, step, datatype="UINT8", shape=(-1, 1, 2, 1))
    # Centres at 0.5 and 2.5 of the old pixels.
    assert pipeline(encoded(ramp)).ravel().tolist() == [50, 125]
    step["resize"]["width"] = 8
    pipeline = image_pipeline({"decode": {"channels": "GREY"}}, step, datatype="UINT8", shape=(-1, 1, 8, 1))
    assert pipeline(encoded(ramp)).ravel().tolist() == [0, 25, 75, 125, 175, 162, 88, 50]


def test_crop_and_pad() -> None:
    crop = image_pipeline("decode", {"crop": {"width": 4, "height": 2}}, datatype="UINT8")
    assert (crop(encoded(PICTURE))[0] == PICTURE[2:4, 2:6]).all()
    with pytest.raises(RequestError, match=r"image 0 is smaller \(3x6 pixels\) than the 4x2 to cut out of it"):
        crop(encoded(noise(6, 3)))
    start = image_pipeline("decode", {"pad": {"width": 10, "height": 7, "value": [1, 2, 3]}}, datatype="UINT8")(
        encoded(PICTURE)
    )
    assert (start[0, :6, :8] == PICTURE).all()
    assert start[0, 6].tolist() == [[1, 2, 3]] * 10
    centre = image_pipeline("decode", {"pad": {"width": 10, "align": "centre"}}, datatype="UINT8")(encoded(PICTURE))
    assert (centre[0, :, 1:9] == PICTURE).all()
    with pytest.raises(RequestError, match=r"image 0 is larger \(8x6 pixels\) than the 7x6 it is padded to"):
        image_pipeline("decode", {"pad": {"width": 7}}, datatype="UINT8")(encoded(PICTURE))


def test_normalise() -> None:
    step = {"normalise": {"divide": 255, "mean": [0.1, 0.2, 0.3], "std": [1, 2, 4]}}
    expected = (PICTURE / 255 - [0.1, 0.2, 0.3]) / [1, 2, 4]
    assert np.allclose(image_pipeline("decode", step)(encoded(PICTURE))[0], expected, atol=1e-6)
    half = image_pipeline("decode", step, datatype="FP16")(encoded(PICTURE))
    assert half.dtype == np.float16
    assert np.allclose(half[0], expected, atol=1e-3)


def test_several_images_in_one_request() -> None:
    pipeline = image_pipeline("decode", {"resize": {"height": 4}}, max_items=3)
    assert pipeline(encoded(noise(8, 8)), encoded(noise(4, 4)), encoded(noise(16, 16))).shape == (3, 4, 4, 3)
    with pytest.raises(
        RequestError, match=r"image 1 is 8x4 pixels after scaling and image 0 is 4x4: send images of diff"
    ):
        pipeline(encoded(noise(4, 4)), encoded(noise(4, 8)))
    with pytest.raises(RequestError, match="input 'image' has 4 elements; at most 3 are taken at a time"):
        pipeline(*[encoded(noise(4, 4))] * 4)
    with pytest.raises(RequestError, match="input 'image' is empty"):
        pipeline()
    planes = image_pipeline("decode", {"resize": {"height": 4}}, {"layout": "NCHW"}, shape=(-1, 3, 4, -1))
    with pytest.raises(RequestError, match="image 1 is 8x4 pixels after scaling and image 0 is 4x4"):
        planes(encoded(noise(4, 4)), encoded(noise(4, 8)))


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "image 0 is not an image of the formats JPEG, PNG, WEBP"),
        (b"GIF89a", "image 0 is not an image of the formats JPEG, PNG, WEBP"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not an image of the formats"),
        (encoded(PICTURE, "JPEG")[:-30], "image 0 is damaged and cannot be decoded"),
        (encoded(PICTURE)[:-30], "image 0 is damaged and cannot be decoded"),
        (png_claiming(50_000, 50_000), r"image 0 has (50000x50000 pixels; at most|more pixels than the) 25000000"),
        (png_claiming(5_001, 5_000), "image 0 has 5001x5000 pixels; at most 25000000 are taken"),
        (png_claiming(10_000, 10_000), "image 0 has 10000x10000 pixels; at most 25000000 are taken"),
        (png_claiming(1000, 1000), "image 0 is damaged and cannot be decoded"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_hostile_images(content: bytes, expected: str) -> None:
    with pytest.raises(RequestError, match=expected) as caught:
        image_pipeline("decode")(content)
    assert caught.value.status == 400


def test_limits_of_images() -> None:
    content = encoded(PICTURE)
    with pytest.raises(RequestError, match=f"image 1 has {len(content)} bytes; at most 100 are taken"):
        image_pipeline({"decode": {"max_bytes": 100}})(encoded(noise(1, 1)), content)
    with pytest.raises(RequestError, match="image 0 has 8x6 pixels; at most 47 are taken"):
        image_pipeline({"decode": {"max_pixels": 47}})(content)
    # A line one pixel high would become wider than the memory of the machine.
    with pytest.raises(RequestError, match=r"has 9000x1 pixels, which would become 90000x10; its sides are too differ"):
        image_pipeline({"decode": {"max_pixels": 10_000}}, {"resize": {"shorter": 10}})(encoded(noise(1, 9000)))
    floats = io.BytesIO()
    Image.fromarray(np.zeros((2, 2), np.float32)).save(floats, "TIFF")
    with pytest.raises(RequestError, match="image 0 has 32 bits for each pixel"):
        image_pipeline({"decode": {"formats": ["TIFF"]}})(floats.getvalue())


# --------------------------------------------------------------------------------------------------------------------
# Text
# --------------------------------------------------------------------------------------------------------------------
def tokenizer_file(**padding: Any) -> bytes:
    """A WordPiece tokenizer as BERT has it, with a vocabulary of twelve tokens."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "quick", "fox", "jump", "##s", "##ed", "!", "fi"]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    if padding:
        tokenizer.enable_padding(**padding)
    return tokenizer.to_str().encode()


TEXT_INPUTS = [
    spec("input_ids", "INT64", -1, -1),
    spec("attention_mask", "INT64", -1, -1),
    spec("token_type_ids", "INT32", -1, -1),
]
ALL = {"ids": "input_ids", "mask": "attention_mask", "types": "token_type_ids"}


def text_pipeline(content: bytes | None = None, **options: Any) -> Pipeline:
    step = {"tokenize": {"max_length": 8, "inputs": ALL, **options}}
    files = {"tokenizer.json": tokenizer_file() if content is None else content}
    return made({"inputs": [{"name": "text", "steps": [step]}]}, TEXT_INPUTS, None, files)


def tokens(*texts: str, **options: Any) -> dict[str, list[list[int]]]:
    arrays = text_pipeline(**options).before({"text": elements(*texts)})
    return {name: array.tolist() for name, array in arrays.items()}


def test_text_becomes_tokens() -> None:
    pipeline = text_pipeline()
    assert pipeline.inputs == {"text": TensorSpec("text", DATATYPES["BYTES"], (-1,))}
    arrays = pipeline.before({"text": elements("The quick fox jumps!", "Wolf jumped")})
    assert {name: array.dtype.name for name, array in arrays.items()} == {
        "input_ids": "int64",
        "attention_mask": "int64",
        "token_type_ids": "int32",
    }
    assert arrays["input_ids"].tolist() == [[2, 4, 5, 6, 7, 8, 10, 3], [2, 1, 7, 9, 3, 0, 0, 0]]
    assert arrays["attention_mask"].tolist() == [[1] * 8, [1, 1, 1, 1, 1, 0, 0, 0]]
    assert not arrays["token_type_ids"].any()


def test_long_and_short_texts() -> None:
    assert tokens("the " * 20, max_length=4)["input_ids"] == [[2, 4, 4, 3]]
    assert tokens("the the fox", max_length=4, truncate="left")["input_ids"] == [[2, 4, 6, 3]]
    assert tokens("fox")["input_ids"] == [[2, 6, 3]]
    assert tokens("fox", padding="max")["input_ids"] == [[2, 6, 3, 0, 0, 0, 0, 0]]
    assert tokens("fox", padding="max", pad_id=9, pad_type_id=1)["token_type_ids"] == [[0, 0, 0, 1, 1, 1, 1, 1]]
    assert tokens("fox", special_tokens=False)["input_ids"] == [[6]]
    assert tokens("", special_tokens=True)["input_ids"] == [[2, 3]]
    assert tokens("fox", "", content=tokenizer_file(pad_id=11, length=99))["input_ids"] == [[2, 6, 3], [2, 3, 11]]
    with pytest.raises(RequestError, match="input 'text': text 1 has 6 characters; at most 5 are taken"):
        tokens("fox", "foxfox", max_characters=5)


def test_a_tokenizer_that_has_no_token_for_a_text() -> None:
    tokenizer = Tokenizer(models.WordLevel({"fox": 0}, unk_token="[UNK]"))
    pipeline = text_pipeline(tokenizer.to_str().encode())
    with pytest.raises(RequestError, match="input 'text': holds something that the model's tokenizer has no token for"):
        pipeline.before({"text": elements("wolf")})


# --------------------------------------------------------------------------------------------------------------------
# Outputs
# --------------------------------------------------------------------------------------------------------------------
def after(steps: list[Any], array: Any, files: Mapping[str, bytes] | None = None, **more: Any) -> dict[str, Array]:
    values = np.asarray(array)
    names = {np.dtype(item.dtype): name for name, item in DATATYPES.items() if item.wire is not None}
    shape = (-1, *values.shape[1:])
    pipeline = made(
        {"outputs": [{"output": "y", "steps": steps, **more}]}, [], [spec("y", names[values.dtype], *shape)], files
    )
    result = pipeline.after({"y": values})
    # What is declared to clients is what they get.
    for name, found in result.items():
        declared = pipeline.outputs[name]
        assert declared.datatype.dtype == found.dtype
        assert len(declared.shape) == found.ndim
        assert all(want in (-1, have) for want, have in zip(declared.shape, found.shape, strict=True))
    assert list(result) == list(pipeline.outputs)
    return result


def test_softmax_and_sigmoid() -> None:
    rows = np.array([[1, 2, 3], [1000, 1000, -1000]], np.float32)
    powers = np.exp([1, 2, 3])
    found = after(["softmax"], rows)["y"]
    assert np.allclose(found[0], powers / powers.sum(), atol=1e-6)
    assert np.allclose(found[1], [0.5, 0.5, 0], atol=1e-6)
    found = after(["sigmoid"], rows)["y"]
    assert np.allclose(found[0], 1 / (1 + 1 / powers), atol=1e-6)
    assert np.allclose(found[1], [1, 1, 0], atol=1e-6)
    assert after(["softmax"], rows.astype(np.float16))["y"].dtype == np.float32
    assert after([{"softmax": {"axis": 1}}], rows.astype(np.float64)[..., np.newaxis])["y"].dtype == np.float64


@given(st.lists(st.floats(-(2**99), 2**99, width=32), min_size=1, max_size=9))
def test_probabilities_whatever_the_model_answers(row: list[float]) -> None:
    found = after(["softmax"], np.array([row], np.float32))["y"]
    assert found.sum() == pytest.approx(1, abs=1e-5)
    found = after(["sigmoid"], np.array([row], np.float32))["y"]
    assert ((found >= 0) & (found <= 1)).all()


def test_other_steps() -> None:
    rows = np.array([[3, 4], [0, 0]], np.float32)
    assert np.allclose(after(["normalise"], rows)["y"], np.array([[0.6, 0.8], [0, 0]]))
    assert after(["argmax"], rows)["y"].tolist() == [1, 0]
    assert after(["argmax", {"labels": "l.txt"}], rows, {"l.txt": b"no\nyes\n"})["y"].tolist() == ["yes", "no"]
    assert after([{"threshold": 4}], rows)["y"].tolist() == [[False, True], [False, False]]
    assert (after([], rows, name="scores")["scores"] == rows).all()


def test_top() -> None:
    rows = np.array([[0.1, 0.7, 0.2], [0.4, 0.2, 0.4], [np.nan, 0, 0]], np.float32)
    labels = {"l.json": b'["a", "b", "c"]'}
    names = {"label": "what", "score": "how_sure", "index": "number"}
    found = after([{"top": {"k": 2, "labels": "l.json", "outputs": names}}], rows[:2], labels)
    assert found["what"].tolist() == [["b", "c"], ["a", "c"]]
    assert np.allclose(found["how_sure"], np.array([[0.7, 0.2], [0.4, 0.4]]))
    assert found["number"].tolist() == [[1, 2], [0, 2]]
    doubt = {"top": {"labels": "l.json", "threshold": 0.5, "other": "?", "outputs": {"label": "l", "index": "i"}}}
    found = after([doubt], rows, labels)
    assert found["l"].tolist() == [["b"], ["?"], ["?"]]
    assert found["i"].tolist() == [[1], [-1], [-1]]
    assert after(["top"], rows[:2])["y"].tolist() == [[1], [0]]
    assert after([{"top": {"labels": "l.json"}}], rows[:2], labels)["y"].tolist() == [["b"], ["a"]]


def test_a_model_that_does_not_fit_its_labels() -> None:
    declared = {"outputs": [{"output": "y", "steps": [{"top": {"labels": "l.txt"}}]}]}
    pipeline = made(declared, [], [spec("y", "FP32", -1, -1)], {"l.txt": b"a\nb"})
    with pytest.raises(ModelError, match="the model has 3 classes, but there are only 2 labels"):
        pipeline.after({"y": np.zeros((1, 3), np.float32)})
    pipeline = made(
        {"outputs": [{"output": "y", "steps": [{"labels": "l.txt"}]}]}, [], [spec("y", "INT64", -1)], {"l.txt": b"a"}
    )
    for wrong in (-1, 1):
        with pytest.raises(ModelError, match="a number outside its 1 labels"):
            pipeline.after({"y": np.array([wrong])})


def test_only_what_is_declared_is_answered() -> None:
    outputs = [spec("a", "FP32", -1, 2), spec("b", "FP32", -1, 2)]
    declared = {"outputs": [{"output": "a", "name": "p", "steps": ["softmax"]}, {"output": "a", "steps": ["argmax"]}]}
    pipeline = made(declared, [], outputs)
    assert list(pipeline.outputs) == ["p", "a"]
    assert pipeline.sources(["a", "p"]) == ("a",)
    everything = {name: np.zeros((1, 2), np.float32) for name in ("a", "b")}
    assert list(pipeline.after(everything)) == ["p", "a"]
    assert pipeline.after({"b": everything["b"]}) == {}
    plain = made({}, [spec("x", "FP32", -1)], outputs)
    assert plain.sources(["b"]) == ("b",)
    assert plain.after(everything).keys() == {"a", "b"}
    x = np.zeros(1, np.float32)
    assert plain.before({"x": x})["x"] is x


# --------------------------------------------------------------------------------------------------------------------
# Declarations
# --------------------------------------------------------------------------------------------------------------------
def test_a_pipeline_of_a_package(signer: Signer) -> None:
    declared = {"outputs": [{"output": "y", "steps": [{"top": {"labels": "labels.txt"}}]}]}
    tensors = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}],
    }

    def model(path: Path) -> Path:
        (path.parent / "labels.txt").write_text("a\nb\nc\n")
        return doubling_model(path)

    def package(version: str, **manifest: Any) -> Any:
        path = Path(signer.package("m", version, model, **manifest)["path"])
        return open_package(path, "m", version, load_public_keys(signer.public_key))

    pipeline = load(package("1", serving={"pipeline": declared}, **tensors))
    assert pipeline is not None
    assert pipeline.outputs["y"].datatype.name == "BYTES"
    assert load(package("2")) is None
    with pytest.raises(ModelError, match="a pipeline needs the model's inputs and outputs in the manifest"):
        load(package("3", serving={"pipeline": declared}))


def image_input(*steps: Any, **more: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "image", "input": "x", "steps": list(steps), **more}]}


def text_input(**options: Any) -> dict[str, Any]:
    step = {"max_length": 8, "inputs": {"ids": "ids"}, **options}
    return {"inputs": [{"name": "text", "steps": [{"tokenize": step}]}]}


def output(*steps: Any, **more: Any) -> dict[str, Any]:
    return {"outputs": [{"output": "y", "steps": list(steps), **more}]}


STEP = "serving.pipeline.inputs[0].steps"
AFTER = "serving.pipeline.outputs[0].steps"


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ({"inputs": {}}, "serving.pipeline.inputs: must be a list with an entry for each of the inputs, not a mapping"),
        ({"outputs": []}, "serving.pipeline.outputs: must be a list with an entry for each of the outputs, not a list"),
        ({"steps": []}, "serving.pipeline.steps: unknown key; known keys here: inputs"),
        ({"inputs": [{"steps": ["decode"]}]}, "serving.pipeline.inputs[0].name: is missing: what clients call it"),
        ({"inputs": [{"name": "i"}]}, f"{STEP}: is missing: begin with decode, tokenize or bytes"),
        ({"inputs": [{"name": "i", "steps": "decode"}]}, f"{STEP}: must be a list of steps, not text"),
        (
            {"inputs": [{"name": "i", "steps": [{"a": 1, "b": 2}]}]},
            f"{STEP}[0]: must be the name of a step, or one with",
        ),
        (
            {"inputs": [{"name": "i", "steps": ["decode"]}]},
            "inputs[0].input: 'i' is no input of the model, which has x, ids",
        ),
        (image_input({"resize": {"height": 1}}), f"{STEP}: must begin with decode, tokenize or bytes, not resize"),
        (image_input("decode", max_items=0), "inputs[0].max_items: 0 is out of range"),
        (
            image_input({"decode": {"formats": ["EPS"]}}),
            f"{STEP}[0].decode.formats: 'EPS' is not one of JPEG, PNG, WEBP",
        ),
        (image_input({"decode": {"formats": []}}), f"{STEP}[0].decode.formats: must be a list of image formats"),
        (
            image_input({"decode": {"alpha": [1, 2]}}),
            'decode.alpha: must be "drop" or a background [red, green, blue]',
        ),
        (image_input({"decode": {"alpha": [1, 2, 256]}}), "decode.alpha: 256 is out of range"),
        (image_input({"decode": {"chanels": "RGB"}}), "decode.chanels: unknown key; did you mean 'channels'?"),
        (
            image_input("decode", {"resize": {}}),
            f"{STEP}[1].resize: needs width and height, or height (with max_width)",
        ),
        (image_input("decode", {"resize": {"shorter": 1, "max_width": 2}}), "resize.max_width: goes with height alone"),
        (image_input("decode", {"resize": {"width": 1, "shorter": 2}}), "resize: needs width and height"),
        (
            image_input("decode", {"resize": {"height": 9, "filter": "box", "antialias": False}}),
            "cannot be off for box",
        ),
        (
            image_input("decode", "normalise", {"resize": {"height": 9}}),
            f"{STEP}[2].resize: must come before normalise",
        ),
        (image_input("decode", {"crop": {"width": 2}}), "crop.height: is missing: pixels to cut out"),
        (image_input("decode", "pad"), f"{STEP}[1].pad: needs height or width"),
        (
            image_input("decode", {"pad": {"width": 9, "value": 0.5}}),
            "pad.value: must be whole numbers from 0 to 255 before",
        ),
        (image_input("decode", {"pad": {"width": 9, "value": [1, 2]}}), "pad.value: has 2 values for 3 channels"),
        (image_input("decode", {"normalise": {"std": [1, 0, 1]}}), "normalise.std: must not be 0"),
        (image_input("decode", {"normalise": {"mean": "a"}}), "normalise.mean: must be a number, not text"),
        (
            image_input("decode", {"normalise": {"mean": []}}),
            "normalise.mean: must be a number, or one for each channel",
        ),
        (image_input("decode", {"normalise": {"mean": float("nan")}}), "normalise.mean: must be a finite number"),
        (image_input("decode", {"layout": "CHW"}), "layout.value: 'CHW' is not one of NHWC, NCHW"),
        (
            image_input("decode", {"blur": 3}),
            f"{STEP}[1].blur: is no step for images: resize, crop, pad, normalise, layout",
        ),
        (
            image_input("decode", {"layout": "NCHW"}),
            "make one that depends on the image along axis H, but the model's input",
        ),
        (
            image_input("decode", {"resize": {"height": 9, "width": 8}}),
            "make 9 along axis H, but the model's input 'x' wants 4",
        ),
        (image_input("decode", input="ids"), "make [-1, -1, -1, 3], but the model's input 'ids' is [-1, -1]"),
        (image_input("decode", input="ids"), "make UINT8, but the model's input 'ids' is INT64"),
        (image_input({"bytes": {}}, input="ids"), f"{STEP}[0].bytes: needs head or tail"),
        (image_input({"bytes": {"head": 2}}), "make [n, 2], but the model's input 'x' is [-1, 4, 4, 3]"),
        (image_input({"bytes": {"head": 2}}, input="flags"), "make numbers, but the model's input 'flags' is BOOL"),
        (
            image_input({"bytes": {"head": 2}}, input="small"),
            "make numbers that do not fit UINT8 of the model's input 'small'",
        ),
        (image_input({"bytes": {"head": 2}}, "decode", input="ids"), f"{STEP}[1].decode: cannot follow bytes"),
        (text_input(max_length=None), "tokenize.max_length: is missing: how many tokens the model takes"),
        (
            text_input(inputs=None),
            'tokenize.inputs: must map ids (and mask, types) to the model\'s inputs, such as {"ids"',
        ),
        (text_input(inputs={"ids": "idz"}), "tokenize.inputs.ids: 'idz' is no input of the model, which has x, ids"),
        (
            text_input(inputs={"ids": "x"}),
            "tokenize.inputs.ids: 'x' is FP32 [-1, 4, 4, 3], not INT64 or INT32 [n, length]",
        ),
        (text_input(inputs={"ids": "ids", "masks": "ids"}), "inputs.masks: unknown key; did you mean 'mask'?"),
        (text_input(file="none.json"), "tokenize.file: none.json is not listed in manifest.json"),
        (text_input(file="labels.txt"), "tokenize.file: labels.txt is not a tokenizer: "),
        (text_input(file="binary"), "tokenize.file: binary is not UTF-8 text"),
        (text_input(max_length=2), "tokenize.max_length: is 2, but 2 special tokens are added to each text"),
        (text_input(inputs={"ids": "ids", "mask": "ids"}), "serving.pipeline.inputs: 'ids' is made twice"),
        (
            {"outputs": [{}]},
            "serving.pipeline.outputs[0].output: is missing: which of the model's outputs it is made of",
        ),
        ({"outputs": [{"output": "z"}]}, "outputs[0].output: 'z' is no output of the model, which has y, code"),
        (output("relu"), f"{AFTER}[0].relu: is no step for outputs: softmax, sigmoid, normalise, argmax, threshold"),
        (output({"softmax": {"axis": 2}}), f"{AFTER}[0].softmax.axis: 2 is not an axis of the shape [-1, 3]"),
        (output({"softmax": {"axis": 0}}), "softmax.axis: must not be the first one, which counts the elements"),
        (output("threshold"), "threshold.value: is missing: a number"),
        (output("labels"), "labels: needs the name of a file"),
        (output({"labels": "labels.txt"}), "labels: needs whole numbers, but gets FP32"),
        (output("argmax", "softmax"), "softmax: needs floating point numbers, but gets INT64"),
        (output({"top": {"k": 4}}), "top.k: is 4, but there are 3 classes"),
        (output({"top": {"labels": "two.txt"}}), "top.labels: has 2 labels for 3 classes"),
        (output({"top": {"labels": "empty.txt"}}), "top.labels: empty.txt must hold a label in each line"),
        (output({"top": {"labels": "labels.json"}}), "top.labels: labels.json must hold a label in each line"),
        (output({"top": {"labels": "binary"}}), "top.labels: 'utf-8' codec can't decode"),
        (output({"top": {"labels": 3}}), "top.labels: must be the name of a file, not a number"),
        (output({"top": {"outputs": {"label": "l"}}}), "top.outputs: names a label, but no labels are given"),
        (output({"top": {"outputs": {"name": "l"}}}), "top.outputs: 'name' is not one of label, score, index"),
        (output({"top": {"outputs": {"score": 1}}}), "top.outputs: the name of score must be text, not a number"),
        (output({"top": {"outputs": []}}), "top.outputs: must map label, score or index to names that clients get"),
        (output({"top": {"other": 1}}), "top.other: must be text, not a number"),
        (output("top", "softmax"), f"{AFTER}[1].softmax: cannot follow top, which is the last step"),
        (output("argmax", "top"), f"{AFTER}[1].top: needs a score for each class, but gets the shape [-1]"),
        ({"outputs": [{"output": "y"}, {"output": "code", "name": "y"}]}, "outputs: 'y' is answered twice"),
        (image_input("decode", name="ids"), "serving.pipeline.inputs: 'ids' is sent twice"),
    ],
)
def test_mistakes(declared: dict[str, Any], expected: str) -> None:
    fixed = image_input("decode", {"resize": {"width": 4, "height": 4}}, name="ids")
    inputs = [
        spec("x", "FP32", -1, 4, 4, 3),
        spec("ids", "INT64", -1, -1),
        spec("flags", "BOOL", -1, 2),
        spec("small", "UINT8", -1, 2),
    ]
    outputs = [spec("y", "FP32", -1, 3), spec("code", "INT64", -1)]
    files = {
        "tokenizer.json": tokenizer_file(),
        "labels.txt": b"a\nb\nc",
        "two.txt": b"a\nb",
        "empty.txt": b"",
        "labels.json": b'{"labels": [1]}',
        "binary": b"\xff\xfe",
    }
    if "sent twice" in expected:
        declared = fixed
    with pytest.raises(ModelError) as caught:
        made(declared, inputs, outputs, files)
    assert expected in str(caught.value)
    assert str(caught.value).startswith("model 'm': serving.pipeline")


def test_all_mistakes_of_a_declaration_at_once() -> None:
    declared = {
        "inputs": [{"name": "image", "input": "x", "steps": [{"decode": {"channels": "RBG"}}, {"crop": {}}, "blur"]}],
        "outputs": [{"output": "y", "steps": ["relu"]}, {"output": "z"}],
    }
    with pytest.raises(ModelError) as caught:
        made(declared, [spec("x", "FP32", -1, -1, -1, 3)])
    for part in ("'RBG' is not one of", "crop.height", "crop.width", "blur", "relu", "'z' is no output"):
        assert part in str(caught.value)
