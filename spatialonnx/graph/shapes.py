"""Shapes of a model's tensors, custom ops included.

ONNX's shape inference stops at an op it does not know, so it runs on a copy in which
SpatialPredict is an Identity and SpatialConv a Conv. The copy has no large weights: inference
needs only their shapes, and protobuf is limited to 2 GiB. What a file says of the tensors inside
is not believed: it stays behind when a tool changes the size of the input. Where inference ends,
at a size that the graph computes or at an op that it does not know, the model is run on one image.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, TypeProto, helper

from spatialonnx.errors import ModelError
from spatialonnx.graph.index import conv_attributes, is_op
from spatialonnx.graph.ops import CONV, DOMAIN, PREDICT, QCONV
from spatialonnx.graph.random_inputs import random_input
from spatialonnx.model.metadata import get_text
from spatialonnx.plan.masks import Dim
from spatialonnx.runtime.session import Runtime, open_session

_LOG = logging.getLogger(__name__)
_KEPT_ELEMENTS = 1024
"""Constants up to this size are kept: ops such as Reshape read shapes from them."""
_CONVS = "Conv", "QLinearConv"
_AFTER = "Relu", "Clip", "QuantizeLinear"
_ENDS = "MatMul", "Gemm", "Reshape", "Flatten"


@dataclass(frozen=True)
class Shapes:
    """Shapes by tensor name.

    Attributes:
        by_name: None where a dimension is dynamic. A tensor whose rank is unknown is missing.
        batch: Images that the shapes are for.
        dynamic_batch: Whether that number is dynamic in the file.
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
        The shapes of the network as ONNX Runtime runs it, whatever value_info says.
    """
    given = input_shapes or {}
    copy = _light_copy(proto)
    weights = {t.name for t in copy.graph.initializer} | {t.name for t in proto.graph.initializer}
    inputs = [v for v in copy.graph.input if v.name not in weights]
    for value in copy.graph.output:
        value.type.tensor_type.ClearField("shape")
    dynamic_batch = any(_is_dynamic(value.type) for value in inputs)
    inner = get_text(proto, "batch")
    one = int(inner) if inner is not None and inner.isdecimal() else 1
    for value in inputs:
        _fix_input(value.type, given.get(value.name), one)
    first = next((_dims(v.type) for v in inputs if len(_dims(v.type) or ()) >= 3), None)
    batch = (first[0] if first else None) or 1
    try:
        copy = onnx.shape_inference.infer_shapes(copy, data_prop=True)
    except Exception as error:  # C++ errors of several kinds; the shapes stay unknown
        _LOG.debug("shape inference: %s", error)
    values = [*copy.graph.input, *copy.graph.value_info, *copy.graph.output]
    shapes = {v.name: dims for v in values if (dims := _dims(v.type)) is not None}
    shapes |= {t.name: tuple(t.dims) for t in proto.graph.initializer}
    unknown = [name for name in _maps(proto) if None in shapes.get(name, (None, None))[1:]]
    if unknown and first is not None and None not in first:
        shapes |= _run_for_shapes(proto, unknown, given, batch)
    return Shapes(shapes, batch, dynamic_batch)


def correct_value_info(proto: onnx.ModelProto) -> None:
    """Corrects, in place, what a model says of the sizes of tensors inside, where it is wrong."""
    shapes = infer_shapes(proto)
    for value in proto.graph.value_info:
        said, true = _dims(value.type), shapes.get(value.name)
        if said is None or true is None or _agree(said, true, skip=shapes.dynamic_batch):
            continue
        tensor = value.type.tensor_type
        tensor.ClearField("shape")
        for axis, size in enumerate(true):
            dim = tensor.shape.dim.add()
            if size is not None and not (axis == 0 and shapes.dynamic_batch):
                dim.dim_value = size


def _agree(said: tuple[Dim, ...], true: tuple[Dim, ...], *, skip: bool) -> bool:
    """Whether two shapes do not contradict each other; the first dimension may be left out."""
    return len(said) == len(true) and all(
        a is None or b is None or a == b
        for a, b in list(zip(said, true, strict=True))[1 if skip else 0 :]
    )


def _maps(proto: onnx.ModelProto) -> list[str]:
    """The tensors whose sizes count: what Convs give, and what may be predicted.

    A ReLU of a dense layer gives no map, nor does what quantises its inputs: they would need a run
    where a Reshape of a computed shape comes before them.
    """
    maps: list[str] = []
    behind: set[str] = set()  # a Conv, maps all the way
    for node in proto.graph.node:
        follows = not behind.isdisjoint(node.input) and not is_op(node, *_ENDS)
        begins = node.domain == DOMAIN or is_op(node, *_CONVS)
        if begins or follows:
            behind.update(filter(None, node.output))
        if node.output and node.output[0] and (begins or (follows and is_op(node, *_AFTER))):
            maps.append(node.output[0])
    return maps


def _run_for_shapes(
    proto: onnx.ModelProto,
    names: Sequence[str],
    given: Mapping[str, tuple[int, ...]],
    batch: int,
) -> dict[str, tuple[Dim, ...]]:
    """Shapes that a run gives; a dimension that another image changes is None."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for value in copy.graph.input:
        if value.name in given:
            _fix_input(value.type, given[value.name], batch)
    del copy.graph.output[:]
    for name in names:
        output = f"{name}/shape of the run"
        copy.graph.node.append(helper.make_node("Shape", [name], [output]))
        copy.graph.output.append(helper.make_tensor_value_info(output, TensorProto.INT64, [None]))
    runs = []
    try:
        session = open_session(copy, Runtime("cpu"))
        for seed in range(2):
            rng = np.random.default_rng(seed)
            feeds = {v.name: random_input(v, 1, batch, rng) for v in session.inputs}
            runs.append(session.run(feeds))
    except ModelError as error:
        _LOG.debug("no run gives the shapes: %s", error)
        return {}
    found: dict[str, tuple[Dim, ...]] = {}
    for name, *shapes in zip(names, *runs, strict=True):
        one, other = (tuple(int(size) for size in shape) for shape in shapes)
        if len(one) == len(other):
            found[name] = tuple(a if a == b else None for a, b in zip(one, other, strict=True))
    return found


def _light_copy(proto: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.ir_version = max(proto.ir_version, 4)
    copy.opset_import.extend(o for o in proto.opset_import if o.domain != DOMAIN)
    copy.functions.extend(proto.functions)
    graph = copy.graph
    graph.name = "shapes"
    graph.output.extend(proto.graph.output)
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
    """The node, or standard nodes whose output has the same shape."""
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


def _fix_input(value: TypeProto, wanted: tuple[int, ...] | None, batch: int) -> None:
    """Gives a graph input the shape asked for, or so many images where the batch is dynamic."""
    if value.WhichOneof("value") != "tensor_type":
        return
    tensor = value.tensor_type
    if wanted is not None:
        tensor.ClearField("shape")
        for size in wanted:
            tensor.shape.dim.add().dim_value = size
    elif _is_dynamic(value):
        tensor.shape.dim[0].Clear()
        tensor.shape.dim[0].dim_value = batch


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
