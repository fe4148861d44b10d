"""From arguments to models and preprocessing: shared by the commands."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spatialonnx.cli.options import DataOptions
from spatialonnx.errors import UsageError

if TYPE_CHECKING:
    from spatialonnx.data.preprocessing import Preprocessing
    from spatialonnx.model.model_file import ModelFile


def read_model(path: Path | None, *stages: str) -> ModelFile:
    """Loads the model of an argument, or the folder's only one of a fitting stage."""
    from spatialonnx.model.model_file import load_model
    from spatialonnx.model.stages import find_model

    return load_model(path or find_model(Path(), stages))


def data_options(model: ModelFile, options: DataOptions) -> dict[str, Any]:
    """Preprocessing and classes, as the functions of the package take them."""
    return {
        "preprocessing": preprocessing_of(model, options),
        "classes": options.classes,
        "accept_baseline": options.accept_baseline,
    }


def preprocessing_of(model: ModelFile, pixels: DataOptions) -> Preprocessing | None:
    """The model's preprocessing with the options' changes; None where there are none.

    Raises:
        UsageError: An option cannot be read, or the model names none and they do not suffice.
    """
    from spatialonnx.data.preprocessing import Preprocessing
    from spatialonnx.model.metadata import get_metadata

    changes: dict[str, Any] = {}
    for name, text in (("mean", pixels.mean), ("std", pixels.std)):
        if text:
            changes[name] = _numbers(f"--{name}", text)
    if pixels.image_size:
        changes["size"] = _size(pixels.image_size)
    if pixels.resize:
        changes["resize"] = pixels.resize
    if not changes:
        return None
    if (recorded := get_metadata(model.proto).get("input")) is not None:
        return replace(Preprocessing.from_json(recorded), **changes)
    shape = input_shape(model)
    if "size" not in changes and shape and shape[1] and shape[2]:
        changes["size"] = (shape[1], shape[2])
    if not {"mean", "std", "size"} <= changes.keys():
        raise UsageError(
            "the model names no preprocessing: give --mean, --std and --image-size together"
        )
    return Preprocessing(channels=len(changes["mean"]), **changes)


def input_shape(model: ModelFile) -> tuple[int | None, ...] | None:
    """Channels, height and width of the model's image input; None where it has no such input."""
    from spatialonnx.model.interface import model_inputs

    return next((i.shape[1:] for i in model_inputs(model.proto) if len(i.shape) == 4), None)


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
