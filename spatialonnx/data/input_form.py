"""The layout and the type in which a network takes images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

COLOURS = (1, 3)
"""Channels that pictures have: grey, or red, green and blue."""


@dataclass(frozen=True)
class InputForm:
    """How a network takes images; the default is float32 [N, C, H, W].

    Attributes:
        channels_last: [N, H, W, C], as networks from TensorFlow and Keras have it.
        pixels: uint8 pixels as they are stored; the network normalises them itself.
    """

    channels_last: bool = False
    pixels: bool = False

    def image_shape(self, shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """Channels, height and width of a network's input shape without its batch."""
        return (shape[2], *shape[:2]) if self.channels_last else tuple(shape)

    def empty(self, count: int, shape: tuple[int, int, int]) -> NDArray[Any]:
        """Memory for `count` images of [C, H, W]."""
        channels, *size = shape
        dims = (count, *size, channels) if self.channels_last else (count, *shape)
        return np.empty(dims, np.uint8 if self.pixels else np.float32)

    def planes(self, images: NDArray[Any]) -> NDArray[Any]:
        """A view [N, C, H, W] of images in this layout."""
        return images.transpose(0, 3, 1, 2) if self.channels_last else images


CHANNELS_FIRST = InputForm()


def find_input_form(shape: Sequence[int | None] | None, kind: str = "tensor(float)") -> InputForm:
    """The form of a network's image input.

    Args:
        shape: the input's without its batch; None where a size is free.
        kind: its type, such as `tensor(float)`.

    Returns:
        Channels are last where the last size can be that of colours and the first one cannot.
    """
    last = shape is not None and len(shape) == 3 and shape[2] in COLOURS and shape[0] not in COLOURS
    return InputForm(last, kind == "tensor(uint8)")
