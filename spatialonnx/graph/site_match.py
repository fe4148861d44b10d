"""The nodes of a site: Conv [-> BatchNormalization, constants] [-> residual Add] -> ReLU.

A quantised site ends in a QuantizeLinear (or is a QLinearConv). Quantisers write it in four forms:
the ReLU folded into the zero point, a Relu in front of the QuantizeLinear, a Relu between two
QuantizeLinears, and a residual Add with or without a QuantizeLinear between Conv and Add.

A match that fails says why, in words that complete "not taken: ...".
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from math import prod

from onnx import NodeProto, TensorProto

from spatialonnx.graph.activations import name_activation
from spatialonnx.graph.index import GraphIndex, attribute, is_op, node_label, op_label
from spatialonnx.graph.ops import DOMAIN, PREDICT, QCONV
from spatialonnx.graph.shapes import Shapes
from spatialonnx.plan.macs import macs_per_output

_TRANSPARENT = "Identity", "Dropout"
_AFFINE = "Add", "Sub", "Mul", "Div"
_RANK = 4
_LEAST = {"uint8": 0, "int8": -128, "uint16": 0, "int16": -(1 << 15), "uint4": 0, "int4": -8}
_UNSIGNED = TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT4
_FUSED_DOMAINS = ("com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc")


@dataclass(frozen=True, eq=False)
class SiteMatch:
    """The nodes between a Conv and the ReLU it reaches.

    Attributes:
        conv: The Conv.
        between: The nodes between it and the residual Add or the ReLU, in order:
            BatchNormalization, Add / Sub / Mul / Div with one constant per channel, Identity.
        add: The residual Add (or two-input Sum), where there is one.
        residual: The tensor that it adds.
        relu: The Relu or Clip; None where quantisation folded it into a zero point.
        clip_max: The Clip's upper bound; infinity for a Relu.
        last: The node whose output is predicted: the ReLU, or the QuantizeLinear or QLinearConv
            of a quantised site.
        position: Of ``last`` in the graph.
        predictor: The SpatialPredict node that reads the output of ``last``, once there is one.
        rival: The other Conv that meets this one in the residual Add and stays dense.
    """

    conv: NodeProto
    between: tuple[NodeProto, ...]
    add: NodeProto | None
    residual: str
    relu: NodeProto | None
    clip_max: float
    last: NodeProto
    position: int
    predictor: NodeProto | None = None
    rival: NodeProto | None = None

    @property
    def output(self) -> str:
        """Name of the tensor that is predicted."""
        return self.last.output[0]

    @property
    def name(self) -> str:
        """The site's name: that of the float tensor that is predicted, quantised or not."""
        if self.predictor is not None:
            return self.predictor.name
        return self.last.input[0] if is_op(self.last, "QuantizeLinear") else self.output

    @property
    def weight(self) -> str:
        """Name of the Conv's weight."""
        return weight_name(self.conv)

    @property
    def zero_point(self) -> str:
        """Name of the zero point of an 8-bit map; empty for a float map, or where it is 0."""
        if not self.is_quantized:
            return ""
        slot = 2 if is_op(self.last, "QuantizeLinear") else 7
        return self.last.input[slot] if len(self.last.input) > slot else ""

    @property
    def is_quantized(self) -> bool:
        """Whether the map that is predicted holds 8-bit values."""
        return is_op(self.last, "QuantizeLinear", "QLinearConv", "QLinearAdd")


@dataclass(frozen=True)
class SkippedConv:
    """A Conv that is not a site, with the reason."""

    conv: str
    reason: str


class Mismatch(Exception):
    """Why a Conv is not a site."""


def weight_name(conv: NodeProto) -> str:
    """Name of the weight of a Conv of any kind; empty where it has none."""
    slot = 3 if conv.op_type in ("QLinearConv", QCONV) else 1
    return conv.input[slot] if len(conv.input) > slot else ""


