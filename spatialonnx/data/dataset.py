"""The protocol of data sets, and reading them in batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]
Tensor = NDArray[Any]
"""Images as the network takes them: float32 [n, C, H, W], or what its `InputForm` says."""


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
        """Reads images, preprocessed, [len(indices), C, H, W]; keeps none of them."""
        ...

    def fingerprint(self) -> str:
        """Hash, in hex, of what defines the set: its data and its preprocessing."""
        ...


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
        Images [b, C, H, W] and labels int64 [b], or None where the set has none.

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
        # Also reached when the caller stops early: batches that were not started are dropped.
        reader.shutdown(wait=True, cancel_futures=True)
