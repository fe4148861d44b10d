"""Attributes that an op does not have are refused, also where ONNX Runtime would ignore them."""

from __future__ import annotations

import pytest
from onnx import helper

from spatialonnx.errors import ModelError
from spatialonnx.model.op_attributes import check_attributes


@pytest.mark.parametrize(
    ("op", "name"), [("SpatialConv", "stride"), ("SpatialPredict", "patch_size")]
)
def test_an_unknown_attribute_is_refused(op: str, name: str) -> None:
    node = helper.make_node(op, ["x"], ["y"], "n", domain="spatialonnx", **{name: 2})
    with pytest.raises(ModelError, match=f"{op} node 'n': attribute {name} is unknown, but takes"):
        check_attributes(helper.make_model(helper.make_graph([node], "g", [], [])))


def test_ops_of_others_are_left_alone() -> None:
    nodes = [helper.make_node("SpatialConv", ["x"], ["y"], domain="own", stride=2)]
    nodes.append(helper.make_node("SpatialConv", ["x"], ["z"], domain="spatialonnx", group=2))
    check_attributes(helper.make_model(helper.make_graph(nodes, "g", [], [])))
