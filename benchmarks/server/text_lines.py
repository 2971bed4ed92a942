# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures of text lines, upright and turned by 180 degrees, with labels: what PP-OCR's classifier tells apart."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

HEIGHT, WIDTH = 48, 192
WORDS = (
    "Invoice Total amount Delivery Customer Reference number Payment within thirty days Account Signature Order "
    "Quantity Price per unit Transport insurance Warehouse Street Berlin London Paris Contract Clause Temperature "
    "Pressure Valve Serial Inspection passed Warning Danger high voltage Emergency exit Library Station Platform "
    "Departure Arrival Passenger Ticket Hospital Ward Patient Diagnosis Dose Prescription Morning Evening Chapter"
)


def fonts() -> list[Path]:
    """Fonts of the DejaVu family, which matplotlib carries."""
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("error: matplotlib is not installed")
    directory = Path(spec.submodule_search_locations[0]) / "mpl-data" / "fonts" / "ttf"
    return [path for path in sorted(directory.glob("DejaVu*.ttf")) if "Display" not in path.name]


def text_lines(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """``count`` lines as FP32 [count, 3, 48, 192], scaled to -1…1, and their labels: 0 upright, 1 turned."""
    random = np.random.default_rng(seed)
    faces = fonts()
    images = np.empty((count, 3, HEIGHT, WIDTH), np.float32)
    labels = random.integers(0, 2, count)
    for index in range(count):
        text = " ".join(random.choice(WORDS.split(), random.integers(1, 4)))
        if random.random() < 0.4:
            text += f" {random.integers(1, 99999)}"
        font = ImageFont.truetype(str(faces[random.integers(len(faces))]), int(random.integers(22, 34)))
        left, top, right, bottom = font.getbbox(text)
        margin = int(random.integers(2, 9))
        paper = tuple(int(value) for value in random.integers(180, 256, 3))
        ink = tuple(int(value) for value in random.integers(0, 110, 3))
        picture = Image.new("RGB", (int(right - left) + 2 * margin, int(bottom - top) + 2 * margin), paper)
        ImageDraw.Draw(picture).text((margin - left, margin - top), text, ink, font)
        picture = picture.rotate(float(random.uniform(-2, 2)), expand=False, fillcolor=paper)
        if random.random() < 0.5:
            picture = picture.filter(ImageFilter.GaussianBlur(float(random.uniform(0.2, 1.0))))
        if labels[index]:
            picture = picture.rotate(180)
        # As PP-OCR does: keep the proportions, fill up with zeros on the right.
        width = min(WIDTH, max(1, round(picture.width * HEIGHT / picture.height)))
        pixels = np.asarray(picture.resize((width, HEIGHT), Image.Resampling.BILINEAR), np.float32)
        pixels += random.normal(0, 4, pixels.shape).astype(np.float32)
        line = np.zeros((3, HEIGHT, WIDTH), np.float32)
        line[:, :, :width] = (pixels[:, :, ::-1].transpose(2, 0, 1).clip(0, 255) / 255 - 0.5) / 0.5
        images[index] = line
    return images, labels.astype(np.int64)
