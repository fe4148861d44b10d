"""MaxPools between SpatialQConv nodes: kept channels last, so that no Transpose is left.

ONNX Runtime turns an 8-bit MaxPool into its NhwcMaxPool only where it has moved a QLinearConv of
its own. A network whose sites are all fused has none, so the pool is written that way here.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper

from spatialonnx.graph.index import GraphIndex, attribute, free_name, is_op
from spatialonnx.graph.ops import DOMAIN, QCONV
from spatialonnx.graph.shapes import infer_shapes
from spatialonnx.graph.site_match import quantized_type

CONTRIB = "com.microsoft"
_POOL_ATTRIBUTES = ("auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "strides")
_TO_NCHW = (0, 3, 1, 2)


def pool_channels_last(proto: onnx.ModelProto) -> None:
    """Rewrites MaxPools that read a SpatialQConv and give the same 8-bit values, in place.

    Args:
        proto: A model with SpatialQConv nodes between Transposes. Nodes that nothing reads any
            more are left to the caller.
    """
    index = GraphIndex(proto)
    shapes = infer_shapes(proto)
    taken = index.names()
    nodes: list[NodeProto] = []
    changed = False
    for node in index.nodes:
        pool = _pool_of(index, node) if is_op(node, "QuantizeLinear") else None
        if pool is None:
            nodes.append(node)
            continue
        changed = True
        source, max_pool = pool
        output = node.output[0]
        channels_last = free_name(f"{output}/nhwc", taken)
        made = helper.make_node(
            "NhwcMaxPool", [source], [channels_last], name=max_pool.name, domain=CONTRIB
        )
        made.attribute.extend(a for a in max_pool.attribute if a.name in _POOL_ATTRIBUTES)
        back = helper.make_node(
            "Transpose", [channels_last], [output], name=f"{output}/transpose", perm=_TO_NCHW
        )
        nodes += [made, back]
        shape = list(shapes.get(max_pool.output[0]) or (None,) * 4)
        if shapes.dynamic_batch:
            shape[0] = None
        last = [shape[axis] for axis in (0, 2, 3, 1)]
        for name, dims in ((output, shape), (channels_last, last)):
            info = helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, dims)
            proto.graph.value_info.append(info)
    if changed:
        copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del proto.graph.node[:]
        proto.graph.node.extend(copies)
        if all(entry.domain != CONTRIB for entry in proto.opset_import):
            proto.opset_import.append(helper.make_opsetid(CONTRIB, 1))


def _pool_of(index: GraphIndex, quantize: NodeProto) -> tuple[str, NodeProto] | None:
    """A MaxPool in front of a QuantizeLinear, and the channels-last map of 8 bits that it reads."""
    pool = _producer(index, quantize.input[0])
    if pool is None or not is_op(pool, "MaxPool") or len(index.uses[pool.output[0]]) > 1:
        return None
    order = attribute(pool, "storage_order")
    if len(pool.output) > 1 or (order is not None and order.i):
        return None
    dequantize = _producer(index, pool.input[0])
    if dequantize is None or not is_op(dequantize, "DequantizeLinear"):
        return None
    # The largest of some values is one of them: with the same scale no bit changes.
    if quantized_type(index, quantize) != onnx.TensorProto.UINT8:
        return None
    for slot in (1, 2):
        a, b = _parameter(index, dequantize, slot), _parameter(index, quantize, slot)
        if a is None or b is None or a.dtype != b.dtype or a.size != 1 or not (a == b).all():
            return None
    transpose = _producer(index, dequantize.input[0])
    if transpose is None or not is_op(transpose, "Transpose"):
        return None
    conv = _producer(index, transpose.input[0])
    if conv is None or conv.domain != DOMAIN or conv.op_type != QCONV:
        return None
    return transpose.input[0], pool


def _parameter(index: GraphIndex, node: NodeProto, slot: int) -> NDArray[np.generic] | None:
    """The scale or the zero point of a node of uint8 maps; a zero point left out is 0."""
    name = node.input[slot] if slot < len(node.input) else ""
    return index.constant_array(name) if name else np.zeros((), np.uint8)


def _producer(index: GraphIndex, tensor: str) -> NodeProto | None:
    position = index.producer.get(tensor)
    return None if position is None else index.nodes[position]
