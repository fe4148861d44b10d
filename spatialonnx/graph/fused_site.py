"""The nodes of a fused site."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx
from onnx import NodeProto

from spatialonnx.graph.index import GraphIndex
from spatialonnx.graph.site_match import SiteMatch


@dataclass(frozen=True, eq=False)
class FusedSite:
    """The nodes and constants that replace a site.

    Attributes:
        nodes: The SpatialConv node, or a SpatialQConv between Transposes.
        constants: Its weight, mask, bias and threshold.
        replaced: The replaced nodes, SpatialPredict last.
        infos: value_info of the tensors that the nodes write, where ONNX Runtime needs it.
    """

    nodes: tuple[NodeProto, ...]
    constants: tuple[onnx.TensorProto, ...]
    replaced: tuple[NodeProto, ...]
    infos: tuple[onnx.ValueInfoProto, ...] = ()


def replaced_nodes(match: SiteMatch) -> tuple[NodeProto, ...]:
    """The nodes of a site in order, its SpatialPredict last."""
    nodes = [match.conv, *match.between]
    for node in (match.add, match.relu, match.last, match.predictor):
        if node is not None and node is not nodes[-1]:
            nodes.append(node)
    return tuple(nodes)


def taken_names(index: GraphIndex, matches: Iterable[SiteMatch]) -> set[str]:
    """Names that the tensors of fused sites may not take.

    Those of a SpatialPredict's mask and threshold are free where it alone reads them: they go
    with it.

    Args:
        index: The graph.
        matches: The sites to fuse.
    """
    taken = index.names()
    for match in matches:
        inputs = () if match.predictor is None else match.predictor.input[1:4]
        for name in inputs:
            if len(index.uses.get(name, ())) == 1 and name not in index.outputs:
                taken.discard(name)
    return taken
