# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Cut-outs of the photographs that scikit-image carries, as an ImageNet classifier takes them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

SIZE = 224
NAMES = (
    "astronaut.png", "brick.png", "camera.png", "chelsea.png", "clock_motion.png", "coffee.png", "coins.png",
    "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png",
    "motorcycle_right.png", "page.png", "retina.jpg", "rocket.jpg", "text.png",
)  # fmt: skip
MEAN, DEVIATION = 127.0, 128.0  # of the Lite models, which were trained on -1…1


def sources() -> list[Image.Image]:
    """The photographs, in colours."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("error: scikit-image is not installed")
    directory = Path(spec.submodule_search_locations[0]) / "data"
    found = []
    for name in NAMES:
        with Image.open(directory / name) as picture:
            found.append(picture.convert("RGB"))
    return found


def photographs(count: int, seed: int) -> np.ndarray:
    """``count`` cut-outs, mirrored now and then, as FP32 [count, 3, 224, 224], scaled to about -1…1."""
    random = np.random.default_rng(seed)
    pictures = sources()
    result = np.empty((count, 3, SIZE, SIZE), np.float32)
    for index in range(count):
        picture = pictures[index % len(pictures)]
        side = int(min(picture.size) * random.uniform(0.6, 1.0))
        left = int(random.integers(0, picture.width - side + 1))
        top = int(random.integers(0, picture.height - side + 1))
        cut = picture.crop((left, top, left + side, top + side)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        if random.random() < 0.5:
            cut = ImageOps.mirror(cut)
        result[index] = (np.asarray(cut, np.float32).transpose(2, 0, 1) - MEAN) / DEVIATION
    return result
