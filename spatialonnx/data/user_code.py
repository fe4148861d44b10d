"""`python:MODULE:FUNCTION`: a set that the user's own code returns."""

from __future__ import annotations

from typing import Any

import numpy as np

from spatialonnx.data.calibration import read_calibration
from spatialonnx.data.dataset import Dataset
from spatialonnx.data.npz import check_arrays
from spatialonnx.data.user_function import load_function
from spatialonnx.errors import DataError, SpatialOnnxError

_MEMBERS = ("name", "classes", "labels", "__len__", "images", "fingerprint")


def call_user_code(spec: str, target: str) -> Dataset:
    """Calls a user's function without arguments and takes what it returns.

    Taken are a `Dataset`, arrays `(x, y)` or `x` alone as in `npz:`, and an ONNX Runtime
    `CalibrationDataReader`, alone or as `(reader, y)`.

    Args:
        spec: the whole text, for messages.
        target: `MODULE:FUNCTION`.

    Raises:
        UsageError: no such module or function.
        DataError: the function fails, or returns something else.
    """
    function = load_function(f"--data {spec}", target)
    try:
        result = function()
    except SpatialOnnxError:
        raise
    except Exception as error:
        raise DataError(f"{spec} raised {type(error).__name__}: {error}") from error
    return _to_dataset(spec, result)


def _to_dataset(spec: str, result: Any) -> Dataset:
    """A checked set of whatever the user's function returned."""
    if all(hasattr(result, member) for member in _MEMBERS):
        return _check_dataset(spec, result)
    x, y = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
    labels = None if y is None else np.asarray(y)
    if hasattr(x, "get_next"):
        return read_calibration(spec, x, labels)
    if not isinstance(x, np.ndarray):
        raise DataError(
            f"{spec} returned {type(result).__name__}: return a Dataset, arrays (x, y), "
            "or a CalibrationDataReader"
        )
    return check_arrays(spec, x, labels, spec)


def _check_dataset(spec: str, dataset: Dataset) -> Dataset:
    """Refuses a user's set whose first image or labels have a wrong form."""
    try:
        count, labels = len(dataset), dataset.labels
        images = dataset.images(np.zeros(1, np.int64)) if count else np.empty(0)
    except SpatialOnnxError:
        raise
    except Exception as error:
        raise DataError(f"{spec} raised {type(error).__name__}: {error}") from error
    if not isinstance(images, np.ndarray) or images.ndim != 4 or images.dtype != np.float32:
        raise DataError(f"{spec}: images([0]) must be a float32 array [1, C, H, W]")
    if labels is not None and (
        not isinstance(labels, np.ndarray)
        or labels.shape != (count,)
        or labels.dtype != np.int64
        or labels.min() < 0
    ):
        raise DataError(f"{spec}: labels must be an int64 array [{count}], none below 0, or None")
    return dataset