def follow_conv(index: GraphIndex, conv: NodeProto) -> SiteMatch:
    """Follows a Conv's output to its ReLU, and to the QuantizeLinear behind it.

    Raises:
        Mismatch: It reaches none, or something else reads it on the way.
    """
    _check_conv(index, conv)
    if is_op(conv, "QLinearConv"):
        return _follow_qlinear_conv(index, conv)
    path = _Path(index, conv, _is_dequantized(index, conv.input[0]))
    tensor = conv.output[0]
    for _ in index.nodes:  # at most as many steps as nodes: a cyclic graph ends here
        position, node, slot = _only_reader(index, tensor)
        if path.quantized and is_op(node, "QuantizeLinear") and slot == 0:
            if path.relu is not None or _folds_relu(index, node):
                _check_map(index, node)
                return path.end(node, position)
            path.between.append(node)
            _, node, _ = _only_reader(index, node.output[0])
            if not is_op(node, "DequantizeLinear"):
                raise Mismatch(f"{_followed_by(node)} reads its quantised output, not a ReLU")
            path.between.append(node)
        elif path.relu is not None:
            raise Mismatch("no QuantizeLinear follows its ReLU: ONNX Runtime computes it in float")
        elif is_op(node, "Relu", "Clip"):
            path.relu, path.clip_max = node, _clip_max(index, node, slot)
            if not path.quantized:
                return path.end(node, position)
        elif path.add is not None:
            raise Mismatch(f"{_followed_by(node)} stands between its residual Add and a ReLU")
        elif _is_residual(index, node, slot):
            path.add, path.residual = node, node.input[1 - slot]
        elif path.quantized:
            raise Mismatch(f"{_followed_by(node)} follows it, not a ReLU")
        else:
            _check_between(index, node, slot, path.channels)
            path.between.append(node)
        tensor = node.output[0]
    raise Mismatch("the graph around it is cyclic")


def match_sites(index: GraphIndex, shapes: Shapes) -> tuple[list[SiteMatch], list[SkippedConv]]:
    """Finds the nodes of every site; of two Convs that meet in a residual Add, the one charged.

    Args:
        index: The graph.
        shapes: Its tensors' shapes.

    Returns:
        The matches in order of their Convs, and the Convs that are not sites.
    """
    by_relu: dict[int, list[SiteMatch]] = {}
    skipped: list[SkippedConv] = []
    for node in index.nodes:
        try:
            if _refused(node):
                raise Mismatch(_refused(node))
            if is_op(node, "Conv", "QLinearConv"):
                match = follow_conv(index, node)
                _check_broadcast(shapes, match)
                by_relu.setdefault(match.position, []).append(match)
        except Mismatch as mismatch:
            skipped.append(SkippedConv(node_label(node), str(mismatch)))
    matches = []
    for rivals in by_relu.values():
        charged = max(rivals, key=lambda match: _cost(index, match.conv))  # the first of equals
        for match in [other for other in rivals if other is not charged]:
            reason = _stays_dense(index, charged, match)
            skipped.append(SkippedConv(node_label(match.conv), reason))
            charged = replace(charged, rival=match.conv)
        matches.append(charged)
    return matches, skipped


def _stays_dense(index: GraphIndex, charged: SiteMatch, other: SiteMatch) -> str:
    equal = _cost(index, charged.conv) == _cost(index, other.conv)
    why = "comes first" if equal else "has more MACs"
    name = node_label(charged.conv)
    return f"it meets {name} in a residual Add; {name} {why} and is charged, this one stays dense"


def _check_broadcast(shapes: Shapes, match: SiteMatch) -> None:
    """Refuses a Conv whose output a residual Add broadcasts: outputs no longer match one to one."""
    if match.add is None:
        return
    before, after = shapes.get(match.conv.output[0]), shapes.get(match.output)
    if before is None or after is None:
        return
    if len(before) != len(after) or any(
        a is not None and b is not None and a != b for a, b in zip(before, after, strict=True)
    ):
        raise Mismatch("a residual Add stretches it to a larger map")


def _cost(index: GraphIndex, conv: NodeProto) -> int:
    return macs_per_output(index.constant_shape(weight_name(conv)) or (0, 0))


def _refused(node: NodeProto) -> str:
    """Why a convolution that is not an ONNX Conv is refused; empty for every other node."""
    if is_op(node, "ConvInteger"):
        return "it is a ConvInteger, whose output is not an 8-bit map: quantise to QDQ instead"
    if node.domain in _FUSED_DOMAINS and node.op_type.endswith("Conv"):
        return (
            f"it is {op_label(node)}, made by ONNX Runtime's optimiser: insert into the model as "
            "it was exported"
        )
    return ""


