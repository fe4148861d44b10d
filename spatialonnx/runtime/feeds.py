"""The feeds of a session: images, and the arrays of a network's further inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Batch(np.ndarray[Any, np.dtype[Any]]):
    """Images that carry the rows of a network's further inputs.

    It is an array, so functions of images accept it. Rows chosen by a slice or by indices keep
    their further inputs; the result of any other operation has none.

    Attributes:
        further: Arrays by the name of their input, one row per image.
    """

    further: Mapping[str, Array]

    def __array_finalize__(self, origin: object) -> None:
        """Starts without further inputs."""
        self.further = {}

    def __getitem__(self, key: Any) -> Any:
        """Chooses rows, or elements like any array."""
        chosen = super().__getitem__(key)
        if isinstance(key, (slice, np.ndarray)) and isinstance(chosen, Batch):
            chosen.further = {name: array[key] for name, array in self.further.items()}
        return chosen


def join_inputs(images: Array, further: Mapping[str, Array]) -> Array:
    """Images with further inputs, as one value."""
    if not further:
        return images
    batch = images.view(Batch)
    batch.further = dict(further)
    return batch


def feeds_of(image_input: str, images: Array) -> dict[str, Array]:
    """Feeds by the name of the input, of images alone or with further inputs."""
    further = images.further if isinstance(images, Batch) else {}
    return {image_input: np.asarray(images), **further}


def fill_up(images: Array, count: int) -> Array:
    """A batch of at least `count` images: the last row is repeated where they are fewer."""
    if len(images) >= count:
        return images
    rows = np.minimum(np.arange(count), len(images) - 1)
    filled: Array = images[rows]
    return filled
