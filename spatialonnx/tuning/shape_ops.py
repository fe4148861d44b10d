"""ONNX's ops on shapes, indices and axes as torch functions.

Shapes and indices are int64 tensors on the CPU, wherever the network runs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor
from torch.nn import functional

from spatialonnx.tuning.attributes import Attributes, Inputs, Op, Result

__all__ = ["SHAPE_OPS"]

_TO_TORCH: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.INT64: torch.int64,
    TensorProto.INT32: torch.int32,
    TensorProto.INT8: torch.int8,
    TensorProto.UINT8: torch.uint8,
    TensorProto.BOOL: torch.bool,
}


def _first(inputs: Inputs) -> Tensor:
    tensor = inputs[0]
    assert tensor is not None
    return tensor


def _reshape(inputs: Inputs, a: Attributes) -> Tensor:
    x = _first(inputs)
    shape = a.ints("shape", inputs, 1) or []
    if not a.get("allowzero", 0):
        shape = [x.shape[i] if size == 0 else size for i, size in enumerate(shape)]
    return x.reshape(shape)


def _flatten(inputs: Inputs, a: Attributes) -> Tensor:
    x = _first(inputs)
    axis = int(a.get("axis", 1))
    axis += x.dim() if axis < 0 else 0
    return x.reshape(int(np.prod(x.shape[:axis])), -1)


def _transpose(inputs: Inputs, a: Attributes) -> Tensor:
    x = _first(inputs)
    return x.permute(a.get("perm", list(range(x.dim()))[::-1]))


def _squeeze(inputs: Inputs, a: Attributes) -> Tensor:
    x = _first(inputs)
    axes = a.ints("axes", inputs, 1)
    if axes is None:
        axes = [i for i, size in enumerate(x.shape) if size == 1]
    return x.squeeze(tuple(axes))


def _unsqueeze(inputs: Inputs, a: Attributes) -> Tensor:
    x = _first(inputs)
    axes = a.ints("axes", inputs, 1) or []
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _concat(inputs: Inputs, a: Attributes) -> Tensor:
    return torch.cat([v for v in inputs if v is not None], dim=int(a.get("axis")))


def _split(inputs: Inputs, a: Attributes) -> tuple[Tensor, ...]:
    x = _first(inputs)
    axis = int(a.get("axis", 0))
    sizes = a.ints("split", inputs, 1)
    if sizes is None:
        each = -(-x.shape[axis] // len(a.node.output))
        return tuple(torch.split(x, each, axis))
    return tuple(torch.split(x, sizes, axis))


def _slice(inputs: Inputs, a: Attributes) -> Tensor:
    x = _first(inputs)
    starts, ends = a.ints("starts", inputs, 1) or [], a.ints("ends", inputs, 2) or []
    axes = a.ints("axes", inputs, 3)
    steps = a.ints("steps", inputs, 4)
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis = axes[i] if axes is not None else i
        step = steps[i] if steps is not None else 1
        chosen = range(x.shape[axis])[start:end:step]
        if step > 0:
            stop = chosen.start + len(chosen) * step
            index = [slice(None)] * x.dim()
            index[axis] = slice(chosen.start, stop, step)
            x = x[tuple(index)]
        else:
            # A start beyond the last index begins at the last one, as in Python.
            x = x.index_select(axis, torch.tensor(list(chosen), device=x.device))
    return x


def _gather(inputs: Inputs, a: Attributes) -> Tensor:
    x, indices = _first(inputs), inputs[1]
    assert indices is not None
    axis = int(a.get("axis", 0)) % x.dim()
    indices = indices.long().to(x.device)
    indices = torch.where(indices < 0, indices + x.shape[axis], indices)
    chosen = x.index_select(axis, indices.flatten())
    return chosen.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def _expand(inputs: Inputs, a: Attributes) -> Tensor:
    x = _first(inputs)
    shape = np.broadcast_shapes(tuple(x.shape), tuple(a.ints("", inputs, 1) or []))
    return x.expand(shape)


def _tile(inputs: Inputs, a: Attributes) -> Tensor:
    return _first(inputs).repeat(a.ints("", inputs, 1) or [])


def _pad(inputs: Inputs, a: Attributes) -> Tensor:
    x = _first(inputs)
    pads = a.ints("pads", inputs, 1)
    if pads is None:
        pads = [int(v) for v in a.get("paddings", [])]
    axes = a.ints("", inputs, 3)
    before_after = [(0, 0)] * x.dim()
    named = range(x.dim()) if axes is None else axes
    for axis, before, after in zip(
        named, pads[: len(pads) // 2], pads[len(pads) // 2 :], strict=True
    ):
        before_after[axis] = (before, after)
    flat = [v for pair in reversed(before_after) for v in pair]
    mode = a.get("mode", "constant")
    if mode == "constant":
        given = inputs[2] if len(inputs) > 2 else None
        value = float(given) if given is not None else float(a.get("value", 0.0))
        return functional.pad(x, flat, value=value)
    while len(flat) > 4 and flat[-2:] == [0, 0]:
        flat = flat[:-2]
    if mode not in ("reflect", "edge") or len(flat) > 4 or x.dim() != 4:
        raise a.refuse(f"mode {mode} of these axes")
    return functional.pad(x, flat, mode="replicate" if mode == "edge" else mode)


def _shape(inputs: Inputs, a: Attributes) -> Tensor:
    shape: Sequence[int] = _first(inputs).shape
    return torch.tensor(shape[a.get("start", 0) : a.get("end", len(shape))], dtype=torch.int64)


def _size(inputs: Inputs, a: Attributes) -> Tensor:
    return torch.tensor(_first(inputs).numel(), dtype=torch.int64)


def _constant_of_shape(inputs: Inputs, a: Attributes) -> Tensor:
    value = a.get("value")
    fill = np.zeros(1, np.float32) if value is None else numpy_helper.to_array(value)
    shape = [int(v) for v in _first(inputs).tolist()]
    return torch.from_numpy(np.full(shape, fill.reshape(())[()]))


def _range(inputs: Inputs, a: Attributes) -> Tensor:
    start, limit, delta = (v.item() for v in inputs if v is not None)
    return torch.arange(start, limit, delta, dtype=_first(inputs).dtype)


def _cast(inputs: Inputs, a: Attributes) -> Tensor:
    kind = int(a.get("to"))
    if kind not in _TO_TORCH:
        raise a.refuse(f"type {helper.tensor_dtype_to_string(kind)}")
    return _first(inputs).to(_TO_TORCH[kind])


def _identity(inputs: Inputs, a: Attributes) -> Result:
    return _first(inputs)


SHAPE_OPS: dict[str, Op] = {
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "Expand": _expand,
    "Tile": _tile,
    "Pad": _pad,
    "Shape": _shape,
    "Size": _size,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "Cast": _cast,
    "CastLike": lambda inputs, a: _first(inputs).to(_first(inputs[1:]).dtype),
    "Identity": _identity,
    "Dropout": _identity,
}
"""Op type to torch function. Dropout passes everything on: what is tuned has stopped learning."""
