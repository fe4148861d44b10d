"""Turns arguments into models and preprocessing, for all commands."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spatialonnx.cli.options import DataOptions, ImageOptions, ScoreOptions
from spatialonnx.cli.quantities import parse_memory
from spatialonnx.errors import UsageError

if TYPE_CHECKING:
    from spatialonnx.data.preprocessing import PreprocessingChanges
    from spatialonnx.model.model_file import ModelFile


def read_model(path: Path | None, *stages: str) -> ModelFile:
    """Loads the model of an argument, or the folder's only one of a fitting stage."""
    from spatialonnx.model.model_file import load_model
    from spatialonnx.model.stages import find_model

    return load_model(path or find_model(Path(), stages))


def data_options(data: DataOptions, score: ScoreOptions) -> dict[str, Any]:
    """Preprocessing, batch and scores, as the functions of the package take them."""
    return {
        "preprocessing": preprocessing_changes(data),
        "model_batch": data.model_batch,
        **vars(score),
        "memory": parse_memory(data.memory),
    }


def preprocessing_changes(pixels: ImageOptions) -> PreprocessingChanges | None:
    """Changes of the preprocessing by options, or None.

    Raises:
        UsageError: An option cannot be read.
    """
    from spatialonnx.data.preprocessing import PreprocessingChanges

    changes = PreprocessingChanges(
        mean=_numbers("--mean", pixels.mean) if pixels.mean else None,
        std=_numbers("--std", pixels.std) if pixels.std else None,
        size=_size(pixels.image_size) if pixels.image_size else None,
        resize=pixels.resize,
    )
    return None if changes == PreprocessingChanges() else changes


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