class _Path:
    """The nodes between a Conv and the current node."""

    def __init__(self, index: GraphIndex, conv: NodeProto, quantized: bool) -> None:
        self._index = index
        self._conv = conv
        self.quantized = quantized
        self.channels = (index.constant_shape(conv.input[1]) or (0,))[0]
        self.between: list[NodeProto] = []
        self.add: NodeProto | None = None
        self.residual = ""
        self.relu: NodeProto | None = None
        self.clip_max = math.inf

    def end(self, last: NodeProto, position: int) -> SiteMatch:
        """The match that ends with a node."""
        return SiteMatch(
            conv=self._conv,
            between=tuple(self.between),
            add=self.add,
            residual=self.residual,
            relu=self.relu,
            clip_max=self.clip_max,
            last=last,
            position=position,
            predictor=_predictor(self._index, last),
        )


def _follow_qlinear_conv(index: GraphIndex, conv: NodeProto) -> SiteMatch:
    """The same for the QOperator format, where a ReLU is always folded into the zero point."""
    position = index.producer[conv.output[0]]
    if _is_least(index, conv.input[7]):
        none = (None, "", None, math.inf)
        return SiteMatch(conv, (), *none, conv, position, _predictor(index, conv))
    position, node, slot = _only_reader(index, conv.output[0])
    if node.op_type != "QLinearAdd" or len(node.input) < 8 or slot not in (0, 3):
        raise Mismatch(f"{_followed_by(node)} follows it, and its zero point folds no ReLU")
    if not _is_least(index, node.input[7]):
        raise Mismatch("the zero point of its residual QLinearAdd folds no ReLU")
    predictor = _predictor(index, node)
    residual = node.input[3 - slot]
    return SiteMatch(conv, (), node, residual, None, math.inf, node, position, predictor)


def _is_dequantized(index: GraphIndex, tensor: str) -> bool:
    position = index.producer.get(tensor)
    return position is not None and is_op(index.nodes[position], "DequantizeLinear")


def _folds_relu(index: GraphIndex, quantize: NodeProto) -> bool:
    """Whether a QuantizeLinear saturates everything below zero to zero."""
    if len(quantize.input) < 3 or not quantize.input[2]:
        return quantized_type(index, quantize) in _UNSIGNED  # the zero point is 0
    return _is_least(index, quantize.input[2])


def quantized_type(index: GraphIndex, quantize: NodeProto) -> int | None:
    """Element type of the map that a QuantizeLinear writes; None where it is not known."""
    if len(quantize.input) > 2 and quantize.input[2]:
        return index.constant_type(quantize.input[2])
    chosen = attribute(quantize, "output_dtype")
    return TensorProto.UINT8 if chosen is None or not chosen.i else chosen.i


def _check_map(index: GraphIndex, quantize: NodeProto) -> None:
    kind = quantized_type(index, quantize)
    scale = index.constant_shape(quantize.input[1])
    if kind is None or scale is None or prod(scale) != 1:
        raise Mismatch("it is quantised with a scale or zero point that is not one constant")
    if kind not in (TensorProto.UINT8, TensorProto.INT8):
        raise Mismatch(f"it is quantised to {_type_name(kind)}: only 8-bit maps are predicted")


def _is_least(index: GraphIndex, zero_point: str) -> bool:
    """Whether a zero point is the least value of its type."""
    array = index.constant_array(zero_point)
    if array is None or array.size != 1:
        return False
    least = _LEAST.get(array.dtype.name)
    return least is not None and int(array.reshape(())[()]) == least


def _check_conv(index: GraphIndex, conv: NodeProto) -> None:
    quantized = is_op(conv, "QLinearConv")
    weight = weight_name(conv)
    if not weight or (quantized and len(conv.input) < 8) or not conv.output or not conv.output[0]:
        raise Mismatch("it lacks a weight or an output")
    shape = index.constant_shape(weight)
    if shape is None:
        raise Mismatch("its weight is computed, not a constant")
    if len(shape) != _RANK or any(d <= 0 for d in shape):
        raise Mismatch(f"it is a {max(len(shape) - 2, 0)}-d Conv: only 2-d Convs are predicted")
    kind = index.constant_type(weight)
    if not quantized and kind is not None and kind != TensorProto.FLOAT:
        raise Mismatch(f"its weights are {_type_name(kind)}: only float32 is predicted")


def _only_reader(index: GraphIndex, tensor: str) -> tuple[int, NodeProto, int]:
    if tensor in index.outputs:
        raise Mismatch("it is an output of the model before any ReLU")
    uses = index.uses.get(tensor, [])
    if not uses:
        raise Mismatch("nothing reads its output")
    if activation := name_activation(index, tensor):
        raise Mismatch(f"a {activation} follows it, not a ReLU")
    if len(uses) > 1:
        readers = sorted({op_label(index.nodes[use.node]) for use in uses})
        raise Mismatch(f"{len(uses)} nodes read it before a ReLU ({', '.join(readers[:4])})")
    use = uses[0]
    node = index.nodes[use.node]
    if use.slot < 0:
        raise Mismatch(f"a subgraph of {op_label(node)} reads it before a ReLU")
    return use.node, node, use.slot


