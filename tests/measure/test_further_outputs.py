"""Outputs beside the answers, of every kind that ONNX Runtime gives: nothing asks rows of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.models import Net

import spatialonnx

FLOATS = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
OPTIONS = {"provider": "cpu", "threads": 1, "accept_baseline": True}


def value(name: str, kind: onnx.TypeProto) -> onnx.ValueInfoProto:
    return helper.make_value_info(name, kind)


def sequence(net: Net, y: str) -> onnx.ValueInfoProto:
    name = net.node("SplitToSequence", y, axis=1)
    return value(name, helper.make_sequence_type_proto(FLOATS))


def optional(net: Net, y: str) -> onnx.ValueInfoProto:
    return value(net.node("Optional", y), helper.make_optional_type_proto(FLOATS))


def booleans(net: Net, y: str) -> onnx.ValueInfoProto:
    name = net.node("Greater", y, net.constant(0))
    return helper.make_tensor_value_info(name, TensorProto.BOOL, ["n", 5])


def best(net: Net, y: str) -> onnx.ValueInfoProto:
    name = net.node("ArgMax", y, axis=1, keepdims=0)
    return helper.make_tensor_value_info(name, TensorProto.INT64, ["n"])


def total(net: Net, y: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(
        net.node("ReduceMean", y, keepdims=0), TensorProto.FLOAT, []
    )


def text(net: Net, y: str) -> onnx.ValueInfoProto:
    names = net.name("names")
    net.weights.append(helper.make_tensor(names, TensorProto.STRING, [5], [*"abcde"]))
    name = net.node("Gather", names, net.node("ArgMax", y, axis=1, keepdims=0))
    return helper.make_tensor_value_info(name, TensorProto.STRING, ["n"])


def an_initializer(net: Net, y: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(net.constant([1, 2, 3]), TensorProto.FLOAT, [3])


def the_input(net: Net, y: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])


def a_constant_node(net: Net, y: str) -> onnx.ValueInfoProto:
    name = net.node("Constant", value_floats=[1.0, 2.0])
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [2])


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize(
    "further",
    [
        *(sequence, optional, booleans, best, total, text),
        *(an_initializer, the_input, a_constant_node),
    ],
)
def test_every_command_takes_them(
    further: Callable[[Net, str], onnx.ValueInfoProto], first: bool
) -> None:
    net = Net()
    y = net.head(net.relu(net.conv(net.relu(net.conv("x", 4)), 4)))
    other = further(net, y)
    proto = net.model(y)
    proto.graph.output.insert(0 if first else 1, other)
    rng = np.random.default_rng(0)
    data = rng.normal(size=(60, 3, 8, 8)).astype(np.float32), np.arange(60) % 5
    inserted = spatialonnx.insert(proto, threads=1)
    names = [output.name for output in proto.graph.output]
    assert [output.name for output in inserted.model.graph.output] == names
    assert spatialonnx.evaluate(inserted.model, data, **OPTIONS).top1 is not None
    found = spatialonnx.search(inserted.model, data, eps=0.9, patterns="1001", **OPTIONS)
    assert found.complete and found.settings.strategy == "joint"
    assert found.results[0].verify.samples == 24
    deployed = spatialonnx.deploy(found.model, data, fuse="all", runs=1, **OPTIONS)
    assert [output.name for output in deployed.model.graph.output] == names
