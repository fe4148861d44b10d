"""A user's own Python objects as data sets, and `python:MODULE:FUNCTION`, which returns one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from spatialonnx.data.arrays import check_arrays, check_finite
from spatialonnx.data.builtin import BUILT_IN
from spatialonnx.data.dataset import Dataset
from spatialonnx.data.named_arrays import ONLY_IMAGES, Array, InputNames, NamedArrays
from spatialonnx.data.reading_batches import CalibrationReader, as_array, read_batches
from spatialonnx.data.spec import parse_spec
from spatialonnx.data.user_function import load_function
from spatialonnx.errors import DataError, SpatialOnnxError, UsageError

UserData = Dataset | Array | tuple[Any, Any] | Mapping[str, Any] | CalibrationReader | Iterable[Any]
"""The objects that `as_dataset` takes."""

_MEMBERS = ("name", "classes", "labels", "__len__", "images", "fingerprint")


def call_user_code(
    spec: str, target: str, names: InputNames = ONLY_IMAGES, *, memory: int | None = None
) -> Dataset:
    """Calls a user's function without arguments and takes what it returns.

    Args:
        spec: the whole text, for messages.
        target: `MODULE:FUNCTION`.
        names: of the network's inputs.
        memory: see `as_dataset`.

    Raises:
        UsageError: no such module or function.
        DataError: the function fails, or returns something else than `as_dataset` takes.
    """
    function = load_function(f"--data {spec}", target)
    try:
        result = function()
    except SpatialOnnxError:
        raise
    except Exception as error:
        raise DataError(f"{spec} raised {type(error).__name__}: {error}") from error
    return as_dataset(spec, result, names, memory=memory)


def as_dataset(
    name: str, value: Any, names: InputNames = ONLY_IMAGES, *, memory: int | None = None
) -> Dataset:
    """Makes a set from a user's object.

    Args:
        name: name of the set in messages.
        value: images float32 [n, C, H, W], alone or in a tuple with labels, integers [n]; a dict
            of arrays; any iterable of batches, a torch `DataLoader` for example, or a
            `CalibrationDataReader`, alone or in a tuple with labels; or an object with the
            members of `Dataset`.
        names: of the network's inputs.
        memory: bytes that batches may take in memory; None takes half of the machine's.

    Raises:
        DataError: the object is something else, or what it holds has a wrong type or shape.
    """
    if all(hasattr(value, member) for member in _MEMBERS):
        return _check_dataset(name, value)
    if isinstance(value, Mapping):
        arrays = {str(key): as_array(array, f"{name}: {key}") for key, array in value.items()}
        return check_arrays(name, names.choose(arrays, name), name)
    pair = isinstance(value, tuple) and len(value) == 2 and not isinstance(value[0], tuple)
    x, y = value if pair else (value, None)
    labels = None if y is None else as_array(y, f"{name}: labels")
    if isinstance(x, np.ndarray) or hasattr(x, "detach"):
        if names.further:
            wanted = ", ".join(names.further)
            raise DataError(f"{name}: the network also takes {wanted}: give a dict of arrays")
        return check_arrays(name, NamedArrays(as_array(x, name), labels, {}), name)
    if hasattr(x, "get_next") or (isinstance(x, Iterable) and not isinstance(x, (str, bytes))):
        return read_batches(name, x, names=names, labels=labels, memory=memory)
    raise DataError(
        f"{name} is {type(value).__name__}: give a Dataset, arrays (x, y), an iterable of batches "
        "or a CalibrationDataReader"
    )


def _check_name(name: str, own: object) -> None:
    """Refuses what would stand in a model as a built-in set, or as no name at all."""
    try:
        kind = parse_spec(own).kind if isinstance(own, str) else None
    except UsageError:
        kind = None
    if kind is None or kind in BUILT_IN:
        raise DataError(f"{name}: its name {own!r} is none of its own: give it another text")


def _check_dataset(name: str, dataset: Dataset) -> Dataset:
    """Refuses a user's set whose first image or labels have a wrong form."""
    try:
        count, labels = len(dataset), dataset.labels
        images = dataset.images(np.zeros(1, np.int64)) if count else np.empty(0)
    except SpatialOnnxError:
        raise
    except Exception as error:
        raise DataError(f"{name} raised {type(error).__name__}: {error}") from error
    if not isinstance(images, np.ndarray) or images.ndim != 4 or images.dtype != np.float32:
        raise DataError(f"{name}: images([0]) must be a float32 array [1, C, H, W]")
    check_finite(name, images)
    if not type(dataset).__module__.startswith("spatialonnx."):
        _check_name(name, dataset.name)
    if labels is not None and (
        not isinstance(labels, np.ndarray) or labels.shape != (count,) or labels.dtype != np.int64
    ):
        raise DataError(f"{name}: labels must be an int64 array [{count}], or None")
    return dataset
