# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Sends damaged images through a pipeline: each becomes an array of the promised shape, or is refused with 400.

``python tests/fuzz/fuzz_images.py 250000 [seed]``
"""

from __future__ import annotations

import io
import random
import struct
import sys
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import Any, Final

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "src")]

import numpy as np
from PIL import Image

from ai102_server.codec import DATATYPES, TensorSpec
from ai102_server.errors import RequestError
from ai102_server.pipeline import Pipeline
from ai102_server.pipeline.pipeline import read_pipeline

MAX_PIXELS: Final = 40_000
PNG: Final = b"\x89PNG\r\n\x1a\n"
EDGES: Final = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def seeds() -> list[bytes]:
    """Small images of every format and kind that decoders treat differently."""
    pixels = np.random.default_rng(0).integers(0, 256, (13, 17, 4), dtype=np.uint8)
    smooth = np.linspace(0, 255, 13 * 17 * 3).reshape(13, 17, 3).astype(np.uint8)
    colour, grey, clear = Image.fromarray(smooth), Image.fromarray(smooth[:, :, 0]), Image.fromarray(pixels)
    deep = Image.fromarray(smooth[:, :, 0].astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description"
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0a comment"
    frames: dict[str, Any] = {"save_all": True, "append_images": [colour, colour.rotate(90)], "duration": 10}
    kinds: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (colour, "JPEG", {"exif": exif}),
        (colour, "JPEG", {"progressive": True, "quality": 95, "subsampling": 0}),
        (grey, "JPEG", {"optimize": True}),
        (colour.convert("CMYK"), "JPEG", {}),
        (colour, "MPO", {"save_all": True, "append_images": [colour]}),
        (colour, "PNG", {"exif": exif}),
        (clear, "PNG", {}),
        (deep, "PNG", {}),
        (grey.convert("1"), "PNG", {}),
        (grey.convert("LA"), "PNG", {}),
        (colour.quantize(5), "PNG", {"transparency": 1}),
        (colour, "PNG", frames),
        (colour, "WEBP", {"quality": 50, "exif": exif}),
        (clear, "WEBP", {"lossless": True}),
        (colour, "WEBP", frames),
        (colour, "BMP", {}),
        (colour.quantize(5), "BMP", {}),
        (colour, "GIF", frames),
        (colour, "TIFF", {}),
        (colour, "TIFF", {"compression": "tiff_lzw"}),
        (colour, "TIFF", {"compression": "jpeg"}),
        (deep, "TIFF", {"compression": "tiff_adobe_deflate"}),
        (grey.convert("F"), "TIFF", {}),
        (grey.convert("1"), "TIFF", {"compression": "group4"}),
        (colour, "PPM", {}),
        (colour, "AVIF", {}),
    ]
    found: list[bytes] = []
    for image, form, options in kinds:
        buffer = io.BytesIO()
        image.save(buffer, form, **options)
        found.append(buffer.getvalue())
    return found


def mend_png(content: bytes) -> bytes:
    """Right checksums, so that the damage gets past them to the decoder."""
    if not content.startswith(PNG):
        return content
    parts, at = [PNG], len(PNG)
    while at + 12 <= len(content):
        (size,) = struct.unpack_from(">I", content, at)
        if size > len(content) - at - 12:
            break
        body = content[at + 4 : at + 8 + size]
        parts += (content[at : at + 4], body, struct.pack(">I", zlib.crc32(body)))
        at += 12 + size
    return b"".join([*parts, content[at:]])


def mutate(random_: random.Random, pool: list[bytes]) -> bytes:
    """One damaged image."""
    content = bytearray(random_.choice(pool))
    for _ in range(random_.choice((1, 1, 2, 3, 8))):
        # Headers decide most, so they are hit most.
        limit = random_.choice((40, 200, len(content)))
        place = random_.randrange(min(limit, len(content)) or 1)
        action = random_.randrange(8)
        if action <= 1 and content:
            content[place % len(content)] ^= 1 << random_.randrange(8)
        elif action == 2 and content:
            content[place % len(content)] = random_.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF))
        elif action == 3:
            form = random_.choice(("<H", ">H", "<I", ">I"))
            value = random_.choice(EDGES) & (0xFFFF if form[1] == "H" else 0xFFFFFFFF)
            content[place : place + struct.calcsize(form)] = struct.pack(form, value)
        elif action == 4:
            del content[place : place + random_.choice((1, 2, 4, 16, 100))]
        elif action == 5:
            content[place:place] = random_.randbytes(random_.choice((1, 2, 4, 16, 100)))
        elif action == 6:
            other = random_.choice(pool)
            start = random_.randrange(len(other))
            content[place : place + random_.choice((0, 8, 64))] = other[start : start + random_.choice((8, 64, 999))]
        else:
            del content[random_.randrange(len(content) + 1) :]
    damaged = bytes(content)
    return mend_png(damaged) if random_.random() < 0.8 else damaged


def pipelines() -> list[Pipeline]:
    """Pipelines that use every step."""
    formats = ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF"]
    limits = {"formats": formats, "max_pixels": MAX_PIXELS}
    chains: list[list[Any]] = [
        [
            {"decode": {**limits, "channels": "BGR"}},
            {"resize": {"height": 12, "max_width": 24, "antialias": False}},
            {"normalise": {"divide": 255, "mean": 0.5, "std": 0.5}},
            {"pad": {"width": 24}},
            {"layout": "NCHW"},
        ],
        [
            {"decode": {**limits, "alpha": [1, 2, 3]}},
            {"resize": {"shorter": 16}},
            {"crop": {"width": 12, "height": 12}},
            {"pad": {"width": 24, "height": 12, "value": 7, "align": "centre"}},
            {"layout": "NCHW"},
        ],
        [
            {"decode": {**limits, "orientation": False}},
            {"resize": {"longer": 12, "filter": "bicubic"}},
            {"pad": {"width": 24, "height": 12}},
            {"layout": "NCHW"},
        ],
    ]
    spec = TensorSpec("x", DATATYPES["FP32"], (-1, 3, 12, 24))
    return [
        read_pipeline({"inputs": [{"name": "x", "steps": steps}]}, [spec], [], lambda _: b"", "fuzz")
        for steps in chains
    ]


def run(count: int, seed: int = 0) -> Counter[str]:
    """Try ``count`` images; returns how many were taken and how many refused. Raises what must never be raised."""
    random_ = random.Random(seed)
    pool, targets = seeds(), pipelines()
    found: Counter[str] = Counter()
    for number in range(count):
        content = mutate(random_, pool)
        images: Any = np.empty(1, dtype=object)
        images[0] = content
        try:
            array = random_.choice(targets).before({"x": images})["x"]
        except RequestError as error:
            if error.status != 400:
                raise
            found["refused"] += 1
        except BaseException:
            Path(f"crash-image-{seed}-{number}").write_bytes(content)
            raise
        else:
            if array.shape != (1, 3, 12, 24) or array.dtype != np.float32 or not np.isfinite(array).all():
                raise AssertionError(f"case {number} of seed {seed} became {array.shape} {array.dtype}")
            found["taken"] += 1
    return found


def main() -> None:
    """Run from the command line."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    started = time.perf_counter()
    found = run(count, seed)
    print(f"{count} images in {time.perf_counter() - started:.0f} s, seed {seed}: {dict(found)}")


if __name__ == "__main__":
    main()
