"""From stored pixels to the float tensor that a network takes."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spatialonnx.data.input_form import CHANNELS_FIRST, COLOURS, InputForm
from spatialonnx.errors import DataError, ModelError

_LARGEST_SIDE = 4096  # Beyond any CNN's input; a model file must not cause larger allocations.

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Preprocessing:
    """How 8-bit pixels become a network's input: `(pixel / scale - mean) / std`.

    Attributes:
        size: height and width given to the network, in pixels.
        channels: 1 (grey) or 3 (red, green, blue).
        mean: one value per channel, subtracted after division by `scale`.
        std: one value per channel, the divisor after that.
        resize: length of the shorter side before a centre crop to `size`; None resizes straight
            to `size`, and only where an image's size differs.
        scale: what a pixel is divided by first; 255 maps pixels to [0, 1].
    """

    size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | None = None
    scale: float = 255.0

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            DataError: naming the value.
        """
        if len(self.size) != 2 or not all(1 <= side <= _LARGEST_SIDE for side in self.size):
            raise DataError(f"preprocessing: size {self.size} must be two sides of 1 or more")
        if self.channels not in COLOURS:
            raise DataError(f"preprocessing: {self.channels} channels, must be 1 or 3")
        for word, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels:
                raise DataError(
                    f"preprocessing: {len(values)} values of {word} for {self.channels} channels"
                )
        numbers = (*self.mean, *self.std, self.scale)
        if not all(math.isfinite(value) for value in numbers):
            raise DataError("preprocessing: mean, std and scale must be finite numbers")
        if not all(value > 0 for value in (*self.std, self.scale)):
            raise DataError("preprocessing: std and scale must be above 0")
        if self.resize is not None and not max(self.size) <= self.resize <= _LARGEST_SIDE:
            raise DataError(
                f"preprocessing: resize {self.resize} is smaller than the crop {self.size}"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one input."""
        return (self.channels, *self.size)

    def to_json(self) -> str:
        """Returns the JSON text that a model's metadata carry."""
        values: dict[str, Any] = {
            "size": list(self.size),
            "channels": self.channels,
            "mean": list(self.mean),
            "std": list(self.std),
            "scale": self.scale,
        }
        if self.resize is not None:
            values["resize"] = self.resize
        return json.dumps(values)

    @classmethod
    def from_json(cls, text: str) -> Preprocessing:
        """Reads what `to_json` wrote.

        Raises:
            ModelError: the text is not such JSON (it comes out of a model file).
        """
        try:
            values = json.loads(text)
            height, width = (_whole(side) for side in values["size"])
            resize = values.get("resize")
            return cls(
                size=(height, width),
                channels=_whole(values["channels"]),
                mean=tuple(float(value) for value in values["mean"]),
                std=tuple(float(value) for value in values["std"]),
                resize=None if resize is None else _whole(resize),
                scale=float(values.get("scale", 255.0)),
            )
        except DataError as error:
            raise ModelError(f"metadata spatialonnx.input: {error}") from None
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            raise ModelError(
                "metadata spatialonnx.input is not JSON with size, channels, mean and std: "
                "export the model again, or remove that key"
            ) from None

    def with_channels(self, channels: int) -> Preprocessing:
        """Returns the same for another number of channels: grey values are used for each colour.

        Of three colours' values, grey takes the average.
        """
        if channels == self.channels:
            return self
        if channels == 3:
            return replace(self, channels=3, mean=self.mean * 3, std=self.std * 3)
        mean, std = sum(self.mean) / 3, sum(self.std) / 3
        return replace(self, channels=1, mean=(mean,), std=(std,))

    def normalise(
        self, pixels: Pixels, form: InputForm = CHANNELS_FIRST, out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """Scales pixels that already have the right size and channels.

        Args:
            pixels: uint8 [n, H, W, C].
            form: layout and type of the network's input; pixels stay as they are where it takes
                uint8.
            out: where to write, or None.

        Returns:
            float32 [n, C, H, W], or as `form` says: `out`, or a new array.
        """
        count, height, width, channels = pixels.shape
        images = form.empty(count, (channels, height, width)) if out is None else out
        planes = form.planes(images)
        if form.pixels:
            planes[:] = pixels.transpose(0, 3, 1, 2)
            return images
        table = _value_table(self.mean, self.std, self.scale)
        for channel in range(channels):
            # Any mode but "raise" lets numpy write into `planes` without a buffer, and "wrap" is
            # the faster one; a byte is always a row of the table.
            np.take(table[channel], pixels[..., channel], out=planes[:, channel], mode="wrap")
        return images

    def fit(self, image: Image.Image) -> Pixels:
        """Resizes, crops and converts one picture.

        Args:
            image: any Pillow image.

        Returns:
            uint8 [H, W, C] of this preprocessing's size and channels.
        """
        height, width = self.size
        image = _convert(image, self.channels)
        box = (0.0, 0.0, float(image.width), float(image.height))
        if self.resize is not None:
            box = _crop_box(image.size, self.resize, self.size)
        if (box[2] - box[0], box[3] - box[1]) != (width, height):
            # The box makes Pillow compute the crop alone, not all of the resized picture.
            image = image.resize((width, height), Image.Resampling.BILINEAR, box=box)
        elif image.size != (width, height):
            left, top, right, bottom = (round(edge) for edge in box)
            image = image.crop((left, top, right, bottom))
        return np.asarray(image, np.uint8).reshape(height, width, self.channels)

    def apply(self, pixels: Pixels, form: InputForm = CHANNELS_FIRST) -> NDArray[Any]:
        """Makes network inputs of a stack of equally large pictures.

        Args:
            pixels: uint8 [n, H, W, C] with C 1 or 3, of any size.
            form: layout and type of the network's input.

        Returns:
            float32 [n, channels, size[0], size[1]], or as `form` says.
        """
        if pixels.shape[1:3] != self.size or self.resize is not None:
            fitted = np.empty((len(pixels), *self.size, self.channels), np.uint8)
            for row, picture in zip(fitted, pixels, strict=True):
                row[:] = self.fit(_as_image(picture))
            pixels = fitted
        elif pixels.shape[3] > self.channels:
            grey = [np.asarray(_as_image(picture).convert("L")) for picture in pixels]
            pixels = np.array(grey, np.uint8).reshape(*pixels.shape[:3], 1)
        elif pixels.shape[3] < self.channels:
            pixels = np.broadcast_to(pixels, (*pixels.shape[:3], self.channels))
        return self.normalise(pixels, form)


@dataclass(frozen=True)
class PreprocessingChanges:
    """Single values of a preprocessing; None leaves what there was.

    Attributes:
        mean: one value per channel, or one for all channels.
        std: the same.
        size: height and width given to the network.
        resize: length of the shorter side before the centre crop.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: tuple[int, int] | None = None
    resize: int | None = None

    def apply(self, values: Preprocessing) -> Preprocessing:
        """A preprocessing with these values in place of its own.

        Raises:
            DataError: they do not fit its channels, or each other.
        """
        given = {key: value for key, value in vars(self).items() if value is not None}
        for key in ("mean", "std"):
            if len(given.get(key, ())) == 1:
                given[key] *= values.channels
        return replace(values, **given)


PreprocessingLike = Preprocessing | PreprocessingChanges
"""A whole preprocessing, or changes of what the model or the data set says."""


def _whole(value: object) -> int:
    """A JSON number as an int; 28.0 is fine, 28.5 and true are not."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise ValueError(value)
    return int(value)


@lru_cache(maxsize=16)
def _value_table(
    mean: tuple[float, ...], std: tuple[float, ...], scale: float
) -> NDArray[np.float32]:
    """The network's value of each pixel value: float32 [C, 256], rounded once from float64."""
    levels = np.arange(256, dtype=np.float64) / scale
    rows = [(levels - middle) / spread for middle, spread in zip(mean, std, strict=True)]
    return np.array(rows, np.float32)


def _as_image(picture: Pixels) -> Image.Image:
    """A Pillow image of uint8 [H, W, 1 or 3]."""
    return Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture)


def _convert(image: Image.Image, channels: int) -> Image.Image:
    """To grey or RGB; 16-bit grey is brought to 8 bits (Pillow's own conversion clips it)."""
    mode = "L" if channels == 1 else "RGB"
    if image.mode == mode:
        return image
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode.startswith("I;16") or image.mode == "I":
        values = np.asarray(image).astype(np.int64) >> 8
        image = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
    return image.convert(mode)


def _crop_box(
    image_size: tuple[int, int], shorter: int, crop: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Which part of a picture becomes the centre crop after resizing, in its own pixels.

    The rounding is torchvision's: the longer side is cut to an integer, the corner is rounded.

    Args:
        image_size: width and height.
        shorter: the shorter side's length after resizing.
        crop: height and width of the crop, neither above `shorter`.

    Returns:
        left, top, right, bottom.
    """
    width, height = image_size
    if width <= height:
        resized = (shorter, int(shorter * height / width))
    else:
        resized = (int(shorter * width / height), shorter)
    left = round((resized[0] - crop[1]) / 2.0)
    top = round((resized[1] - crop[0]) / 2.0)
    across, down = width / resized[0], height / resized[1]
    right = min((left + crop[1]) * across, width)
    bottom = min((top + crop[0]) * down, height)
    return left * across, top * down, right, bottom
