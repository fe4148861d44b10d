"""Samples: the images of a data set that something is measured on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spatialonnx.data.dataset import Dataset, batches
from spatialonnx.errors import DataError
from spatialonnx.model.interface import check_image_shape

BATCH = 64


@dataclass(frozen=True, eq=False)
class Samples:
    """The images of a data set that something is measured on.

    Attributes:
        dataset: Where they are read.
        indices: Which of them, int64 [n], in order.
        part: Their name in progress reports, such as ``verify``.
    """

    dataset: Dataset
    indices: NDArray[np.int64]
    part: str = "samples"

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.indices)

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """int64 [n], or None where the set has none."""
        labels = self.dataset.labels
        return None if labels is None else labels[self.indices]

    def batches(self, size: int) -> Iterator[NDArray[np.float32]]:
        """Images, float32 [b, C, H, W], in order."""
        for images, _ in batches(self.dataset, self.indices, size):
            yield images


def check_images(samples: Samples, shape: tuple[int | None, ...]) -> None:
    """Makes sure that the images fit the model, by looking at the first one.

    Raises:
        DataError: There are no images, or their shape is another than the model takes.
    """
    if len(samples) == 0:
        raise DataError(f"{samples.dataset.name} holds no images")
    first = samples.dataset.images(samples.indices[:1])
    check_image_shape(samples.dataset.name, first.shape[1:], shape)
