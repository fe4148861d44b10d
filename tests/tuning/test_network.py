"""A graph in torch against ONNX Runtime: every mess an exporter leaves, masked and dense."""

import numpy as np
import onnx
import pytest
import torch
from support.models import MESS, Net, channels_last, depthwise, feeds, messy, plain, residual
from support.networks import keras_mobilenet, squeeze_excite
from support.one_probe import masked
from support.zoo import light_model

from spatialonnx.errors import ModelError
from spatialonnx.graph.ops import find_predictors, read_plan
from spatialonnx.graph.sites import find_sites
from spatialonnx.measure.evaluate import Network
from spatialonnx.plan.masks import SiteMask, uniform_mask
from spatialonnx.runtime.session import Runtime
from spatialonnx.tuning.network import GraphNetwork
from spatialonnx.tuning.run import write_weights

MODELS = {
    "plain": plain,
    "residual": residual,
    "depthwise": depthwise,
    "channels last": channels_last,
    "Keras, by tf2onnx": keras_mobilenet,
    "squeeze and excitation": squeeze_excite,
    **{mess: lambda mess=mess: messy(mess) for mess in MESS if mess != "Unsqueeze/Squeeze"},
}

SIMPLIFIED_ONLY = (
    "computed constants",
    "no-op Cast",
    "Transpose island",
    "channels last",
    "Keras, by tf2onnx",
)
"""Without simplification these have no site."""


CASES = [(name, True) for name in MODELS] + [
    (name, False) for name in MODELS if name not in SIMPLIFIED_ONLY
]


@pytest.mark.parametrize(("name", "simplify"), CASES)
def test_outputs_and_macs_are_those_of_onnx_runtime(name: str, simplify: bool) -> None:
    proto = masked(MODELS[name](), simplify=simplify)
    plan = read_plan(proto)
    (images,) = feeds(proto, batch=3).values()
    network = GraphNetwork(proto, plan).eval()
    runtime = Network(proto, Runtime())
    for chosen in (plan, {}):
        network.predicts = bool(chosen)
        expected = runtime.run(images, chosen)
        with torch.no_grad():
            (got,) = network(torch.from_numpy(images))
        assert np.allclose(got.numpy(), expected[runtime.output_names[0]], atol=1e-5)
        if chosen:
            saved = sum(
                int(expected[f"{site}/skipped"].sum())
                * network.site_macs[site]
                / np.prod(network.site_shapes[site])
                for site in plan
            )
            share = saved / (network.conv_macs * len(images))
            assert float(network.kept_share()) == pytest.approx(1 - share, abs=1e-6)


def test_thresholds_of_the_plan_count() -> None:
    proto = masked(residual())
    channels = [site.shape[0] for site in find_sites(proto).sites]
    plan = {
        site: SiteMask(2, mask.patterns, np.linspace(0, 0.8, count, dtype=np.float32))
        for (site, mask), count in zip(read_plan(proto).items(), channels, strict=True)
    }
    (images,) = feeds(proto, batch=3).values()
    runtime = Network(proto, Runtime())
    network = GraphNetwork(proto, plan).eval()
    with torch.no_grad():
        (got,) = network(torch.from_numpy(images))
    wanted = runtime.run(images, plan)[runtime.output_names[0]]
    assert np.allclose(got.numpy(), wanted, atol=1e-5)
    without = runtime.run(images, read_plan(proto))[runtime.output_names[0]]
    assert not np.allclose(wanted, without, atol=1e-3)


@pytest.mark.parametrize("architecture", ["squeezenet", "shufflenet"])
def test_architectures_of_the_model_zoo(architecture: str) -> None:
    proto = light_model(architecture)
    runtime = Network(proto, Runtime())
    (images,) = feeds(proto, batch=1, size=224).values()
    network = GraphNetwork(proto).eval()
    with torch.no_grad():
        (got,) = network(torch.from_numpy(images))
    wanted = runtime.run(images, {})[runtime.output_names[0]]
    assert np.abs(got.numpy() - wanted).max() <= 1e-3 * np.abs(wanted).max()


