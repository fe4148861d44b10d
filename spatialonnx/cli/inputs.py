"""From arguments to models, data and splits: shared by the commands."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from spatialonnx.cli.options import DataOptions, SplitOptions
from spatialonnx.errors import UsageError

if TYPE_CHECKING:
    from spatialonnx.data.dataset import Dataset
    from spatialonnx.data.preprocessing import Preprocessing
    from spatialonnx.data.split import Split
    from spatialonnx.model.model_file import ModelFile


def read_model(path: Path | None, *stages: str) -> ModelFile:
    """Loads the model of an argument, or the folder's only one of a fitting stage."""
    from spatialonnx.model.model_file import load_model
    from spatialonnx.model.stages import find_model

    return load_model(path or find_model(Path(), stages))


def read_data(model: ModelFile, options: DataOptions) -> Dataset:
    """Opens the data set of ``--data``, or the built-in one that the model names.

    Raises:
        UsageError: Neither is given, or the set is unknown.
        DataError: Its files are damaged, or do not fit the model.
        DataNotInstalledError: It is not on this machine.
    """
    from spatialonnx.data.opening import open_dataset
    from spatialonnx.model.metadata import get_metadata

    spec, named = options.data, get_metadata(model.proto).get("data")
    if spec is None and not named:
        raise UsageError(f"{model.path.name} names no data set: give one with --data")
    return open_dataset(
        spec or named or "",
        preprocessing_of(model, options),
        input_shape=input_shape(model),
        untrusted=spec is None,
    )


def preprocessing_of(model: ModelFile, pixels: DataOptions) -> Preprocessing | None:
    """The model's preprocessing with the flags' changes; None = the set's customary values.

    Raises:
        UsageError: A flag cannot be read, or the model names none and the flags do not suffice.
    """
    from spatialonnx.data.preprocessing import Preprocessing
    from spatialonnx.model.metadata import get_metadata

    text = get_metadata(model.proto).get("input")
    chosen = Preprocessing.from_json(text) if text else None
    if not (pixels.mean or pixels.std or pixels.image_size or pixels.resize):
        return chosen
    shape = input_shape(model)
    size = _size(pixels.image_size) if pixels.image_size else None
    if chosen is None:
        fixed = (shape[1], shape[2]) if shape and shape[1] and shape[2] else None
        size = size or fixed
        if not (pixels.mean and pixels.std and size):
            raise UsageError(
                "the model names no preprocessing: give --mean, --std and --image-size together"
            )
        mean, std = _numbers("--mean", pixels.mean), _numbers("--std", pixels.std)
        return Preprocessing(size, len(mean), mean, std, pixels.resize)
    if pixels.mean:
        chosen = replace(chosen, mean=_numbers("--mean", pixels.mean))
    if pixels.std:
        chosen = replace(chosen, std=_numbers("--std", pixels.std))
    if size:
        chosen = replace(chosen, size=size)
    return replace(chosen, resize=pixels.resize) if pixels.resize else chosen


def input_shape(model: ModelFile) -> tuple[int | None, ...] | None:
    """Channels, height and width of the model's image input; None where it has no such input."""
    initializers = {tensor.name for tensor in model.proto.graph.initializer}
    for value in model.proto.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name not in initializers and len(dims) == 4:
            return tuple(d.dim_value if d.dim_value > 0 else None for d in dims[1:])
    return None


def cut(dataset: Dataset, sizes: SplitOptions) -> Split:
    """Cuts a pool into search, select and verify."""
    from spatialonnx.data.split import split_pool

    return split_pool(
        len(dataset),
        sizes.seed or 0,
        sizes.search_samples,
        sizes.select_samples,
        sizes.verify_samples,
    )


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = (math.nan,)
    if not all(math.isfinite(value) for value in values):
        raise UsageError(f"{option} {text!r}: give numbers separated by commas")
    return values


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    try:
        return int(height), int(width or height)
    except ValueError:
        raise UsageError(f"--image-size {text!r}: give 224 or 224x160") from None
