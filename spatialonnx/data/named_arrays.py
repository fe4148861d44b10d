"""Arrays by name, as an npz file or a dict holds them: images, labels and further inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spatialonnx.errors import DataError

Array = NDArray[Any]
_PAIRS = (("x", "y"), ("images", "labels"), ("x_test", "y_test"), ("arr_0", "arr_1"))
"""Names of images and labels: ours, other common ones, Keras', and those of `numpy.savez(x, y)`."""


@dataclass(frozen=True)
class NamedArrays:
    """Arrays of a set.

    Attributes:
        x: images.
        y: labels, or None.
        further: arrays of further inputs by name, one row per image.
    """

    x: Array
    y: Array | None
    further: Mapping[str, Array]


@dataclass(frozen=True)
class InputNames:
    """Names of a network's inputs.

    Attributes:
        image: of the image input; empty where it is not known.
        further: of the others.
    """

    image: str = ""
    further: tuple[str, ...] = ()

    @property
    def known(self) -> frozenset[str]:
        """Names of arrays that are of use."""
        return frozenset([self.image, *self.further, *(name for pair in _PAIRS for name in pair)])

    def choose(self, arrays: Mapping[str, Array], where: str) -> NamedArrays:
        """Chooses images, labels and further inputs among arrays.

        Images have the name of their input or are called `x`, `images`, `x_test` or `arr_0`;
        labels accordingly `y`, `labels`, `y_test` or `arr_1`.

        Args:
            arrays: by name.
            where: what they came from, for messages.

        Raises:
            DataError: images or a further input are missing, or rows do not belong to images.
        """
        left = {name: array for name, array in arrays.items() if name not in self.further}
        pairs = (*((self.image, label) for _, label in _PAIRS[:2] if label in left), *_PAIRS)
        image = next((x for x, _ in (*pairs, (self.image, "")) if x in left), None)
        if image is None:
            wanted = f"x or {self.image}" if self.image else "x"
            raise DataError(
                f"{where}: holds no array {wanted} (but {', '.join(sorted(arrays)) or 'none'}): "
                "save x (images) and y (labels)"
            )
        labels = next((y for x, y in pairs if x == image and y in left), None)
        x = left[image]
        if x.ndim == 0:
            raise DataError(f"{where}: {image} is not an array: give one row per image")
        further = {}
        for name in self.further:
            array = arrays.get(name)
            if array is None:
                raise DataError(
                    f"{where}: holds no array {name}, which the network takes beside its images: "
                    "give it with one row per image"
                )
            if array.ndim == 0 or len(array) != len(x):
                raise DataError(
                    f"{where}: {name} has shape {list(array.shape)}, must have {len(x)} rows as "
                    f"{image} has"
                )
            further[name] = np.ascontiguousarray(array)
        return NamedArrays(x, None if labels is None else left[labels], further)


ONLY_IMAGES = InputNames()
"""Of a network that takes images alone, under any name."""
