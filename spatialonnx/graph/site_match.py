"""The nodes of a site: Conv [-> BatchNormalization, constants] [-> residual Add] -> ReLU.

A match that fails says why, in words that complete "not taken: ...".
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from onnx import NodeProto, TensorProto

from spatialonnx.graph.index import GraphIndex, attribute, is_op, node_label, op_label
from spatialonnx.graph.ops import DOMAIN, PREDICT
from spatialonnx.graph.shapes import Shapes
from spatialonnx.plan.macs import macs_per_output

QUANTIZED = "QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger"
_TRANSPARENT = "Identity", "Dropout"
_AFFINE = "Add", "Sub", "Mul", "Div"
_RANK = 4
_FUSED_DOMAINS = ("com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc")


@dataclass(frozen=True, eq=False)
class SiteMatch:
    """The nodes between a Conv and the ReLU it reaches.

    Attributes:
        conv: The Conv.
        between: What stands between it and the residual Add or the ReLU, in order:
            BatchNormalization, Add / Sub / Mul / Div with one constant per channel, Identity.
        add: The residual Add (or two-input Sum), where there is one.
        residual: The tensor that it adds.
        relu: The Relu or Clip.
        clip_max: The Clip's upper bound; infinity for a Relu.
        position: Of the ReLU in the graph.
        predictor: The SpatialPredict node that reads the ReLU's output, once there is one.
        rival: The other Conv that meets this one in the residual Add and stays dense.
    """

    conv: NodeProto
    between: tuple[NodeProto, ...]
    add: NodeProto | None
    residual: str
    relu: NodeProto
    clip_max: float
    position: int
    predictor: NodeProto | None = None
    rival: NodeProto | None = None

    @property
    def output(self) -> str:
        """Name of the ReLU's output tensor."""
        return self.relu.output[0]

    @property
    def name(self) -> str:
        """The site's name."""
        return self.predictor.name if self.predictor is not None else self.output


@dataclass(frozen=True)
class SkippedConv:
    """A Conv that is no site, with the reason."""

    conv: str
    reason: str


class Mismatch(Exception):
    """Why a Conv is no site."""


def follow_conv(index: GraphIndex, conv: NodeProto) -> SiteMatch:
    """Follows a Conv's output to its ReLU.

    Raises:
        Mismatch: It reaches none, or something else reads it on the way.
    """
    _check_conv(index, conv)
    channels = (index.constant_shape(conv.input[1]) or (0,))[0]
    between: list[NodeProto] = []
    add: NodeProto | None = None
    residual = ""
    tensor = conv.output[0]
    for _ in index.nodes:  # no chain is longer than the graph, a cyclic one ends here
        position, node, slot = _only_reader(index, tensor)
        if is_op(node, "Relu", "Clip"):
            clip_max = _clip_max(index, node, slot)
            predictor = _predictor(index, node)
            return SiteMatch(
                conv, tuple(between), add, residual, node, clip_max, position, predictor
            )
        if add is not None:
            raise Mismatch(f"{_followed_by(node)} stands between its residual Add and a ReLU")
        if _is_residual(index, node, slot):
            add, residual = node, node.input[1 - slot]
        else:
            _check_between(index, node, slot, channels)
            between.append(node)
        tensor = node.output[0]
    raise Mismatch("the graph around it is cyclic")


def match_sites(index: GraphIndex, shapes: Shapes) -> tuple[list[SiteMatch], list[SkippedConv]]:
    """Finds the nodes of every site; of two Convs that meet in a residual Add, the one charged.

    Args:
        index: The graph.
        shapes: Its tensors' shapes.

    Returns:
        The sites in order of their Convs, and the Convs that are no site.
    """
    by_relu: dict[int, list[SiteMatch]] = {}
    skipped: list[SkippedConv] = []
    for node in index.nodes:
        try:
            if _refused(node):
                raise Mismatch(_refused(node))
            if is_op(node, "Conv"):
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
    return macs_per_output(index.constant_shape(conv.input[1]) or (0, 0))


def _refused(node: NodeProto) -> str:
    """Why a convolution that is no ONNX Conv is refused; empty for every other node."""
    if is_op(node, "QLinearConv", "ConvInteger"):
        return "it is quantised: only float32 is predicted, so insert into the float model"
    if node.domain in _FUSED_DOMAINS and node.op_type.endswith("Conv"):
        return (
            f"it is {op_label(node)}, made by ONNX Runtime's optimiser: insert into the model as "
            "it was exported"
        )
    return ""


def _check_conv(index: GraphIndex, conv: NodeProto) -> None:
    if len(conv.input) < 2 or not conv.output or not conv.output[0]:
        raise Mismatch("it lacks a weight or an output")
    source = index.producer.get(conv.input[0])
    weight_source = index.producer.get(conv.input[1])
    for position in (source, weight_source):
        if position is not None and is_op(index.nodes[position], *QUANTIZED):
            raise Mismatch(
                "it is quantised (a DequantizeLinear feeds it): only float32 is predicted, so "
                "insert into the float model"
            )
    shape = index.constant_shape(conv.input[1])
    if shape is None:
        raise Mismatch("its weight is computed, not a constant")
    if len(shape) != _RANK or any(d <= 0 for d in shape):
        raise Mismatch(f"it is a {max(len(shape) - 2, 0)}-d Conv: only 2-d Convs are predicted")
    kind = index.constant_type(conv.input[1])
    if kind is not None and kind != TensorProto.FLOAT:
        raise Mismatch(f"its weights are {_type_name(kind)}: only float32 is predicted")


def _only_reader(index: GraphIndex, tensor: str) -> tuple[int, NodeProto, int]:
    if tensor in index.outputs:
        raise Mismatch("it is an output of the model before any ReLU")
    uses = index.uses.get(tensor, [])
    if not uses:
        raise Mismatch("nothing reads its output")
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
        raise Mismatch(f"a Clip from {low:g} follows it, which is no ReLU: only Clip from 0 is")
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


def _predictor(index: GraphIndex, relu: NodeProto) -> NodeProto | None:
    uses = index.uses.get(relu.output[0], [])
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
    """Accepts what leaves a map with one factor and one addend a channel, or less."""
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
