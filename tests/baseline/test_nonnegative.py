"""Which inputs are known to be >= 0, from the graph and from the data."""

import numpy as np
import pytest
from support.comparing import make_experiment
from support.models import Net, depthwise, residual
from support.trained import draw_images

from spatialonnx.baseline.nonnegative import find_candidates, find_nonnegative, measure_least
from spatialonnx.data.arrays import TensorDataset


def passes(build):
    """Whether what stands between a ReLU and the next Conv keeps values >= 0."""
    net = Net()
    relu = net.relu(net.conv("x", 4))
    made = build(net, relu)
    return made in find_nonnegative(net.model(made, rank=4))


KEEPS = {
    "nothing": lambda net, x: x,
    "MaxPool": lambda net, x: net.node("MaxPool", x, kernel_shape=[2, 2]),
    "AveragePool": lambda net, x: net.node("AveragePool", x, kernel_shape=[2, 2]),
    "Concat": lambda net, x: net.node("Concat", x, net.clip(net.conv("x", 4)), axis=1),
    "Add": lambda net, x: net.node("Add", x, net.constant(np.ones((1, 4, 1, 1)))),
    "Mul": lambda net, x: net.node("Mul", x, net.node("Sigmoid", net.conv("x", 4))),
    "Max": lambda net, x: net.node("Max", x, "x"),
    "Identity": lambda net, x: net.node("Identity", x),
    "Pad": lambda net, x: net.node("Pad", x, net.constant([0, 0, 1, 1] * 2, "pads", np.int64)),
    "Clip from 1": lambda net, x: net.clip(net.conv(x, 4), 1.0, 2.0),
}
LOSES = {
    "Conv": lambda net, x: net.conv(x, 4),
    "Add of the image": lambda net, x: net.node("Add", x, net.conv("x", 4)),
    "Add of a negative constant": lambda net, x: net.node("Add", x, net.constant([-1.0])),
    "Sub": lambda net, x: net.node("Sub", x, net.constant([1.0])),
    "Clip from -1": lambda net, x: net.clip(net.conv(x, 4), -1.0, 1.0),
    "LeakyRelu": lambda net, x: net.node("LeakyRelu", net.conv(x, 4)),
    "Pad with -1": lambda net, x: net.node(
        "Pad", x, net.constant([0, 0, 1, 1] * 2, "pads", np.int64), net.constant(-1.0)
    ),
}


@pytest.mark.parametrize("name", KEEPS)
def test_what_stays_nonnegative(name):
    assert passes(KEEPS[name])


@pytest.mark.parametrize("name", LOSES)
def test_what_may_become_negative(name):
    assert not passes(LOSES[name])


@pytest.mark.parametrize("build", [residual, depthwise])
def test_only_the_first_conv_reads_the_image(build, tmp_path):
    proto = build()
    found = find_nonnegative(proto)
    readers = [n.input[0] for n in proto.graph.node if n.op_type == "Conv"]
    assert [name for name in readers if name not in found] == ["x"]


def test_a_negative_image_leaves_its_site_out_with_the_reason(tiny):
    experiment = make_experiment(tiny)
    found = find_candidates(experiment)
    first, *others = (site for site in (*found.left_out, *found.names))
    images = experiment.dataset.images(experiment.split.search)
    assert found.left_out == {
        first: f"its input goes down to {images.min():.3g}, and must not be negative"
    }
    assert [candidate.proof for candidate in found.taken] == ["graph"] * len(others)


def test_an_image_that_is_never_negative_is_established_from_the_data(tiny):
    x, y = draw_images(240)
    experiment = make_experiment(tiny, dataset=TensorDataset("images", np.abs(x), y))
    found = find_candidates(experiment)
    assert not found.left_out
    assert found.taken[0].proof == "data: >= 0 on 72 search images"
    assert [candidate.proof for candidate in found.taken[1:]] == ["graph"] * 2


def test_least_values_are_those_of_the_tensors(tiny):
    experiment = make_experiment(tiny)
    conv = next(n.output[0] for n in experiment.model.proto.graph.node if n.op_type == "Conv")
    least = measure_least(experiment, ["x", conv])
    assert least["x"] == experiment.dataset.images(experiment.split.search).min()
    assert least[conv] < 0
    x, y = draw_images(240)
    x[experiment.split.search[3], 0, 0, 0] = np.nan
    experiment = make_experiment(tiny, dataset=TensorDataset("images", x, y))
    assert measure_least(experiment, ["x", conv]) == {"x": -np.inf, conv: -np.inf}
