"""BatchNorm put back changes nothing, and folds into the same graph again."""

import numpy as np
import torch
from onnx import numpy_helper
from support.models import Net, feeds, plain, residual
from support.one_probe import masked
from torch import Tensor, nn

from spatialonnx.tuning.network import GraphNetwork
from spatialonnx.tuning.normalization import fold_norms, restore_norms


def prepare() -> tuple[GraphNetwork, Tensor]:
    proto = masked(residual())
    network = GraphNetwork(proto).eval()
    return network, torch.from_numpy(next(iter(feeds(proto, batch=16).values())))


def test_put_back_and_folded_it_is_the_same_network() -> None:
    network, images = prepare()
    before = network.learned()
    with torch.no_grad():
        (expected,) = network(images)
        # The stem, the inner Conv, and the two that meet in the Add.
        assert len(restore_norms(network, [images[:8], images[8:]])) == 4
        (got,) = network(images)
    assert torch.allclose(got, expected, atol=1e-4)
    after = fold_norms(network)
    assert after.keys() == before.keys()
    for name, value in before.items():
        assert np.allclose(after[name], value, atol=1e-5), name


def test_statistics_are_those_of_the_images() -> None:
    network, images = prepare()
    restore_norms(network, [images])
    with torch.no_grad():
        (expected,) = network(images)
        network.train()
        (got,) = network(images)
    # Statistics of this batch are those that were measured: training starts where the network is.
    assert torch.allclose(got, expected, atol=1e-3)


def test_what_training_changed_is_folded() -> None:
    network, images = prepare()
    restore_norms(network, [images])
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    network.train()
    for _ in range(3):
        optimizer.zero_grad()
        network(images)[0].square().mean().backward()
        optimizer.step()
    network.eval()
    with torch.no_grad():
        (expected,) = network(images)
    proto = masked(residual())
    folded = fold_norms(network)
    for tensor in proto.graph.initializer:
        if tensor.name in folded:
            tensor.CopyFrom(numpy_helper.from_array(folded[tensor.name], tensor.name))
    with torch.no_grad():
        (got,) = GraphNetwork(proto).eval()(images)
    assert torch.allclose(got, expected, atol=1e-4)


def test_filters_have_unit_norm() -> None:
    network, images = prepare()
    for name in restore_norms(network, [images]):
        weight = network.weight(name)
        assert weight is not None
        assert torch.allclose(weight.flatten(1).norm(dim=1), torch.ones(len(weight)), atol=1e-5)


def test_a_shared_or_bare_or_last_conv_keeps_its_form() -> None:
    net = Net()
    shared = net.constant(net.rng.normal(0, 0.3, (3, 3, 3, 3)))
    x = net.relu(net.conv("x", 3, weight=shared))
    x = net.relu(net.conv(x, 3, weight=shared))
    x = net.relu(net.conv(x, 3, bias=False))
    last = net.conv(x, 2, kernel=1)  # no ReLU and no Conv behind it
    proto = masked(net.model(last, rank=4))
    network = GraphNetwork(proto)
    (images,) = feeds(proto, batch=4).values()
    assert restore_norms(network, [torch.from_numpy(images)]) == []


def test_a_batch_norm_of_the_graph_learns_its_statistics() -> None:
    proto = masked(residual(), simplify=False)
    network = GraphNetwork(proto)
    (images,) = feeds(proto, batch=8).values()
    before = network.learned()
    restored = restore_norms(network, [torch.from_numpy(images)])
    assert len(restored) == 1, "only the stem has no BatchNormalization behind it"
    network.train()
    network(torch.from_numpy(images))
    after = network.learned()
    statistics = [t.input[3] for t in network.nodes if t.op_type == "BatchNormalization"]
    assert len(statistics) == 3
    assert all(not np.array_equal(before[n], after[n]) for n in statistics)


def test_dead_filters_are_not_enlarged_without_end() -> None:
    proto = masked(plain())
    weights = {t.name: t for t in proto.graph.initializer}
    conv = next(node for node in proto.graph.node if node.op_type == "Conv")
    values = numpy_helper.to_array(weights[conv.input[1]]).copy()
    values[0] = 0
    weights[conv.input[1]].CopyFrom(numpy_helper.from_array(values, conv.input[1]))
    network = GraphNetwork(proto).eval()
    (images,) = feeds(proto, batch=4).values()
    restore_norms(network, [torch.from_numpy(images)])
    with torch.no_grad():
        assert bool(network(torch.from_numpy(images))[0].isfinite().all())
    assert all(isinstance(norm, nn.BatchNorm2d) for _, norm in network.named_norms())
