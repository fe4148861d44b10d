"""Shapes of a model's tensors, custom ops included.

ONNX's shape inference stops at an op it does not know, so it runs on a copy in which
SpatialPredict is an Identity and SpatialConv a Conv. The copy leaves large weights out: inference
needs their shapes alone, and protobuf would stop at 2 GiB.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import onnx
from onnx import NodeProto, TypeProto, helper

from spatialonnx.graph.index import conv_attributes
from spatialonnx.graph.ops import CONV, DOMAIN, PREDICT, QCONV
from spatialonnx.plan.masks import Dim

_LOG = logging.getLogger(__name__)
_KEPT_ELEMENTS = 1024
"""Constants up to this size go along: Reshape and its like read shapes from them."""


@dataclass(frozen=True)
class Shapes:
    """Shapes by tensor name.

    Attributes:
        by_name: None where a dimension is dynamic. A tensor whose rank is unknown is missing.
        batch: Images that the shapes are for.
        dynamic_batch: Whether the file leaves that number open.
    """

    by_name: Mapping[str, tuple[Dim, ...]]
    batch: int
    dynamic_batch: bool

    def get(self, name: str) -> tuple[Dim, ...] | None:
        """A tensor's shape; None where not even its rank is known."""
        return self.by_name.get(name)

    def outputs_per_image(self, name: str) -> int | None:
        """Elements of a tensor for one image; None where that is dynamic."""
        shape = self.get(name)
        if shape is None:
            return None
        if None not in shape:
            count = prod(d for d in shape if d is not None)
            if count % self.batch == 0:
                return count // self.batch
        return None if None in shape[1:] else prod(d for d in shape[1:] if d is not None)


def infer_shapes(
    proto: onnx.ModelProto, input_shapes: Mapping[str, tuple[int, ...]] | None = None
) -> Shapes:
    """Infers the shapes of a model's tensors for one image where the batch is dynamic.

    Args:
        proto: A model of any stage.
        input_shapes: Shapes to give to graph inputs, by name.

    Returns:
        The shapes inferred; for a model that inference rejects, those of its own value_info.
    """
    copy = _light_copy(proto)
    weights = {t.name for t in copy.graph.initializer} | {t.name for t in proto.graph.initializer}
    inputs = [v for v in copy.graph.input if v.name not in weights]
    if input_shapes:
        # What the file says of the tensors behind may contradict the shapes asked for.
        del copy.graph.value_info[:]
        for value in copy.graph.output:
            value.type.tensor_type.ClearField("shape")
    dynamic_batch = any(_is_dynamic(value.type) for value in inputs)
    for value in inputs:
        _fix_input(value.type, (input_shapes or {}).get(value.name))
    first = next((_dims(v.type) for v in inputs if len(_dims(v.type) or ()) >= 3), None)
    batch = (first[0] if first else None) or 1
    try:
        copy = onnx.shape_inference.infer_shapes(copy, data_prop=True)
    except Exception as error:  # C++ errors of several kinds; the shapes stay unknown
        _LOG.debug("shape inference: %s", error)
    values = [*copy.graph.input, *copy.graph.value_info, *copy.graph.output]
    shapes = {v.name: dims for v in values if (dims := _dims(v.type)) is not None}
    shapes |= {t.name: tuple(t.dims) for t in proto.graph.initializer}
    return Shapes(shapes, batch, dynamic_batch)


def _light_copy(proto: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.ir_version = max(proto.ir_version, 4)
    copy.opset_import.extend(o for o in proto.opset_import if o.domain != DOMAIN)
    copy.functions.extend(proto.functions)
    graph = copy.graph
    graph.name = "shapes"
    graph.output.extend(proto.graph.output)
    graph.value_info.extend(proto.graph.value_info)
    for tensor in proto.graph.initializer:
        if prod(tensor.dims) <= _KEPT_ELEMENTS and not tensor.external_data:
            graph.initializer.append(tensor)
        else:
            graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    present = {v.name for v in graph.input}
    graph.input.extend(v for v in proto.graph.input if v.name not in present)
    graph.node.extend(known for node in proto.graph.node for known in _known(node))
    return copy


def _known(node: NodeProto) -> list[NodeProto]:
    """A node, or standard ones whose output has the same shape."""
    if node.domain != DOMAIN:
        return [node]
    if node.op_type == PREDICT:
        return [helper.make_node("Identity", node.input[:1], node.output[:1], name=node.name)]
    attributes = conv_attributes(node)
    if node.op_type == CONV:
        known = helper.make_node("Conv", node.input[:2], node.output[:1], name=node.name)
        known.attribute.extend(attributes)
        return [known]
    if node.op_type == QCONV and len(node.input) > 3 and node.output:
        output = node.output[0]
        names = [f"{output}/{part}" for part in ("x", "sums", "nhwc")]
        conv = helper.make_node("ConvInteger", [names[0], node.input[3]], [names[1]])
        conv.attribute.extend(attributes)
        return [
            helper.make_node("Transpose", [node.input[0]], [names[0]], perm=[0, 3, 1, 2]),
            conv,
            helper.make_node("Transpose", [names[1]], [names[2]], perm=[0, 2, 3, 1]),
            helper.make_node("Cast", [names[2]], [output], to=onnx.TensorProto.UINT8),
        ]
    return [node]


def _fix_input(value: TypeProto, wanted: tuple[int, ...] | None) -> None:
    """Gives a graph input the shape asked for, and one image where the batch is dynamic."""
    if value.WhichOneof("value") != "tensor_type":
        return
    tensor = value.tensor_type
    if wanted is not None:
        tensor.ClearField("shape")
        for size in wanted:
            tensor.shape.dim.add().dim_value = size
    elif _is_dynamic(value):
        tensor.shape.dim[0].Clear()
        tensor.shape.dim[0].dim_value = 1


def _is_dynamic(value: TypeProto) -> bool:
    """Whether an input of images leaves its first dimension open."""
    dims = _dims(value)
    return dims is not None and len(dims) >= 3 and not dims[0]


def _dims(value: TypeProto) -> tuple[Dim, ...] | None:
    if value.WhichOneof("value") != "tensor_type" or not value.tensor_type.HasField("shape"):
        return None
    return tuple(
        d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else None
        for d in value.tensor_type.shape.dim
    )
