"""Finds sites: the Convs whose output reaches a ReLU; other Convs get a reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import onnx
from onnx import NodeProto

from spatialonnx.errors import ModelError
from spatialonnx.graph.index import (
    GraphIndex,
    inline_functions,
    inner_nodes,
    is_op,
    node_label,
    op_label,
)
from spatialonnx.graph.ops import CONV, DOMAIN, QCONV
from spatialonnx.graph.shapes import Shapes, infer_shapes
from spatialonnx.graph.site_match import (
    SiteMatch,
    SkippedConv,
    match_sites,
    quantized_type,
    weight_name,
)
from spatialonnx.model.model_file import ModelLike, as_model
from spatialonnx.plan.macs import macs_per_output
from spatialonnx.plan.masks import Dim


@dataclass(frozen=True)
class Site:
    """A Conv whose output reaches a ReLU.

    Attributes:
        name: Name of the ReLU's output tensor (of the SpatialPredict node once there is one).
        conv: Name of the Conv that is charged: the one whose work prediction skips.
        shape: Channels, height and width of the ofmap; None where dynamic.
        macs_per_output: MACs that one output of the charged Conv costs.
        note: A remark, for example which Conv of a residual Add stays dense.
        tensor: Name of the tensor that is predicted: its name, but for an 8-bit map.
        zero_point: Name of the zero point of an 8-bit map; empty where it is 0.
        dtype: Element type of that tensor: float32, uint8 or int8.
    """

    name: str
    conv: str
    shape: tuple[Dim, Dim, Dim]
    macs_per_output: int
    note: str = ""
    tensor: str = field(default="", compare=False)
    zero_point: str = field(default="", compare=False)
    dtype: str = "float32"

    @property
    def is_quantized(self) -> bool:
        """Whether the tensor that is predicted holds 8-bit values."""
        return self.dtype != "float32"


@dataclass(frozen=True)
class SiteReport:
    """The sites of a model, and the other Convs.

    Attributes:
        sites: In graph order of their ReLUs.
        skipped: Convs that are not sites.
        conv_macs: MACs of the Conv nodes of the main graph for one sample; None where shapes are
            dynamic.
    """

    sites: tuple[Site, ...]
    skipped: tuple[SkippedConv, ...]
    conv_macs: int | None

    def to_json(self) -> dict[str, Any]:
        """Sites and skipped Convs as objects."""
        return {
            "sites": [vars(site) for site in self.sites],
            "skipped": [vars(conv) for conv in self.skipped],
            "conv_macs": self.conv_macs,
        }


def find_sites(
    model: ModelLike, input_shapes: dict[str, tuple[int, ...]] | None = None
) -> SiteReport:
    """Finds the sites of a model of any stage.

    A site of a model that already carries predictions is one with a SpatialPredict or
    SpatialConv node; the others are listed as left out.

    Args:
        model: A path or an ``onnx.ModelProto``.
        input_shapes: Shapes to give to graph inputs whose shapes are dynamic.
    """
    proto = model if isinstance(model, onnx.ModelProto) else as_model(model).proto
    proto = inline_functions(proto)
    index = GraphIndex(proto)
    shapes = infer_shapes(proto, input_shapes)
    matches, skipped = match_sites(index, shapes)
    carries_ops = any(node.domain == DOMAIN for node in index.nodes)
    taken: list[tuple[int, Site]] = []
    for match in matches:
        if carries_ops and match.predictor is None:
            reason = "its site was left out, or left dense, when the model was made"
            skipped.append(SkippedConv(node_label(match.conv), reason))
        elif match.predictor is None and _map_size(shapes, match) == (1, 1):
            reason = "its map is 1 x 1, smaller than every patch: nothing is left to predict"
            skipped.append(SkippedConv(node_label(match.conv), reason))
        else:
            taken.append((match.position, _site(index, shapes, match)))
    for position, node in enumerate(index.nodes):
        if _is_fused(node):
            taken.append((position, _fused_site(index, shapes, node)))
    sites = [site for _, site in sorted(taken, key=lambda item: item[0])]
    skipped += _inner_convs(proto)
    order = {node_label(node): i for i, node in enumerate(index.nodes)}
    skipped.sort(key=lambda entry: order.get(entry.conv, len(order)))
    return SiteReport(tuple(sites), tuple(skipped), _conv_macs(index, shapes))


def require_sites(report: SiteReport) -> None:
    """Checks that a model has a site.

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


def _site(index: GraphIndex, shapes: Shapes, match: SiteMatch) -> Site:
    channels = (index.constant_shape(match.weight) or (0,))[0]
    return Site(
        match.name,
        node_label(match.conv),
        (channels, *_map_size(shapes, match)),
        macs_per_output(index.constant_shape(match.weight) or (0, 0)),
        _note(match),
        match.output,
        match.zero_point,
        _dtype(index, match),
    )


def _map_size(shapes: Shapes, match: SiteMatch) -> tuple[Dim, Dim]:
    shape = shapes.get(match.output)
    return (shape[2], shape[3]) if shape is not None and len(shape) == 4 else (None, None)


def _fused_site(index: GraphIndex, shapes: Shapes, node: NodeProto) -> Site:
    quantized = node.op_type == QCONV
    weight = index.constant_shape(node.input[3 if quantized else 1]) or (0,)
    shape = shapes.get(node.output[0])
    rows = 1 if quantized else 2  # NHWC or NCHW
    known = shape is not None and len(shape) == 4
    height, width = shape[rows : rows + 2] if known and shape is not None else (None, None)
    slot = 9 if quantized else 4
    note = "residual Add, fused" if len(node.input) > slot and node.input[slot] else ""
    name = node_label(node)
    return Site(name, name, (weight[0], height, width), macs_per_output(weight), note)


def _dtype(index: GraphIndex, match: SiteMatch) -> str:
    if not match.is_quantized:
        return "float32"
    if is_op(match.last, "QuantizeLinear"):
        kind = quantized_type(index, match.last)
    else:
        kind = index.constant_type(match.zero_point)
    return "int8" if kind == onnx.TensorProto.INT8 else "uint8"


def _note(match: SiteMatch) -> str:
    if match.add is None:
        return ""
    if match.rival is None:
        return "residual Add"
    return f"residual Add with {node_label(match.rival)}, which stays dense"


def _inner_convs(proto: onnx.ModelProto) -> list[SkippedConv]:
    """Convs outside the main graph: how often a subgraph runs is not in the file."""
    return [
        SkippedConv(
            node_label(inner),
            f"it stands in a subgraph of {op_label(node)}: it is neither predicted nor counted",
        )
        for node in proto.graph.node
        for inner in inner_nodes(node)
        if is_op(inner, "Conv")
    ]


def _conv_macs(index: GraphIndex, shapes: Shapes) -> int | None:
    total = 0
    for node in index.nodes:
        if not (is_op(node, "Conv", "QLinearConv") or _is_fused(node)):
            continue
        name = weight_name(node)
        if not name or not node.output:
            return None
        weight = index.constant_shape(name) or shapes.get(name)
        outputs = shapes.outputs_per_image(node.output[0])
        if weight is None or outputs is None or None in weight:
            return None
        total += macs_per_output([d for d in weight if d is not None]) * outputs
    return total


def _is_fused(node: NodeProto) -> bool:
    slots = {CONV: 1, QCONV: 3}.get(node.op_type, 0) if node.domain == DOMAIN else 0
    return 0 < slots < len(node.input) and bool(node.output)
