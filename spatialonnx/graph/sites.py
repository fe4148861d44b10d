"""Finding sites: the Convs whose output reaches a ReLU, and why the others do not."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import onnx
from onnx import NodeProto

from spatialonnx.errors import ModelError
from spatialonnx.graph.index import GraphIndex, inner_nodes, is_op, node_label, op_label
from spatialonnx.graph.ops import CONV, DOMAIN
from spatialonnx.graph.shapes import Shapes, infer_shapes
from spatialonnx.graph.site_match import Chain, Mismatch, follow_conv
from spatialonnx.plan.macs import macs_per_output
from spatialonnx.plan.masks import Dim

_FUSED_DOMAINS = ("com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc")


@dataclass(frozen=True)
class Site:
    """A Conv whose output reaches a ReLU.

    Attributes:
        name: Name of the ReLU's output tensor (of the SpatialPredict node once there is one).
        conv: Name of the Conv that is charged: the one whose work prediction skips.
        shape: Channels, height and width of the ofmap; None where dynamic.
        macs_per_output: MACs that one output of the charged Conv costs.
        note: What a reader should know, as which Conv of a residual Add stays dense.
    """

    name: str
    conv: str
    shape: tuple[Dim, Dim, Dim]
    macs_per_output: int
    note: str = ""


@dataclass(frozen=True)
class SkippedConv:
    """A Conv that is no site, with the reason."""

    conv: str
    reason: str


@dataclass(frozen=True)
class SiteReport:
    """What was found in a model.

    Attributes:
        sites: In graph order of their ReLUs.
        skipped: Convs that are no site.
        conv_macs: MACs of all Conv nodes for one sample; None where shapes are dynamic.
    """

    sites: tuple[Site, ...]
    skipped: tuple[SkippedConv, ...]
    conv_macs: int | None


def find_sites(
    proto: onnx.ModelProto, input_shapes: dict[str, tuple[int, ...]] | None = None
) -> SiteReport:
    """Finds the sites of a model of any stage.

    A site of a model that already carries predictions is one with a SpatialPredict or
    SpatialConv node; the others are listed as left out.

    Args:
        proto: The model.
        input_shapes: Shapes to give to graph inputs whose shapes are dynamic.
    """
    index = GraphIndex(proto)
    shapes = infer_shapes(proto, input_shapes)
    chains, skipped = match_chains(index, shapes)
    carries_ops = any(node.domain == DOMAIN for node in index.nodes)
    taken: list[tuple[int, Site]] = []
    for chain in chains:
        if carries_ops and chain.predictor is None:
            reason = "its site was left out, or left dense, when the model was made"
            skipped.append(SkippedConv(node_label(chain.conv), reason))
        else:
            taken.append((chain.position, _site(index, shapes, chain)))
    for position, node in enumerate(index.nodes):
        if _is_fused(node):
            taken.append((position, _fused_site(index, shapes, node)))
    sites = [site for _, site in sorted(taken, key=lambda item: item[0])]
    skipped += _inner_convs(proto)
    order = {node_label(node): i for i, node in enumerate(index.nodes)}
    skipped.sort(key=lambda entry: order.get(entry.conv, len(order)))
    return SiteReport(tuple(sites), tuple(skipped), _conv_macs(proto, index, shapes))


def match_chains(index: GraphIndex, shapes: Shapes) -> tuple[list[Chain], list[SkippedConv]]:
    """Finds the nodes of every site; of two Convs that meet in a residual Add, the one charged.

    Args:
        index: The graph.
        shapes: Its tensors' shapes.

    Returns:
        The chains in order of their Convs, and the Convs that are no site.
    """
    by_relu: dict[int, list[Chain]] = {}
    skipped: list[SkippedConv] = []
    for node in index.nodes:
        try:
            if _refused(node):
                raise Mismatch(_refused(node))
            if is_op(node, "Conv"):
                chain = follow_conv(index, node)
                _check_broadcast(shapes, chain)
                by_relu.setdefault(chain.position, []).append(chain)
        except Mismatch as mismatch:
            skipped.append(SkippedConv(node_label(node), str(mismatch)))
    chains = []
    for rivals in by_relu.values():
        charged = max(rivals, key=lambda chain: _cost(index, chain.conv))  # the first of equals
        for chain in [other for other in rivals if other is not charged]:
            reason = _stays_dense(index, charged, chain)
            skipped.append(SkippedConv(node_label(chain.conv), reason))
            charged = replace(charged, rival=chain.conv)
        chains.append(charged)
    return chains, skipped


def require_sites(report: SiteReport) -> None:
    """Makes sure that a model has a site.

    Raises:
        ModelError: It has none; the message gives the most frequent reason.
    """
    if report.sites:
        return
    if not report.skipped:
        raise ModelError("the model has no site: it holds no Conv; spatialonnx takes CNNs")
    (reason, count), *_ = Counter(entry.reason for entry in report.skipped).most_common(1)
    raise ModelError(
        f"the model has no site, a Conv whose output reaches a ReLU: of {len(report.skipped)} "
        f"Convs {count} are not taken because: {reason}"
    )


def _site(index: GraphIndex, shapes: Shapes, chain: Chain) -> Site:
    shape = shapes.get(chain.output)
    channels = (index.constant_shape(chain.conv.input[1]) or (0,))[0]
    height, width = shape[2:4] if shape is not None and len(shape) == 4 else (None, None)
    return Site(
        chain.name,
        node_label(chain.conv),
        (channels, height, width),
        _cost(index, chain.conv),
        _note(chain),
    )


def _fused_site(index: GraphIndex, shapes: Shapes, node: NodeProto) -> Site:
    weight = index.constant_shape(node.input[1]) or (0,)
    shape = shapes.get(node.output[0])
    height, width = shape[2:4] if shape is not None and len(shape) == 4 else (None, None)
    note = "residual Add, fused" if len(node.input) > 4 and node.input[4] else ""
    name = node_label(node)
    return Site(name, name, (weight[0], height, width), macs_per_output(weight), note)


def _note(chain: Chain) -> str:
    if chain.add is None:
        return ""
    if chain.rival is None:
        return "residual Add"
    return f"residual Add with {node_label(chain.rival)}, which stays dense"


def _stays_dense(index: GraphIndex, charged: Chain, other: Chain) -> str:
    equal = _cost(index, charged.conv) == _cost(index, other.conv)
    why = "comes first" if equal else "has more MACs"
    name = node_label(charged.conv)
    return f"it meets {name} in a residual Add; {name} {why} and is charged, this one stays dense"


def _check_broadcast(shapes: Shapes, chain: Chain) -> None:
    """Refuses a Conv whose map a residual Add stretches: an output of it is no output of Conv."""
    if chain.add is None:
        return
    before, after = shapes.get(chain.conv.output[0]), shapes.get(chain.output)
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


def _inner_convs(proto: onnx.ModelProto) -> list[SkippedConv]:
    """Convs outside the main graph."""
    found = []
    for node in proto.graph.node:
        for inner in inner_nodes(node):
            if is_op(inner, "Conv"):
                reason = f"it stands in a subgraph of {op_label(node)}"
                found.append(SkippedConv(node_label(inner), reason))
    for function in proto.functions:
        for inner in function.node:
            if is_op(inner, "Conv"):
                reason = f"it stands in the function {function.name}, which insert would inline"
                found.append(SkippedConv(node_label(inner), reason))
    return found


def _conv_macs(proto: onnx.ModelProto, index: GraphIndex, shapes: Shapes) -> int | None:
    if _inner_convs(proto):
        return None  # how often a subgraph runs is not in the file
    total = 0
    for node in index.nodes:
        if not (is_op(node, "Conv") or _is_fused(node)):
            continue
        if len(node.input) < 2 or not node.output:
            return None
        weight = index.constant_shape(node.input[1]) or shapes.get(node.input[1])
        outputs = shapes.outputs_per_image(node.output[0])
        if weight is None or outputs is None or None in weight:
            return None
        total += macs_per_output([d for d in weight if d is not None]) * outputs
    return total


def _is_fused(node: NodeProto) -> bool:
    return (
        node.domain == DOMAIN and node.op_type == CONV and len(node.input) > 1 and bool(node.output)
    )
