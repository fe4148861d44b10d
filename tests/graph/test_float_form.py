"""The network without predictions, every map under its own name."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper
from support.masked import masked, names
from support.models import Net, feeds, residual

from spatialonnx.graph.float_form import float_form
from spatialonnx.graph.index import rename_tensors
from spatialonnx.runtime.session import Runtime, open_session

ONE = Runtime("cpu", 1)


def test_every_map_has_its_own_name() -> None:
    proto = masked(residual())
    network, predicted = float_form(proto)
    onnx.checker.check_model(network)
    assert list(predicted) == names(proto)
    written = {name for node in network.graph.node for name in node.output}
    assert predicted.keys() <= written
    assert written.isdisjoint(predicted.values())


def test_subgraphs_read_the_maps_under_their_own_names() -> None:
    net = Net()
    relu = net.relu(net.conv("x", 4))
    flag = net.node("Greater", net.node("ReduceMax", "x", keepdims=0), net.constant(0.0))
    inner = branch("inner", "Abs", relu)
    branches = {
        "then_branch": branch("outer", "If", flag, then_branch=inner, else_branch=inner),
        "else_branch": branch("other", "Neg", relu),
    }
    original = net.model(net.node("If", flag, **branches), rank=4)
    network, _ = float_form(masked(original))
    onnx.checker.check_model(network)
    for images in (feeds(original), {"x": -np.abs(feeds(original)["x"])}):
        expected = open_session(original, ONE).run(images)
        np.testing.assert_array_equal(open_session(network, ONE).run(images), expected)


def test_a_name_that_a_subgraph_defines_stays() -> None:
    own = branch("own", "Neg", "a")
    own.node[0].output[0] = own.output[0].name = "b"
    reader = branch("reader", "Neg", "b")
    node = helper.make_node("If", ["b"], ["c"], then_branch=own, else_branch=reader)
    value = helper.make_tensor_value_info("b", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "outer", [value], [], value_info=[value])
    rename_tensors(graph, {"b": "new"})
    assert graph.input[0].name == graph.value_info[0].name == graph.node[0].input[0] == "new"
    bodies = {attribute.name: attribute.g for attribute in graph.node[0].attribute}
    assert bodies["then_branch"].node[0].output[0] == "b"
    assert bodies["then_branch"].output[0].name == "b"
    assert bodies["else_branch"].node[0].input[0] == "new"


def branch(name: str, op: str, source: str, **attributes: onnx.GraphProto) -> onnx.GraphProto:
    """A graph of one node."""
    node = helper.make_node(op, [source], [f"{name}_y"], name=f"n_{name}", **attributes)
    output = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)
    return helper.make_graph([node], name, [], [output])
