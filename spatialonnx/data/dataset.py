"""What a data set is to the rest of the package, and the two kinds that live in memory."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from spatialonnx.data.preprocessing import Pixels, Preprocessing

Labels = NDArray[np.int64]
Tensor = NDArray[np.float32]


class Dataset(Protocol):
    """Images that can be read in any order, any number of times."""

    @property
    def name(self) -> str:
        """The text it was opened by, such as `fashion-mnist:train`."""
        ...

    @property
    def classes(self) -> int | None:
        """Number of classes; None where it is not known."""
        ...

    @property
    def labels(self) -> Labels | None:
        """int64 [n]; None where there are no labels."""
        ...

    def __len__(self) -> int:
        """Number of images."""
        ...

    def images(self, indices: NDArray[np.int64]) -> Tensor:
        """Reads images: float32 [len(indices), C, H, W], preprocessed; keeps none of them."""
        ...

    def fingerprint(self) -> str:
        """Hash, in hex, of what defines the set: its data and its preprocessing."""
        ...


@dataclass(frozen=True, eq=False)
class PixelDataset:
    """A set whose pixels are at hand as one array, possibly a memory map.

    Attributes:
        name: the text it was opened by.
        pixels: uint8 [n, H, W, C], C 1 or 3.
        labels: int64 [n] or None.
        classes: number of classes or None.
        preprocessing: what `images` applies.
    """

    name: str
    pixels: Pixels
    labels: Labels | None
    classes: int | None
    preprocessing: Preprocessing

    def __len__(self) -> int:
        """Number of images."""
        return len(self.pixels)

    def images(self, indices: NDArray[np.int64]) -> Tensor:
        """Preprocessed images, float32 [len(indices), C, H, W]."""
        return self.preprocessing.apply(self.pixels[indices])

    def fingerprint(self) -> str:
        """Hash of pixels, labels and preprocessing."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return hash_arrays(self.preprocessing.to_json(), self.pixels, self.labels)


@dataclass(frozen=True, eq=False)
class TensorDataset:
    """A set whose network inputs are at hand: nothing is done to them.

    Attributes:
        name: the text it was opened by.
        tensor: float32 [n, C, H, W].
        labels: int64 [n] or None.
        classes: number of classes or None.
    """

    name: str
    tensor: Tensor
    labels: Labels | None
    classes: int | None = None

    def __len__(self) -> int:
        """Number of images."""
        return len(self.tensor)

    def images(self, indices: NDArray[np.int64]) -> Tensor:
        """The chosen rows, float32 [len(indices), C, H, W]."""
        return self.tensor[indices]

    def fingerprint(self) -> str:
        """Hash of tensor and labels."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return hash_arrays("", self.tensor, self.labels)


def hash_arrays(text: str, *arrays: NDArray[np.generic] | None) -> str:
    """Hash of a text and of arrays with their types and shapes; large ones in slices."""
    digest = hashlib.sha256(text.encode())
    for array in arrays:
        if array is None:
            digest.update(b"none;")
            continue
        digest.update(f"{array.dtype.str}{array.shape};".encode())
        rows = max(1, (1 << 24) // max(1, array[:1].nbytes))
        for start in range(0, len(array), rows):
            digest.update(np.ascontiguousarray(array[start : start + rows]).data)
    return digest.hexdigest()


def batches(
    dataset: Dataset, indices: NDArray[np.int64], batch_size: int, *, ahead: int = 2
) -> Iterator[tuple[Tensor, Labels | None]]:
    """Reads images batch by batch; the next ones are read while the caller works on one.

    At most `ahead` batches wait beside the one that the caller holds, so memory does not grow
    with the set.

    Args:
        dataset: where to read.
        indices: int64 [m], in the order wanted.
        batch_size: images in one batch; the last one may be smaller.
        ahead: batches read before they are asked for.

    Yields:
        Images float32 [b, C, H, W] and labels int64 [b], or None where the set has none.

    Raises:
        DataError: a file of the set cannot be read.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size} must be 1 or more")
    cuts = [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)]
    reader = ThreadPoolExecutor(1, thread_name_prefix="batches")
    waiting: deque[Future[Tensor]] = deque()
    try:
        for position, cut in enumerate(cuts):
            while len(waiting) < ahead + 1 and position + len(waiting) < len(cuts):
                waiting.append(reader.submit(dataset.images, cuts[position + len(waiting)]))
            labels = dataset.labels
            images = waiting.popleft().result()
            yield images, None if labels is None else labels[cut]
    finally:
        # Also reached when the caller stops early: what was not begun is dropped.
        reader.shutdown(wait=True, cancel_futures=True)
