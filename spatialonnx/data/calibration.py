"""ONNX Runtime's `CalibrationDataReader` as a set; ONNX Runtime itself is not needed for it.

Source: `onnxruntime.quantization.CalibrationDataReader`: `get_next()` returns a dict from input
name to array, then None.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from spatialonnx.data.dataset import TensorDataset
from spatialonnx.data.limits import memory_limit
from spatialonnx.data.npz import check_arrays
from spatialonnx.errors import DataError


class CalibrationReader(Protocol):
    """The one method that is used of a `CalibrationDataReader`."""

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next batch, [N, C, H, W], by input name; None after the last one."""
        ...


def read_calibration(
    name: str, reader: CalibrationReader, labels: NDArray[np.generic] | None = None
) -> TensorDataset:
    """Reads a reader to its end; it goes forward only, so its images are kept in memory.

    Args:
        name: the text that the set was opened by.
        reader: gives dicts with one array, float32 [b, C, H, W].
        labels: integers, one an image, or None (a reader has none).

    Raises:
        DataError: the reader fails, or gives several inputs, other shapes or nothing.
    """
    parts: list[NDArray[np.float32]] = []
    total = 0
    while True:
        try:
            feed = reader.get_next()
        except Exception as error:
            raise DataError(f"{name}: get_next() raised {type(error).__name__}: {error}") from error
        if feed is None:
            break
        if not isinstance(feed, dict) or len(feed) != 1:
            raise DataError(f"{name}: get_next() must return a dict with one input")
        part = np.asarray(next(iter(feed.values())))
        if part.ndim != 4 or (parts and part.shape[1:] != parts[0].shape[1:]):
            shape = list(part.shape)
            raise DataError(f"{name}: batch {len(parts)} has shape {shape}, must be [b, C, H, W]")
        total += part.nbytes
        if total > memory_limit():
            raise DataError(f"{name}: more than {total >> 30} GiB of images: use folder: instead")
        parts.append(part)
    if not parts:
        raise DataError(f"{name}: get_next() returned no batch")
    return check_arrays(name, np.concatenate(parts), labels, name)
