"""Random inputs of a model: what it is run on before any data are at hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spatialonnx.errors import ModelError
from spatialonnx.model.interface import TensorInfo

_FLOATS: Mapping[str, type] = {"float": np.float32, "double": np.float64, "float16": np.float16}
_INTEGERS: Mapping[str, type] = {
    name: getattr(np, name) for name in ("int8", "int16", "int32", "int64", "uint16", "uint32")
}


def random_input(info: TensorInfo, size: int, batch: int, rng: np.random.Generator) -> NDArray[Any]:
    """A random array for an input: normal floats, any bytes, integers of 1, booleans of False.

    Args:
        info: The input.
        size: Its dimensions that are free, but for the first.
        batch: The first dimension, where that is free.
        rng: Where the numbers come from.

    Raises:
        ModelError: The input takes no tensor of numbers.
    """
    shape = [
        d if d is not None else (batch if axis == 0 else size) for axis, d in enumerate(info.shape)
    ]
    kind = info.type.removeprefix("tensor(").removesuffix(")")
    if kind in _FLOATS:
        return rng.normal(0, 1, shape).astype(_FLOATS[kind])
    if kind == "uint8":
        return rng.integers(0, 256, shape).astype(np.uint8)
    if kind in _INTEGERS:
        return np.ones(shape, _INTEGERS[kind])
    if kind == "bool":
        return np.zeros(shape, np.bool_)
    raise ModelError(f"input {info.name} is {info.type}: only models of tensors of numbers fit")
