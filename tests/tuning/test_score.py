"""What training takes as the logits of a network with other outputs than one row of classes."""

import numpy as np
import pytest
import torch
from onnx import helper
from support.models import Net

from spatialonnx.errors import ModelError, UsageError
from spatialonnx.graph.index import GraphIndex
from spatialonnx.tuning.network import GraphNetwork
from spatialonnx.tuning.score import find_score

IMAGES = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 3, 8, 8)).astype(np.float32))


def two_heads(end: str | None = None, columns: int = 4, **attributes: object):
    """A network with an embedding first and answers second, and its answers before their end."""
    net = Net()
    features = net.node("Flatten", net.node("GlobalAveragePool", net.relu(net.conv("x", 6))))
    embedding = net.node("MatMul", features, net.constant(net.rng.normal(size=(6, 9))))
    logits = net.node("MatMul", features, net.constant(net.rng.normal(size=(6, columns))))
    answers = net.node(end, logits, **attributes) if end else logits
    proto = net.model(embedding)
    proto.graph.output.append(helper.make_tensor_value_info(answers, 1, None))
    return proto, logits


@pytest.mark.parametrize("end", [None, "Softmax", "LogSoftmax"])
def test_the_output_that_is_scored_is_learned(end):
    proto, logits = two_heads(end)
    network = GraphNetwork(proto, scored=1).eval()
    outputs = network(IMAGES)
    got = network.logits(IMAGES)
    assert outputs[0].shape == (5, 9) and got.shape == (5, 4)
    wanted = outputs[1] if end is None else got.softmax(1) if end == "Softmax" else None
    if wanted is not None:
        torch.testing.assert_close(got if end is None else wanted, outputs[1])
    else:
        torch.testing.assert_close(got.log_softmax(1), outputs[1])
    assert find_score(GraphIndex(proto), proto.graph.output[1].name).tensor == logits


@pytest.mark.parametrize("decision", [0.5, 0.2, 0.9])
def test_one_column_of_probabilities_is_two_classes(decision):
    proto, _ = two_heads("Sigmoid", columns=1)
    network = GraphNetwork(proto, scored=1, decision=decision).eval()
    said = network(IMAGES)[1]
    answers = network.logits(IMAGES).argmax(1)
    assert answers.tolist() == (said > decision).flatten().int().tolist()
    if decision == 0.5:  # the softmax of both is what the Sigmoid gives
        torch.testing.assert_close(network.logits(IMAGES).softmax(1)[:, 1:], said)


@pytest.mark.parametrize("shape", [(5, 1), (5,), (5, 1, 1, 1)])
def test_one_column_of_logits_is_two_classes(shape):
    proto, _ = two_heads(columns=1)
    score = find_score(GraphIndex(proto), proto.graph.output[1].name, 1.5)
    values = torch.tensor([0.0, 1.0, 1.4, 1.6, 9.0]).reshape(shape)
    assert score.logits(values).argmax(1).tolist() == [0, 0, 0, 1, 1]


def test_what_has_no_logits_is_refused():
    proto, _ = two_heads()
    score = find_score(GraphIndex(proto), proto.graph.output[0].name)
    with pytest.raises(ModelError, match=r"shape \[5, 4, 2, 2\].*--score-output"):
        score.logits(torch.zeros(5, 4, 2, 2))
    proto, _ = two_heads("Sigmoid", columns=1)
    for decision in (0.0, 1.0, 7.0):
        with pytest.raises(UsageError, match=r"give 0\.5"):
            find_score(GraphIndex(proto), proto.graph.output[1].name, decision)
