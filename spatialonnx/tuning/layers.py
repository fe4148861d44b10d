"""ONNX's convolutions, poolings and normalisations as torch functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from spatialonnx.tuning.attributes import Attributes, Inputs, Op, Result

__all__ = ["LAYERS"]


def _conv(inputs: Inputs, a: Attributes) -> Tensor:
    x, weight = inputs[0], inputs[1]
    assert x is not None and weight is not None
    bias = inputs[2] if len(inputs) > 2 else None
    rank = weight.dim() - 2
    strides, dilations = _per_axis(a, "strides", rank), _per_axis(a, "dilations", rank)
    pads = _pads(a, x, list(weight.shape[2:]), strides, dilations)
    x, even = _pad_unevenly(x, pads, 0.0)
    return _CONVS[rank](x, weight, bias, strides, even, dilations, a.get("group", 1))


_CONVS: dict[int, Callable[..., Tensor]] = {
    1: functional.conv1d,
    2: functional.conv2d,
    3: functional.conv3d,
}


def _conv_transpose(inputs: Inputs, a: Attributes) -> Tensor:
    x, weight = inputs[0], inputs[1]
    assert x is not None and weight is not None
    rank = weight.dim() - 2
    if rank != 2 or a.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise a.refuse("automatic padding or another rank than 2")
    strides, dilations = _per_axis(a, "strides", rank), _per_axis(a, "dilations", rank)
    if a.get("output_shape"):
        raise a.refuse("output_shape")
    pads = list(a.get("pads", [0] * 2 * rank))
    extra = list(a.get("output_padding", [0] * rank))
    bias = inputs[2] if len(inputs) > 2 else None
    y = functional.conv_transpose2d(
        x, weight, bias, strides, 0, extra, a.get("group", 1), dilations
    )
    top, left, bottom, right = pads
    return y[:, :, top : y.shape[2] - bottom, left : y.shape[3] - right]


def _per_axis(a: Attributes, name: str, rank: int) -> list[int]:
    return [int(v) for v in a.get(name, [1] * rank)]


def _pads(
    a: Attributes, x: Tensor, kernel: list[int], strides: list[int], dilations: list[int]
) -> list[tuple[int, int]]:
    """Returns (before, after) of each spatial axis."""
    mode = a.get("auto_pad", "NOTSET")
    if mode == "NOTSET":
        pads = [int(v) for v in a.get("pads", [0] * 2 * len(kernel))]
        return list(zip(pads[: len(kernel)], pads[len(kernel) :], strict=True))
    if mode == "VALID":
        return [(0, 0)] * len(kernel)
    pairs = []
    for size, k, stride, dilation in zip(x.shape[2:], kernel, strides, dilations, strict=True):
        total = max(0, (math.ceil(size / stride) - 1) * stride + (k - 1) * dilation + 1 - size)
        small = total // 2
        pairs.append((small, total - small) if mode == "SAME_UPPER" else (total - small, small))
    return pairs


def _pad_unevenly(x: Tensor, pads: list[tuple[int, int]], value: float) -> tuple[Tensor, list[int]]:
    """Pads what a torch layer cannot pad itself; returns what is left for the layer."""
    even = [min(pair) for pair in pads]
    rest: list[int] = []
    for (before, after), both in zip(reversed(pads), reversed(even), strict=True):
        rest += [before - both, after - both]
    return (functional.pad(x, rest, value=value) if any(rest) else x), even


def _max_pool(inputs: Inputs, a: Attributes) -> Result:
    x = inputs[0]
    assert x is not None
    kernel = [int(v) for v in a.get("kernel_shape")]
    if len(kernel) != 2 or (len(a.node.output) > 1 and a.node.output[1]):
        raise a.refuse("indices or another rank than 2")
    strides, dilations = _per_axis(a, "strides", 2), _per_axis(a, "dilations", 2)
    ceil = bool(a.get("ceil_mode", 0))
    pads = _pads(a, x, kernel, strides, dilations)
    most = [((k - 1) * d + 1) // 2 for k, d in zip(kernel, dilations, strict=True)]
    if any(max(pair) > limit for pair, limit in zip(pads, most, strict=True)):
        rest = [v for pair in reversed(pads) for v in pair]
        x, even = functional.pad(x, rest, value=-math.inf), [0, 0]
    else:
        x, even = _pad_unevenly(x, pads, -math.inf)
    return functional.max_pool2d(x, kernel, strides, even, dilations, ceil)


def _average_pool(inputs: Inputs, a: Attributes) -> Tensor:
    x = inputs[0]
    assert x is not None
    kernel = [int(v) for v in a.get("kernel_shape")]
    if len(kernel) != 2 or any(d != 1 for d in a.get("dilations", [])):
        raise a.refuse("dilations or another rank than 2")
    strides = _per_axis(a, "strides", 2)
    ceil, counts = bool(a.get("ceil_mode", 0)), bool(a.get("count_include_pad", 0))
    pads = _pads(a, x, kernel, strides, [1, 1])
    if all(
        before == after and 2 * before <= k for (before, after), k in zip(pads, kernel, strict=True)
    ):
        even = [before for before, _ in pads]
        return functional.avg_pool2d(x, kernel, strides, even, ceil, counts)
    rest = [v for pair in reversed(pads) for v in pair]
    total = functional.avg_pool2d(
        functional.pad(x, rest), kernel, strides, 0, ceil, divisor_override=1
    )
    ones = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
    inside = functional.pad(ones, rest, value=1.0 if counts else 0.0)
    return total / functional.avg_pool2d(inside, kernel, strides, 0, ceil, divisor_override=1)


def _global_average(inputs: Inputs, a: Attributes) -> Tensor:
    x = inputs[0]
    assert x is not None
    return x.mean(dim=list(range(2, x.dim())), keepdim=True)


def _global_max(inputs: Inputs, a: Attributes) -> Tensor:
    x = inputs[0]
    assert x is not None
    return x.amax(dim=list(range(2, x.dim())), keepdim=True)


def _lrn(inputs: Inputs, a: Attributes) -> Tensor:
    x = inputs[0]
    assert x is not None
    size = int(a.get("size"))
    alpha, beta, bias = a.get("alpha", 1e-4), a.get("beta", 0.75), a.get("bias", 1.0)
    before = (size - 1) // 2
    squares = functional.pad(x.float().square(), (0, 0, 0, 0, before, size - 1 - before))
    total = squares.unfold(1, size, 1).sum(-1)
    scale: Tensor = (bias + alpha / size * total).pow(beta)
    return x / scale.to(x.dtype)


def _instance_norm(inputs: Inputs, a: Attributes) -> Tensor:
    x, scale, bias = inputs[:3]
    assert x is not None
    return functional.instance_norm(x, weight=scale, bias=bias, eps=a.get("epsilon", 1e-5))


def _layer_norm(inputs: Inputs, a: Attributes) -> Tensor:
    x, scale = inputs[0], inputs[1]
    assert x is not None
    if len(a.node.output) > 1:
        raise a.refuse("further outputs")
    axis = int(a.get("axis", -1)) % x.dim()
    bias = inputs[2] if len(inputs) > 2 else None
    shape = list(x.shape[axis:])
    return functional.layer_norm(x, shape, scale, bias, a.get("epsilon", 1e-5))


def _resize(inputs: Inputs, a: Attributes) -> Tensor:
    x = inputs[0]
    assert x is not None
    old = a.node.op_type == "Upsample" or a.opset < 11
    scales = inputs[1] if old and len(inputs) > 1 else (inputs[2] if len(inputs) > 2 else None)
    sizes = inputs[3] if not old and len(inputs) > 3 else None
    factors = a.get("scales") if scales is None or not scales.numel() else scales.tolist()
    mode = a.get("mode", "nearest")
    place = a.get("coordinate_transformation_mode", "asymmetric" if old else "half_pixel")
    options: dict[str, Any] = {"mode": mode}
    if x.dim() != 4 or a.get("axes"):
        raise a.refuse("another rank than 4, or axes")
    if mode == "nearest":
        rounding = a.get("nearest_mode", "floor" if old else "round_prefer_floor")
        whole = factors is not None and all(float(f).is_integer() for f in factors)
        if not (whole or (place == "asymmetric" and rounding == "floor")):
            raise a.refuse(f"mode nearest, {place}, {rounding} and a factor that is not whole")
    elif mode in ("linear", "bilinear") and place in (
        "half_pixel",
        "pytorch_half_pixel",
        "align_corners",
    ):
        options = {"mode": "bilinear", "align_corners": place == "align_corners"}
    else:
        raise a.refuse(f"mode {mode} and {place}")
    if sizes is not None:
        return functional.interpolate(x, size=[int(v) for v in sizes.tolist()[2:]], **options)
    assert factors is not None
    size = [math.floor(s * f + 1e-6) for s, f in zip(x.shape[2:], factors[2:], strict=True)]
    return functional.interpolate(x, size=size, **options)


def _depth_to_space(inputs: Inputs, a: Attributes) -> Tensor:
    x = inputs[0]
    assert x is not None
    block = int(a.get("blocksize"))
    n, c, h, w = x.shape
    if a.get("mode", "DCR") == "CRD":
        return functional.pixel_shuffle(x, block)
    x = x.reshape(n, block, block, c // block**2, h, w)
    return x.permute(0, 3, 4, 1, 5, 2).reshape(n, c // block**2, h * block, w * block)


def _space_to_depth(inputs: Inputs, a: Attributes) -> Tensor:
    x = inputs[0]
    assert x is not None
    block = int(a.get("blocksize"))
    n, c, h, w = x.shape
    x = x.reshape(n, c, h // block, block, w // block, block)
    return x.permute(0, 3, 5, 1, 2, 4).reshape(n, c * block**2, h // block, w // block)


LAYERS: dict[str, Op] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_average,
    "GlobalMaxPool": _global_max,
    "LRN": _lrn,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "Resize": _resize,
    "Upsample": _resize,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
}
"""Op type to torch function. BatchNormalization is a module of the network: it learns."""
