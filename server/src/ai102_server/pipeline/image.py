# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Image files to arrays.

Everything a client sends is hostile: sizes are checked before pixels are decoded, formats that are not asked for are
not even looked at, and whatever a decoder raises is the client's mistake.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from PIL import Image, UnidentifiedImageError

from ai102_server.codec import TensorSpec
from ai102_server.codec.datatypes import Array
from ai102_server.config.reader import Section, kind_of, to_choice, to_flag, to_integer
from ai102_server.pipeline.declaration import VALUE, Refused, Step, to_numbers

__all__ = ["ImageInput", "read_image_steps"]

FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")
DEFAULT_FORMATS: Final = ("JPEG", "PNG", "WEBP")
MAX_PIXELS: Final = 25_000_000
MAX_BYTES: Final = 32 * 1024 * 1024
MAX_SIDE: Final = 1 << 14

_FILTERS: Final = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_ORIENTATION: Final = 0x0112
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ANY: Final = -1

# Pillow warns of what clients send: of large images, which we refuse ourselves, and of broken EXIF. Who reads the
# server's log can do nothing about it.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


@dataclass(frozen=True)
class _Frame:
    """What is known of an image between two steps; -1 for a size that depends on the file."""

    channels: int
    height: int = _ANY
    width: int = _ANY
    real: bool = False


Transform = Callable[[Array], Array]


# --------------------------------------------------------------------------------------------------------------------
# Decoding
# --------------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Decode:
    """An image file to a picture of Pillow's mode RGB or, for ``grey``, L."""

    formats: tuple[str, ...] = DEFAULT_FORMATS
    grey: bool = False
    orientation: bool = True
    alpha: tuple[int, ...] | None = None
    max_pixels: int = MAX_PIXELS
    max_bytes: int = MAX_BYTES

    def __call__(self, content: bytes) -> Image.Image:
        """Decode. Raises ``Refused``."""
        if len(content) > self.max_bytes:
            raise Refused(f"has {len(content)} bytes; at most {self.max_bytes} are taken")
        try:
            with Image.open(io.BytesIO(content), formats=self.formats) as image:
                self._check_size(*image.size)
                image.load()
                # What was loaded counts, not what the header said.
                self._check_size(*image.size)
                return self._picture(image)
        except Refused:
            raise
        except UnidentifiedImageError:
            raise Refused(f"is not an image of the formats {', '.join(self.formats)}") from None
        except Image.DecompressionBombError:
            raise Refused(f"has more pixels than the {self.max_pixels} that are taken") from None
        except Exception:  # noqa: BLE001 - decoders raise anything for damaged files; its words are not for clients
            raise Refused("is damaged and cannot be decoded") from None

    def _check_size(self, width: int, height: int) -> None:
        if width < 1 or height < 1:
            raise Refused("has no pixels")
        if width * height > self.max_pixels:
            raise Refused(f"has {width}x{height} pixels; at most {self.max_pixels} are taken")

    def _picture(self, image: Image.Image) -> Image.Image:
        turn = _orientation(image) if self.orientation else None
        picture: Image.Image = image
        if image.mode.startswith("I;16"):
            # Pillow cuts 16 bits off at 255 instead of scaling them.
            picture = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        elif image.mode in {"I", "F"}:
            raise Refused("has 32 bits for each pixel, which is not supported")
        elif self.alpha is not None and image.has_transparency_data:
            background = Image.new("RGBA", image.size, (*self.alpha, 255))
            picture = Image.alpha_composite(background, image.convert("RGBA"))
        mode = "L" if self.grey else "RGB"
        if picture.mode != mode:
            picture = picture.convert(mode)
        return picture if turn is None else picture.transpose(turn)


def _array(picture: Image.Image) -> Array:
    """Pixels of a picture, uint8, of shape [height, width, channels]."""
    array: Array = np.asarray(picture)
    return array[:, :, np.newaxis] if picture.mode == "L" else array