def test_every_weight_learns_and_nothing_else() -> None:
    proto = masked(residual())
    network = GraphNetwork(proto, read_plan(proto))
    (images,) = feeds(proto, batch=3).values()
    (logits,) = network(torch.from_numpy(images))
    logits.square().sum().backward()
    assert network.frozen == ()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())
    learned = network.learned()
    weights = {t.name for t in proto.graph.initializer}
    assert learned.keys() <= weights
    ours = {n for p in find_predictors(proto) for n in (p.mask, p.patch_size)}
    assert weights - learned.keys() == ours


def test_an_arithmetic_constant_is_frozen_and_named() -> None:
    proto = masked(messy("Mul/Add"), simplify=False)
    assert len(GraphNetwork(proto).frozen) == 6


def test_a_missing_op_is_named() -> None:
    net = Net()
    x = net.relu(net.conv("x", 4))
    proto = net.model(net.node("Det", x))
    with pytest.raises(ModelError, match=r"cannot train through Det \(node n_det_4\).*attach"):
        GraphNetwork(proto)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("last", [False, True])
def test_convs_run_in_the_layout_of_the_network(channels: int, last: bool) -> None:
    net = Net(("n", channels, 8, 8))
    inner = net.conv(net.relu(net.conv("x", 4)), 8, kernel=1, strides=[2, 2], pads=[0] * 4)
    network = GraphNetwork(net.model(net.head(net.relu(inner))))
    if last:
        network.use_channels_last()
    layout = torch.channels_last if last else torch.contiguous_format
    seen = []
    network.observer = lambda _, y: seen.append(y.is_contiguous(memory_format=layout))
    images = torch.randn(4, channels, 8, 8)
    network(images)
    network(images.to(memory_format=torch.channels_last))
    assert seen == [True] * 4


def test_what_a_constant_node_learned_is_written_whatever_holds_it() -> None:
    net = Net(("n", 1, 7, 7))
    conv = net.conv("x", 4, bias=False)
    net.nodes[-1].input.append("bias")
    values = [0.1, 0.2, -0.1, 0.3]
    net.nodes.insert(0, onnx.helper.make_node("Constant", [], ["bias"], value_floats=values))
    proto = masked(net.model(net.head(net.relu(conv))), simplify=False)
    network = GraphNetwork(proto, read_plan(proto)).eval()
    bias = network.weight("bias")
    assert bias is not None
    with torch.no_grad():
        bias += 1
        images = torch.randn(2, 1, 7, 7)
        network.predicts = False
        (expected,) = network(images)
    written = Network(write_weights(proto, network), Runtime())
    got = written.run(images.numpy(), {})[written.output_names[0]]
    assert np.allclose(got, expected.numpy(), atol=1e-5)


def test_an_op_of_another_domain_is_named() -> None:
    net = Net()
    x = net.relu(net.conv("x", 4))
    net.nodes.append(onnx.helper.make_node("Odd", [x], ["y"], name="n", domain="mine"))
    with pytest.raises(ModelError, match=r"cannot train through mine\.Odd"):
        GraphNetwork(net.model("y"))


def test_maps_without_a_size_have_no_share_of_macs() -> None:
    proto = masked(plain(shape=("n", 3, "h", "w")))
    with pytest.raises(ModelError, match="fixed height and width"):
        GraphNetwork(proto)


def test_the_model_is_left_as_it_is() -> None:
    proto = masked(plain())
    before = proto.SerializeToString()
    network = GraphNetwork(proto, dict.fromkeys(read_plan(proto), uniform_mask(2, 9)))
    (images,) = feeds(proto, batch=2).values()
    network(torch.from_numpy(images))
    assert proto.SerializeToString() == before


def test_logits_are_taken_before_a_last_softmax() -> None:
    net = Net()
    logits = net.head(net.relu(net.conv("x", 4)))
    proto = net.model(net.node("Softmax", logits))
    network = GraphNetwork(proto).eval()
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.allclose(network.logits(images).softmax(1), network(images)[0])


def test_an_output_without_classes_has_no_logits() -> None:
    net = Net()
    network = GraphNetwork(net.model(net.relu(net.conv("x", 4)), rank=4))
    with pytest.raises(ModelError, match=r"not \[samples, classes\]"):
        network.logits(torch.randn(2, 3, 8, 8))