def _clip_max(index: GraphIndex, node: NodeProto, slot: int) -> float:
    """The upper bound of a ReLU."""
    if not node.output or not node.output[0]:
        raise Mismatch("its ReLU has no output")
    if node.op_type == "Relu":
        return math.inf
    if slot != 0:
        raise Mismatch("it is a bound of a Clip, not what is clipped")
    low, high = _clip_bounds(index, node)
    if low != 0:
        raise Mismatch(f"a Clip from {low:g} follows it, which is not a ReLU: only Clip from 0 is")
    if not high > 0:
        raise Mismatch(f"a Clip to {high:g} follows it, which leaves nothing but zeros")
    return high


def _clip_bounds(index: GraphIndex, node: NodeProto) -> tuple[float, float]:
    """Bounds of a Clip: attributes up to opset 10, inputs from opset 11 on."""
    bounds = []
    for slot, (name, default) in enumerate((("min", -math.inf), ("max", math.inf)), start=1):
        value: float | None = default
        if len(node.input) > slot and node.input[slot]:
            value = index.scalar(node.input[slot])
        elif (found := attribute(node, name)) is not None:
            value = float(found.f)
        if value is None:
            raise Mismatch(f"a Clip whose {name} is computed, not a constant, follows it")
        bounds.append(value)
    return bounds[0], bounds[1]


def _predictor(index: GraphIndex, last: NodeProto) -> NodeProto | None:
    uses = index.uses.get(last.output[0], [])
    if len(uses) != 1 or uses[0].slot != 0:
        return None
    node = index.nodes[uses[0].node]
    return node if node.domain == DOMAIN and node.op_type == PREDICT else None


def _is_residual(index: GraphIndex, node: NodeProto, slot: int) -> bool:
    """Whether a node adds a tensor that is not constant."""
    if not is_op(node, "Add", "Sum") or len(node.input) != 2 or not node.output:
        return False
    return index.constant_shape(node.input[1 - slot]) is None


def _check_between(index: GraphIndex, node: NodeProto, slot: int, channels: int) -> None:
    """Accepts ops that scale and shift each channel by constants, and ops that change nothing."""
    label = _followed_by(node)
    if not node.output or not node.output[0]:
        raise Mismatch(f"{label} follows it, which has no output")
    if is_op(node, *_TRANSPARENT) and slot == 0:
        training = len(node.input) > 2 and bool(node.input[2])
        if training or any(index.uses.get(name) for name in node.output[1:] if name):
            raise Mismatch(f"{label} in training mode follows it")
        return
    if is_op(node, "BatchNormalization") and slot == 0:
        mode = attribute(node, "training_mode")
        if (mode is not None and mode.i) or any(node.output[1:]):
            raise Mismatch(f"{label} in training mode follows it")
        if any(index.constant_shape(name) is None for name in node.input[1:]):
            raise Mismatch(f"{label} whose parameters are computed follows it")
        return
    if is_op(node, *_AFFINE) and len(node.input) == 2:
        shape = index.constant_shape(node.input[1 - slot])
        if shape is None:
            raise Mismatch(f"{label} with another tensor follows it, not a ReLU")
        if node.op_type == "Div" and slot == 1:
            raise Mismatch(f"{label} of a constant by its output follows it, not a ReLU")
        if not _is_per_channel(shape, channels):
            raise Mismatch(f"{label} of a constant that is not one per channel follows it")
        return
    if is_op(node, "Sum"):
        raise Mismatch(f"a Sum of {len(node.input)} tensors follows it; a residual Add has two")
    raise Mismatch(f"{label} follows it, not a ReLU")


def _is_per_channel(shape: tuple[int, ...], channels: int) -> bool:
    if len(shape) > _RANK:
        return False
    batch, channel, *rest = (1,) * (_RANK - len(shape)) + shape
    return batch == 1 and channel in (1, channels) and rest == [1, 1]


def _followed_by(node: NodeProto) -> str:
    label = op_label(node)
    return f"{'an' if label[:1] in 'AEIOU' else 'a'} {label}"


def _type_name(kind: int) -> str:
    known = {v: k for k, v in TensorProto.DataType.items()}
    return known.get(kind, str(kind)).lower()
