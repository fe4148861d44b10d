"""Activations are called by their names, however they are written."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from spatialonnx.graph.sites import find_sites


def network(nodes):
    """A Conv, then nodes from ``c`` to ``y``; constants are the names that are numbers."""
    made = {name for node in nodes for name in node.output} | {"c"}
    scalars = {name for node in nodes for name in node.input if name and name not in made}
    weight = np.ones((2, 1, 3, 3), np.float32)
    constants = [numpy_helper.from_array(weight, "w")]
    constants += [numpy_helper.from_array(np.float32(name), name) for name in sorted(scalars)]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["c"], "conv"), *nodes],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2, 6, 6])],
        constants,
    )
    return helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 20)])


def chain(*steps):
    return [helper.make_node(op, inputs.split(), [output]) for op, inputs, output in steps]


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("SiLU", [("Sigmoid", "c", "s"), ("Mul", "c s", "y")]),
        ("SiLU", [("Sigmoid", "c", "s"), ("Mul", "s c", "y")]),
        ("HardSwish", [("HardSwish", "c", "y")]),
        ("HardSwish", [("HardSigmoid", "c", "s"), ("Mul", "c s", "y")]),
        (
            "HardSwish",
            [("Add", "c 3", "a"), ("Clip", "a 0 6", "b"), ("Mul", "c b", "m"), ("Div", "m 6", "y")],
        ),
        ("Gelu", [("Gelu", "c", "y")]),
        (
            "GELU",
            [
                ("Div", "c 1.4142135", "d"),
                ("Erf", "d", "e"),
                ("Add", "e 1", "a"),
                ("Mul", "c a", "m"),
                ("Mul", "m 0.5", "y"),
            ],
        ),
        (
            "GELU",
            [
                ("Pow", "c 3", "p"),
                ("Mul", "p 0.044715", "q"),
                ("Add", "c q", "a"),
                ("Mul", "a 0.7978846", "b"),
                ("Tanh", "b", "t"),
                ("Add", "t 1", "u"),
                ("Mul", "c 0.5", "h"),
                ("Mul", "h u", "y"),
            ],
        ),
        ("Mish", [("Softplus", "c", "s"), ("Tanh", "s", "t"), ("Mul", "c t", "y")]),
        ("PRelu", [("PRelu", "c 0.1", "y")]),
        ("LeakyRelu", [("LeakyRelu", "c", "y")]),
    ],
)
def test_the_reason_names_the_activation(name, steps):
    proto = network(chain(*steps))
    onnx.checker.check_model(proto)
    (skipped,) = find_sites(proto).skipped
    assert skipped.reason == f"a {name} follows it, not a ReLU"


@pytest.mark.parametrize(
    "steps",
    [
        [("Mul", "c c", "y")],
        [("Neg", "c", "a"), ("Mul", "c a", "y")],
        [("Softmax", "c", "y")],
        [("Relu", "c", "a"), ("Add", "c a", "y")],
    ],
)
def test_other_readers_are_no_activation(steps):
    (skipped,) = find_sites(network(chain(*steps))).skipped
    names = ("SiLU", "HardSwish", "GELU", "Mish")
    assert not any(name in skipped.reason for name in names)


def test_a_relu_is_still_a_site():
    assert find_sites(network(chain(("Relu", "c", "y")))).sites