def _orientation(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - a camera's broken notes are no reason to refuse its picture
        return None


def _to_formats(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError("must be a list of image formats")
    choose = to_choice(FORMATS)
    return tuple(choose(item) for item in value)


def _to_alpha(value: object) -> tuple[int, ...] | None:
    if value == "drop":
        return None
    level = to_integer(0, 255)
    if not isinstance(value, list) or len(value) != 3:  # noqa: PLR2004 - red, green, blue
        raise ValueError(f'must be "drop" or a background [red, green, blue], not {kind_of(value)}')
    return tuple(level(item) for item in value)


def _read_decode(options: Section) -> tuple[Decode, str]:
    channels = options.get("channels", "RGB", to_choice(("RGB", "BGR", "GREY")))
    decode = Decode(
        formats=options.get("formats", DEFAULT_FORMATS, _to_formats),
        grey=channels == "GREY",
        orientation=options.get("orientation", True, to_flag),
        alpha=options.get("alpha", None, _to_alpha),
        max_pixels=options.get("max_pixels", MAX_PIXELS, to_integer(1, 1 << 28)),
        max_bytes=options.get("max_bytes", MAX_BYTES, to_integer(1, 1 << 30)),
    )
    options.finish()
    Image.init()
    for name in decode.formats:
        if name not in Image.OPEN:
            options.report("formats", f"{name} is not supported by the Pillow that is installed")
    return decode, channels


# --------------------------------------------------------------------------------------------------------------------
# Steps on arrays of shape [height, width, channels]
# --------------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Resize:
    """Scale to a size that ``size`` finds for a height and a width."""

    size: Callable[[int, int], tuple[int, int]]
    filter: str
    antialias: bool
    max_pixels: int

    @property
    def sampled(self) -> bool:
        """Whether it is done here; else it is Pillow's work."""
        return not self.antialias and self.filter == "bilinear"

    def __call__(self, image: Array) -> Array:
        """Scale. Raises ``Refused`` when the result would be too large."""
        if self.sampled:
            height, width = self._target(image.shape[0], image.shape[1])
            return _sample(image, height, width)
        single = image.shape[2] == 1
        return _array(self.scale(Image.fromarray(image[:, :, 0] if single else np.ascontiguousarray(image))))

    def scale(self, picture: Image.Image) -> Image.Image:
        """Scale what was just decoded, without a copy of all its pixels. Raises ``Refused``."""
        height, width = self._target(picture.height, picture.width)
        return picture.resize((width, height), _FILTERS[self.filter])

    def _target(self, height: int, width: int) -> tuple[int, int]:
        tall, wide = self.size(height, width)
        if tall * wide > self.max_pixels:
            raise Refused(f"has {width}x{height} pixels, which would become {wide}x{tall}; its sides are too different")
        return tall, wide


def _sample(image: Array, height: int, width: int) -> Array:
    """Bilinear interpolation between the four nearest pixels, however many there are: OpenCV's INTER_LINEAR."""
    above, below, down = _between(image.shape[0], height)
    left, right, across = _between(image.shape[1], width)
    upper, lower = image[above].astype(np.float32), image[below].astype(np.float32)
    rows = upper + (lower - upper) * down[:, np.newaxis, np.newaxis]
    near = rows[:, left]
    mixed = near + (rows[:, right] - near) * across[np.newaxis, :, np.newaxis]
    result: Array = np.rint(mixed).astype(image.dtype)
    return result


def _between(before: int, after: int) -> tuple[Array, Array, Array]:
    """For each pixel of the result: the pixels on its two sides, and how far it is from the first."""
    centre = (np.arange(after) + 0.5) * (before / after) - 0.5
    first = np.clip(np.floor(centre), 0, before - 1)
    share = np.clip(centre - first, 0, 1)
    index = first.astype(np.intp)
    return index, np.minimum(index + 1, before - 1), share.astype(np.float32)


@dataclass(frozen=True)
class _Exactly:
    height: int
    width: int

    def __call__(self, _height: int, _width: int) -> tuple[int, int]:
        return self.height, self.width


@dataclass(frozen=True)
class _Height:
    height: int
    max_width: int | None

    def __call__(self, height: int, width: int) -> tuple[int, int]:
        wide = max(1, math.ceil(self.height * (width / height)))
        return self.height, wide if self.max_width is None else min(wide, self.max_width)


@dataclass(frozen=True)
class _Side:
    pixels: int
    shorter: bool

    def __call__(self, height: int, width: int) -> tuple[int, int]:
        tall = (height < width) == self.shorter or height == width
        if tall:
            return self.pixels, max(1, self.pixels * width // height)
        return max(1, self.pixels * height // width), self.pixels


@dataclass(frozen=True)
class Crop:
    """Cut ``height`` x ``width`` pixels out of the middle."""

    height: int
    width: int

    def __call__(self, image: Array) -> Array:
        """Cut. Raises ``Refused`` when the image is smaller."""
        height, width = image.shape[:2]
        if height < self.height or width < self.width:
            raise Refused(f"is smaller ({width}x{height} pixels) than the {self.width}x{self.height} to cut out of it")
        top, left = round((height - self.height) / 2), round((width - self.width) / 2)
        return image[top : top + self.height, left : left + self.width]


@dataclass(frozen=True)
class Pad:
    """Enlarge to ``height`` x ``width`` (None: as it is) with ``value``, one for each channel or for all."""

    height: int | None
    width: int | None
    value: tuple[float, ...]
    centre: bool

    def __call__(self, image: Array) -> Array:
        """Enlarge. Raises ``Refused`` when the image is larger already."""
        before = image.shape[:2]
        height, width = self.height or before[0], self.width or before[1]
        if height < before[0] or width < before[1]:
            raise Refused(f"is larger ({before[1]}x{before[0]} pixels) than the {width}x{height} it is padded to")
        result: Array = np.empty((height, width, image.shape[2]), image.dtype)
        result[:] = np.array(self.value).astype(image.dtype)
        top, left = ((height - before[0]) // 2, (width - before[1]) // 2) if self.centre else (0, 0)
        result[top : top + before[0], left : left + before[1]] = image
        return result


@dataclass(frozen=True)
class Normalise:
    """(v / divide - mean) / std, as FP32; each has a value for each channel or one for all."""

    divide: Array
    mean: Array
    std: Array

    def __call__(self, image: Array) -> Array:
        """Compute."""
        result: Array = image.astype(np.float32)
        result /= self.divide
        result -= self.mean
        result /= self.std
        return result


def _reverse(image: Array) -> Array:
    return image[:, :, ::-1]


# --------------------------------------------------------------------------------------------------------------------
# Declaration
# --------------------------------------------------------------------------------------------------------------------
_SIDE = to_integer(1, MAX_SIDE)


def _read_resize(options: Section, frame: _Frame, max_pixels: int) -> tuple[Transform, _Frame]:
    given = {key: options.get(key, 1, _SIDE) for key in ("width", "height", "shorter", "longer") if options.has(key)}
    options.known += ["width", "height", "shorter", "longer"]
    max_width = options.get("max_width", None, _SIDE)
    size: Callable[[int, int], tuple[int, int]] = _Exactly(1, 1)
    if given.keys() == {"width", "height"}:
        size = _Exactly(given["height"], given["width"])
        frame = replace(frame, height=given["height"], width=given["width"])
    elif given.keys() == {"height"}:
        size = _Height(given["height"], max_width)
        frame = replace(frame, height=given["height"], width=_ANY)
    elif given.keys() in ({"shorter"}, {"longer"}):
        (side,) = given
        size = _Side(given[side], side == "shorter")
        frame = replace(frame, height=_ANY, width=_ANY)
    else:
        options.report("", "needs width and height, or height (with max_width), or shorter, or longer")
    if options.has("max_width") and given.keys() != {"height"}:
        options.report("max_width", "goes with height alone")
    name = options.get("filter", "bilinear", to_choice(_FILTERS))
    antialias = options.get("antialias", True, to_flag)
    if not antialias and name not in {"bilinear", "nearest"}:
        options.report("antialias", f"cannot be off for {name}: only for bilinear and nearest")
    if frame.real:
        options.report("", "must come before normalise")
    return Resize(size, name, antialias, max_pixels), frame


def _read_crop(options: Section, frame: _Frame) -> tuple[Transform, _Frame]:
    hint = "pixels to cut out"
    crop = Crop(options.require("height", 1, _SIDE, hint), options.require("width", 1, _SIDE, hint))
    return crop, replace(frame, height=crop.height, width=crop.width)


def _read_pad(options: Section, frame: _Frame) -> tuple[Transform, _Frame]:
    height, width = options.get("height", None, _SIDE), options.get("width", None, _SIDE)
    if height is None and width is None:
        options.report("", "needs height or width")
    value = options.get("value", _one(0), to_numbers)
    _check_channels(options, "value", value, frame)
    if not frame.real and any(not 0 <= item <= 255 or item != int(item) for item in value):  # noqa: PLR2004 - a byte
        options.report("value", "must be whole numbers from 0 to 255 before normalise")
    centre = options.get("align", "start", to_choice(("start", "centre"))) == "centre"
    return Pad(height, width, value, centre), replace(frame, height=height or frame.height, width=width or frame.width)


def _read_normalise(options: Section, frame: _Frame) -> tuple[Transform, _Frame]:
    values: list[Array] = []
    for key, default in (("divide", 1.0), ("mean", 0.0), ("std", 1.0)):
        numbers = options.get(key, _one(default), to_numbers)
        _check_channels(options, key, numbers, frame)
        if key != "mean" and 0 in np.array(numbers, np.float32):
            options.report(key, "must not be 0")
        values.append(np.array(numbers, np.float32))
    return Normalise(*values), replace(frame, real=True)


def _one(value: float) -> tuple[float, ...]:
    return (value,)


def _check_channels(options: Section, key: str, values: Sequence[float], frame: _Frame) -> None:
    if len(values) not in {1, frame.channels}:
        options.report(key, f"has {len(values)} values for {frame.channels} channels")


@dataclass(frozen=True)
class ImageInput:
    """Image files to the model's input ``spec``, whose shape is [n, height, width, channels] or the like."""

    spec: TensorSpec
    decode: Decode
    scalings: tuple[Resize, ...]
    transforms: tuple[Transform, ...]
    channels_first: bool

    def __call__(self, contents: Sequence[bytes]) -> dict[str, Array]:
        """The model's input. Raises ``Refused`` with the number of the image in front."""
        result: Array | None = None
        for index, content in enumerate(contents):
            try:
                image = self._one(content)
            except Refused as error:
                raise Refused(f"image {index} {error}") from None
            if result is None:
                result = np.empty((len(contents), *image.shape), self.spec.datatype.dtype)
            elif image.shape != result.shape[1:]:
                first = result.shape[2:0:-1] if not self.channels_first else result.shape[:1:-1]
                this = image.shape[1::-1] if not self.channels_first else image.shape[:0:-1]
                raise Refused(
                    f"image {index} is {this[0]}x{this[1]} pixels after scaling and image 0 is {first[0]}x{first[1]}: "
                    "send images of different proportions in requests of their own"
                )
            result[index] = image
        return {} if result is None else {self.spec.name: result}

    def _one(self, content: bytes) -> Array:
        picture = self.decode(content)
        for resize in self.scalings:
            picture = resize.scale(picture)
        image = _array(picture)
        for transform in self.transforms:
            image = transform(image)
        return image.transpose(2, 0, 1) if self.channels_first else image


def read_image_steps(steps: Sequence[Step], spec: TensorSpec, section: Section) -> ImageInput:
    """Steps that begin with ``decode`` for the model's input ``spec``; mistakes are reported to ``section``."""
    decode, channels = _read_decode(steps[0].options)
    frame = _Frame(channels=1 if decode.grey else 3)
    transforms: list[Transform] = []
    reverse = channels == "BGR"
    layout = "NHWC"
    for step in steps[1:]:
        options = step.options
        # Reversing after what makes the image smaller costs less, and it makes no difference there.
        if reverse and step.kind not in {"resize", "crop"}:
            transforms.append(_reverse)
            reverse = False
        made: tuple[Any, _Frame] | None = None
        if step.kind == "resize":
            made = _read_resize(options, frame, decode.max_pixels)
        elif step.kind == "crop":
            made = _read_crop(options, frame)
        elif step.kind == "pad":
            made = _read_pad(options, frame)
        elif step.kind == "normalise":
            made = _read_normalise(options, frame)
        elif step.kind == "layout":
            layout = options.require(VALUE, layout, to_choice(("NHWC", "NCHW")), "NHWC or NCHW")
        else:
            options.report("", "is no step for images: resize, crop, pad, normalise, layout")
            continue
        if made is not None:
            transforms.append(made[0])
            frame = made[1]
        options.finish()
    if reverse:
        transforms.append(_reverse)
    _check_spec(section, spec, frame, layout)
    scalings: list[Resize] = []
    while transforms and isinstance(transforms[0], Resize) and not transforms[0].sampled:
        scalings.append(transforms[0])
        del transforms[0]
    return ImageInput(spec, decode, tuple(scalings), tuple(transforms), layout == "NCHW")


def _check_spec(section: Section, spec: TensorSpec, frame: _Frame, layout: str) -> None:
    """Compare what the steps make with what the model takes."""
    datatype = spec.datatype
    if datatype.kind != "f" and (frame.real or datatype.name != "UINT8"):
        made = "FP32" if frame.real else "UINT8"
        section.report("steps", f"make {made}, but the model's input '{spec.name}' is {datatype.name}")
    sizes = {"N": _ANY, "H": frame.height, "W": frame.width, "C": frame.channels}
    made_shape = [sizes[axis] for axis in layout]
    if len(spec.shape) != len(made_shape):
        section.report("steps", f"make {made_shape}, but the model's input '{spec.name}' is {list(spec.shape)}")
        return
    for axis, have, want in zip(layout[1:], made_shape[1:], spec.shape[1:], strict=True):
        if want not in (_ANY, have):
            size = "one that depends on the image" if have == _ANY else str(have)
            section.report(
                "steps", f"make {size} along axis {axis}, but the model's input '{spec.name}' wants {want} there"
            )
