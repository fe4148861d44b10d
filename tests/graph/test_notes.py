"""What a user wrote beside nodes, values and weights is still there after every command."""

from __future__ import annotations

import onnx
import pytest
from support.models import Net

import spatialonnx
from spatialonnx.graph.fuse import fuse_sites
from spatialonnx.graph.notes import Noted, restore_notes
from spatialonnx.graph.ops import CONV, DOMAIN, write_plan
from spatialonnx.graph.sites import find_sites
from spatialonnx.plan.masks import uniform_mask


def noted(kind: str) -> onnx.ModelProto:
    """A network with a note on everything that can have one."""
    net = Net()
    x = net.relu(net.conv("x", 4))
    y = net.conv(x, 4)
    if kind == "norm":
        ones = [net.constant([1, 1, 1, 1]) for _ in range(4)]
        y = net.node("BatchNormalization", y, *ones)
    if kind == "residual":
        y = net.node("Add", y, x)
    proto = onnx.shape_inference.infer_shapes(net.model(net.head(net.relu(y))))
    proto.ir_version = 10
    for one in everything(proto.graph):
        one.doc_string = f"about {one.name}"
        one.metadata_props.add(key="origin", value=f"layer {one.name}")
    return proto


def everything(graph: onnx.GraphProto) -> list[Noted]:
    groups = (graph.node, graph.value_info, graph.initializer, graph.input, graph.output)
    return [one for group in groups for one in group]


def assert_kept(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    known = {one.name for one in everything(before.graph)}
    kept = [
        one
        for one in everything(after.graph)
        if one.name in known and not (isinstance(one, onnx.NodeProto) and one.domain == DOMAIN)
    ]
    assert len(kept) > 6
    for one in kept:
        assert one.doc_string == f"about {one.name}"
        assert [(p.key, p.value) for p in one.metadata_props] == [("origin", f"layer {one.name}")]


@pytest.mark.parametrize("simplify", [True, False])
@pytest.mark.parametrize("kind", ["plain", "norm", "residual"])
def test_they_survive(kind: str, simplify: bool) -> None:
    proto = noted(kind)
    spatial = spatialonnx.insert(proto, threads=1, simplify=simplify).model
    assert_kept(proto, spatial)
    sites = [site.name for site in find_sites(spatial).sites]
    masked = write_plan(spatial, {site: uniform_mask(2, 9) for site in sites})
    assert_kept(proto, masked)
    assert_kept(proto, fuse_sites(masked, [], sites))
    deployed = fuse_sites(masked, sites, [])
    convs = [node for node in proto.graph.node if node.op_type == "Conv"]
    fused = [node for node in deployed.graph.node if node.op_type == CONV]
    assert len(fused) == len(convs) == 2
    for conv, node in zip(convs, fused, strict=True):
        assert node.doc_string == conv.doc_string
        assert list(node.metadata_props) == list(conv.metadata_props)


def test_notes_of_its_own_stay() -> None:
    source, target = noted("plain"), noted("plain")
    target.graph.node[0].doc_string = "another"
    target.graph.node[1].ClearField("doc_string")
    restore_notes(source.graph, target.graph)
    assert target.graph.node[0].doc_string == "another"
    assert target.graph.node[1].doc_string == source.graph.node[1].doc_string
