"""Fuses quantised sites: DequantizeLinear -> Conv -> QuantizeLinear as one SpatialQConv.

SpatialQConv works on NHWC maps, so each one stands between two Transposes. ONNX Runtime's layout
pass cancels them against those of its own 8-bit kernels, on two conditions: every output of a
SpatialQConv has a value_info, since the pass stops at a tensor of unknown rank, and no
unread node is left, since an unread DequantizeLinear keeps its Transpose.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from spatialonnx.graph.fused_site import FusedSite, replaced_nodes
from spatialonnx.graph.index import GraphIndex, conv_attributes, free_name, is_op
from spatialonnx.graph.ops import (
    DOMAIN,
    PREDICT,
    QCONV,
    Predictor,
    mask_name,
    stored_threshold,
    threshold_name,
)
from spatialonnx.graph.shapes import Shapes
from spatialonnx.graph.site_match import SiteMatch, quantized_type
from spatialonnx.plan.masks import SiteMask

_TO_NHWC, _TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)


@dataclass(frozen=True)
class _Quantized:
    """A tensor of 8-bit values with the names of its scale and zero point, empty for 0."""

    tensor: str
    scale: str
    zero_point: str


def explain_unfusable(index: GraphIndex, shapes: Shapes, match: SiteMatch) -> str:
    """Why a quantised site cannot become a SpatialQConv; empty where it can."""
    if not is_op(match.conv, "Conv"):
        return "it is a QLinearConv: quantise to QDQ, which ONNX Runtime prefers as well"
    x, weight = _dequantized(index, match.conv.input[0]), _dequantized(index, match.weight)
    if x is None or weight is None:
        return "its input or weight is not quantised"
    kinds = _type(index, x), quantized_type(index, match.last)
    if None in kinds:
        return "its input has no constant zero point, which would tell its type"
    if TensorProto.INT8 in kinds:
        return "its maps are int8: quantise activations to uint8"
    if kinds != (TensorProto.UINT8, TensorProto.UINT8):
        return "its input is not a uint8 map"
    zero = index.constant_array(weight.zero_point)
    if index.constant_type(weight.tensor) != TensorProto.INT8 or (zero is not None and zero.any()):
        return "its weights are not symmetric int8"
    if len(match.conv.input) > 2 and match.conv.input[2] and _bias(index, match, x, weight) is None:
        return "its bias is not a constant"
    if match.add is None:
        return "its ReLU stands between two QuantizeLinears" if match.between else ""
    if len(match.between) != 2:
        return "no QuantizeLinear stands between its Conv and its residual Add"
    if quantized_type(index, match.between[0]) != TensorProto.UINT8:
        return "its map in front of the residual Add is not uint8"
    residual = _dequantized(index, match.residual)
    if residual is None or _type(index, residual) != TensorProto.UINT8:
        return "its residual is not a uint8 map"
    if shapes.get(match.residual) != shapes.get(match.output):
        return "its residual has another shape than its map"
    return ""


def make_quantized_site(
    index: GraphIndex,
    shapes: Shapes,
    match: SiteMatch,
    predictor: Predictor,
    mask: SiteMask,
    taken: set[str],
) -> FusedSite:
    """Makes the SpatialQConv of a site that ``explain_unfusable`` accepts.

    Args:
        index: The graph.
        shapes: Its tensors' shapes.
        match: The site's nodes.
        predictor: Its SpatialPredict node.
        mask: Its mask.
        taken: Names that its tensors may not take, to which theirs are added.
    """
    site = match.name
    x, weight = _dequantized(index, match.conv.input[0]), _dequantized(index, match.weight)
    assert x is not None and weight is not None
    arrays: dict[str, NDArray[Any]] = {}

    def constant(name: str, array: NDArray[Any]) -> str:
        name = free_name(name, taken)
        arrays[name] = array
        return name

    def zero_point(name: str) -> str:
        return name or constant(f"{site}/zero", np.zeros((), np.uint8))

    patterns = constant(mask_name(site), mask.patterns)
    bias = _bias(index, match, x, weight)
    bias_name = "" if bias is None else constant(f"{site}/B", bias)
    names = {
        name: free_name(f"{site}/{name}", taken)
        for name in ("nhwc", "residual_nhwc", "predicted_nhwc")
    }
    nodes = [_transpose(x.tensor, names["nhwc"], _TO_NHWC)]
    inputs = [names["nhwc"], x.scale, zero_point(x.zero_point), weight.tensor, weight.scale]
    inputs += [match.last.input[1], zero_point(match.zero_point), patterns, bias_name]
    if match.add is not None:
        residual = _dequantized(index, match.residual)
        _, scale, zero = _three(match.between[0])
        assert residual is not None
        nodes.append(_transpose(residual.tensor, names["residual_nhwc"], _TO_NHWC))
        inputs += [names["residual_nhwc"], residual.scale, zero_point(residual.zero_point)]
        inputs += [scale, zero_point(zero)]
    if mask.threshold is not None:
        threshold = constant(threshold_name(site), stored_threshold(predictor, mask.threshold))
        inputs += [""] * (14 - len(inputs)) + [threshold]
    node = helper.make_node(
        QCONV,
        inputs,
        [names["predicted_nhwc"]],
        name=site,
        domain=DOMAIN,
        patch_size=mask.patch_size,
        y_max=_largest(index, match),
        residual_first=int(match.add is not None and match.add.input[0] == match.residual),
    )
    node.attribute.extend(conv_attributes(match.conv))
    nodes += [node, _transpose(names["predicted_nhwc"], predictor.output, _TO_NCHW)]
    return FusedSite(
        nodes=tuple(nodes),
        constants=tuple(numpy_helper.from_array(array, name) for name, array in arrays.items()),
        infos=_infos(shapes, match, predictor.output, names["predicted_nhwc"]),
        replaced=replaced_nodes(match),
    )


def _dequantized(index: GraphIndex, tensor: str) -> _Quantized | None:
    """The 8-bit input of a DequantizeLinear."""
    position = index.producer.get(tensor)
    node = None if position is None else index.nodes[position]
    if node is None or not is_op(node, "DequantizeLinear"):
        return None
    return _Quantized(*_three(node))


def _three(node: NodeProto) -> tuple[str, str, str]:
    """The inputs of a QuantizeLinear or DequantizeLinear; the zero point may be left out."""
    tensor, scale, zero_point, *_ = *node.input, "", ""
    return tensor, scale, zero_point


def _type(index: GraphIndex, quantized: _Quantized) -> int | None:
    """Element type of a map that a DequantizeLinear reads; None where it is not known."""
    if quantized.zero_point:
        return index.constant_type(quantized.zero_point)
    position = index.producer.get(quantized.tensor)
    node = None if position is None else index.nodes[position]
    if node is not None and node.domain == DOMAIN and node.op_type == PREDICT:
        return index.constant_type(node.input[4]) if len(node.input) > 4 else None
    if node is not None and is_op(node, "QuantizeLinear"):
        return quantized_type(index, node)
    return None


def _bias(
    index: GraphIndex, match: SiteMatch, x: _Quantized, weight: _Quantized
) -> NDArray[np.int32] | None:
    """The bias in units of the sums: int32 [M]; None without one, or where it is not a constant.

    A float bias is rounded to that scale, as ONNX Runtime does when it fuses the Conv.
    """
    if len(match.conv.input) < 3 or not match.conv.input[2]:
        return None
    stored = _dequantized(index, match.conv.input[2])
    if stored is not None and index.constant_type(stored.tensor) == TensorProto.INT32:
        array = index.constant_array(stored.tensor)
        return None if array is None else np.asarray(array, np.int32)
    array = index.constant_array(match.conv.input[2])
    scales = index.constant_array(x.scale), index.constant_array(weight.scale)
    if array is None or scales[0] is None or scales[1] is None:
        return None
    step = np.asarray(scales[0], np.float64) * np.asarray(scales[1], np.float64)
    return np.rint(np.asarray(array, np.float64) / step).astype(np.int32)


def _largest(index: GraphIndex, match: SiteMatch) -> int:
    """The largest 8-bit value of the map: below 255 where a Clip bounds it."""
    scale = index.scalar(match.last.input[1])
    zero = index.scalar(match.zero_point) if match.zero_point else 0.0
    if math.isinf(match.clip_max) or scale is None or zero is None:
        return 255
    quotient = np.float32(match.clip_max) / np.float32(scale)
    return int(min(255, float(np.rint(quotient)) + zero))


def _transpose(source: str, output: str, order: tuple[int, ...]) -> NodeProto:
    return helper.make_node("Transpose", [source], [output], name=f"{output}/transpose", perm=order)


def _infos(
    shapes: Shapes, match: SiteMatch, output: str, nhwc: str
) -> tuple[onnx.ValueInfoProto, ...]:
    shape = list(shapes.get(match.output) or (None,) * 4)
    if shapes.dynamic_batch:
        shape[0] = None
    orders = (output, shape), (nhwc, [shape[axis] for axis in _TO_NHWC])
    return tuple(
        helper.make_tensor_value_info(name, TensorProto.UINT8, dims) for name, dims in orders
    )
