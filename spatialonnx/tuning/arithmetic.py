"""ONNX's element by element ops, reductions and matrix products as torch functions."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from spatialonnx.tuning.attributes import Attributes, Inputs, Op

__all__ = ["ARITHMETIC"]


def _first(inputs: Inputs) -> Tensor:
    tensor = inputs[0]
    assert tensor is not None
    return tensor


def _all(function: Callable[[Tensor, Tensor], Tensor]) -> Op:
    """An op on two or more tensors, taken two by two; inputs of other devices follow the first."""

    def run(inputs: Inputs, a: Attributes) -> Tensor:
        tensors = [v for v in inputs if v is not None]
        device = next((v.device for v in tensors if v.dim() and v.is_floating_point()), None)
        if device is not None:
            tensors = [v.to(device) for v in tensors]
        return functools.reduce(function, tensors)

    return run


def _one(function: Callable[[Tensor], Tensor]) -> Op:
    return lambda inputs, a: function(_first(inputs))


def _divide(x: Tensor, y: Tensor) -> Tensor:
    if x.is_floating_point() or y.is_floating_point():
        return x / y
    return torch.div(x, y, rounding_mode="trunc")


def _clip(inputs: Inputs, a: Attributes) -> Tensor:
    low, high = (
        float(given) if (given := inputs[slot] if len(inputs) > slot else None) is not None
        else float(a.get(name, default))
        for slot, name, default in ((1, "min", -math.inf), (2, "max", math.inf))
    )  # fmt: skip
    return _first(inputs).clamp(low, high)


def _softmax(function: Callable[..., Tensor]) -> Op:
    def run(inputs: Inputs, a: Attributes) -> Tensor:
        x = _first(inputs)
        if a.opset >= 13:
            return function(x, dim=int(a.get("axis", -1)))
        axis = int(a.get("axis", 1)) % x.dim()
        return function(x.flatten(axis), dim=-1).reshape(x.shape)

    return run


def _reduce(function: Callable[..., Tensor]) -> Op:
    def run(inputs: Inputs, a: Attributes) -> Tensor:
        x = _first(inputs)
        axes = a.ints("axes", inputs, 1)
        if not axes:
            if a.get("noop_with_empty_axes", 0):
                return x
            axes = list(range(x.dim()))
        return function(x, dim=axes, keepdim=bool(a.get("keepdims", 1)))

    return run


def _reduce_prod(x: Tensor, *, dim: list[int], keepdim: bool) -> Tensor:
    for axis in sorted((d % x.dim() for d in dim), reverse=True):
        x = x.prod(axis, keepdim=keepdim)
    return x


def _gemm(inputs: Inputs, a: Attributes) -> Tensor:
    x, weight = _first(inputs), inputs[1]
    assert weight is not None
    x = x.t() if a.get("transA", 0) else x
    # functional.linear takes the weight's transpose.
    weight = weight if a.get("transB", 0) else weight.t()
    bias = inputs[2] if len(inputs) > 2 else None
    alpha, beta = float(a.get("alpha", 1.0)), float(a.get("beta", 1.0))
    if bias is not None and alpha == beta == 1.0 and bias.dim() == 1 and len(bias) == len(weight):
        return functional.linear(x, weight, bias)
    y: Tensor = functional.linear(x, weight) * alpha
    return y if bias is None else y + beta * bias


def _prelu(inputs: Inputs, a: Attributes) -> Tensor:
    x, slope = _first(inputs), inputs[1]
    assert slope is not None
    return x.clamp_min(0) + slope * x.clamp_max(0)


def _gelu(inputs: Inputs, a: Attributes) -> Tensor:
    return functional.gelu(_first(inputs), approximate=a.get("approximate", "none"))


def _where(inputs: Inputs, a: Attributes) -> Tensor:
    condition, x, y = inputs
    assert condition is not None and x is not None and y is not None
    return torch.where(condition.bool(), x, y)


def _arg(function: Callable[..., Tensor]) -> Op:
    def run(inputs: Inputs, a: Attributes) -> Tensor:
        if a.get("select_last_index", 0):
            raise a.refuse("select_last_index")
        keep = bool(a.get("keepdims", 1))
        return function(_first(inputs), dim=int(a.get("axis", 0)), keepdim=keep)

    return run


def _with(function: Callable[..., Tensor], **names: Any) -> Op:
    """An op of one tensor whose arguments are attributes: argument = (attribute, default)."""

    def run(inputs: Inputs, a: Attributes) -> Tensor:
        values = {argument: a.get(*where) for argument, where in names.items()}
        return function(_first(inputs), **values)

    return run


def _hard_sigmoid(x: Tensor, alpha: float, beta: float) -> Tensor:
    return (alpha * x + beta).clamp(0, 1)


def _root(x: Tensor, *, dim: list[int], keepdim: bool) -> Tensor:
    return x.square().sum(dim=dim, keepdim=keepdim).sqrt()


def _squares(x: Tensor, *, dim: list[int], keepdim: bool) -> Tensor:
    return x.square().sum(dim=dim, keepdim=keepdim)


def _absolutes(x: Tensor, *, dim: list[int], keepdim: bool) -> Tensor:
    return x.abs().sum(dim=dim, keepdim=keepdim)


def _mean(inputs: Inputs, a: Attributes) -> Tensor:
    tensors = [v for v in inputs if v is not None]
    return functools.reduce(torch.add, tensors) / len(tensors)


ARITHMETIC: dict[str, Op] = {
    "Add": _all(torch.add),
    "Sum": _all(torch.add),
    "Mean": _mean,
    "Sub": _all(torch.sub),
    "Mul": _all(torch.mul),
    "Div": _all(_divide),
    "Pow": _all(torch.pow),
    "Max": _all(torch.maximum),
    "Min": _all(torch.minimum),
    "Equal": _all(torch.eq),
    "Less": _all(torch.lt),
    "LessOrEqual": _all(torch.le),
    "Greater": _all(torch.gt),
    "GreaterOrEqual": _all(torch.ge),
    "And": _all(torch.logical_and),
    "Or": _all(torch.logical_or),
    "MatMul": _all(torch.matmul),
    "Gemm": _gemm,
    "Where": _where,
    "Relu": _one(functional.relu),
    "Clip": _clip,
    "PRelu": _prelu,
    "LeakyRelu": _with(functional.leaky_relu, negative_slope=("alpha", 0.01)),
    "Elu": _with(functional.elu, alpha=("alpha", 1.0)),
    "Selu": _one(functional.selu),
    "ThresholdedRelu": lambda inputs, a: functional.threshold(
        _first(inputs), float(a.get("alpha", 1.0)), 0.0
    ),
    "Sigmoid": _one(torch.sigmoid),
    "HardSigmoid": _with(_hard_sigmoid, alpha=("alpha", 0.2), beta=("beta", 0.5)),
    "HardSwish": _one(functional.hardswish),
    "Mish": _one(functional.mish),
    "Softplus": _one(functional.softplus),
    "Softsign": _one(functional.softsign),
    "Tanh": _one(torch.tanh),
    "Erf": _one(torch.erf),
    "Gelu": _gelu,
    "Exp": _one(torch.exp),
    "Log": _one(torch.log),
    "Sqrt": _one(torch.sqrt),
    "Reciprocal": _one(torch.reciprocal),
    "Abs": _one(torch.abs),
    "Neg": _one(torch.neg),
    "Floor": _one(torch.floor),
    "Ceil": _one(torch.ceil),
    "Round": _one(torch.round),
    "Sign": _one(torch.sign),
    "Not": _one(torch.logical_not),
    "Softmax": _softmax(torch.softmax),
    "LogSoftmax": _softmax(torch.log_softmax),
    "ReduceMean": _reduce(torch.mean),
    "ReduceSum": _reduce(torch.sum),
    "ReduceMax": _reduce(torch.amax),
    "ReduceMin": _reduce(torch.amin),
    "ReduceProd": _reduce(_reduce_prod),
    "ReduceL1": _reduce(_absolutes),
    "ReduceL2": _reduce(_root),
    "ReduceSumSquare": _reduce(_squares),
    "ArgMax": _arg(torch.argmax),
    "ArgMin": _arg(torch.argmin),
}
"""Op type to torch function."""
