"""Fusing sites: the graph it leaves, and that fused computes what simulated does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from support.masked import DIAGONAL, masked, names
from support.models import MESS, Net, depthwise, feeds, plain, residual

from spatialonnx.errors import ModelError
from spatialonnx.graph.fuse import dense_form, explain_unfusable, fuse_sites
from spatialonnx.graph.ops import (
    CONV,
    DOMAIN,
    PREDICT,
    find_fused,
    find_predictors,
    read_plan,
    write_plan,
)
from spatialonnx.graph.site_equivalence import compare_sites
from spatialonnx.graph.sites import find_sites
from spatialonnx.model.metadata import set_metadata
from spatialonnx.plan.masks import SiteMask, uniform_mask
from spatialonnx.runtime.session import Runtime, open_session

ONE = Runtime("cpu", 1)
FOLDABLE = sorted(
    set(MESS) - {"Transpose island", "Unsqueeze/Squeeze", "no-op Cast", "computed constants"}
)
NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {
    "plain": plain,
    "residual with a Conv in the shortcut": lambda: residual(project=True),
    "residual with a 1x1 Conv in the shortcut": lambda: residual(project=True, kernel=1),
    "residual": lambda: residual(project=False),
    "depthwise, groups, strides, ReLU6": depthwise,
    "Clip as an attribute": lambda: depthwise(opset=10),
}


def ops(proto: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in proto.graph.node)


def check_equal(proto: onnx.ModelProto, batch: int = 3) -> None:
    """Every site, and the whole model, as simulated."""
    sites = names(proto)
    images = feeds(proto, batch=batch)
    differences = list(compare_sites(proto, sites, next(iter(images.values())), ONE))
    assert [d.site for d in differences] == sites
    for difference in differences:
        assert difference.is_equal, difference
        assert difference.patches > difference.left_out
    fused = fuse_sites(proto, sites, [])
    onnx.checker.check_model(fused)
    expected = open_session(proto, ONE).run(images)
    for a, b in zip(expected, open_session(fused, ONE).run(images), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * float(np.abs(a).max()))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("simplify", [True, False], ids=["simplified", "as exported"])
def test_fused_is_simulated(network: str, simplify: bool) -> None:
    check_equal(masked(NETWORKS[network](), simplify=simplify))


@pytest.mark.parametrize("mess", FOLDABLE)
def test_what_exporters_leave_before_a_relu_is_folded_into_the_weights(mess: str) -> None:
    net = Net()
    proto = net.model(net.head(net.relu(MESS[mess](net, net.conv("x", 4)))))
    check_equal(masked(proto, simplify=False))


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 4, 4), (4, 1, 1), (4, 4, 4)])
def test_masks_of_every_granularity_are_carried_over(shape: tuple[int, int, int]) -> None:
    patterns = np.random.default_rng(0).integers(1, 16, shape).astype(np.uint16)
    proto = masked(plain(), SiteMask(2, patterns))
    check_equal(proto)
    assert read_plan(fuse_sites(proto, names(proto), [])) == read_plan(proto)


def test_a_fused_site_is_one_node_with_the_name_and_output_of_its_predictor() -> None:
    proto = masked(residual(project=False))
    before = {p.site: p.output for p in find_predictors(proto)}
    fused = fuse_sites(proto, names(proto), [])
    assert {f.site: f.output for f in find_fused(fused)} == before
    assert not {"Conv", "Relu", "Add", "BatchNormalization", PREDICT} & ops(fused).keys()
    assert ops(fused)[CONV] == len(before)
    assert {f.name for f in find_sites(fused).sites} == before.keys()


def test_of_two_convs_that_meet_the_other_one_stays() -> None:
    proto = masked(residual(project=True, kernel=1))
    fused = fuse_sites(proto, names(proto), [])
    assert ops(fused)["Conv"] == 1
    (conv,) = [node for node in fused.graph.node if node.op_type == "Conv"]
    (last,) = [n for n in fused.graph.node if n.op_type == CONV and len(n.input) == 5]
    assert conv.output[0] == last.input[4]


def test_sites_are_fused_dense_or_left_as_they_are() -> None:
    proto = masked(plain(3))
    first, second, third = names(proto)
    result = fuse_sites(proto, [first], [second])
    assert [f.site for f in find_fused(result)] == [first]
    assert names(result) == [third]
    assert ops(result)["Conv"] == 2
    images = feeds(proto)
    expected = fuse_sites(proto, [], [])
    full = write_plan(expected, {**read_plan(expected), second: uniform_mask(2, 15)})
    for a, b in zip(
        open_session(full, ONE).run(images), open_session(result, ONE).run(images), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_dense_form_is_the_network_that_predictions_were_inserted_into(network: str) -> None:
    original = NETWORKS[network]()
    proto = masked(original)
    dense = dense_form(proto)
    onnx.checker.check_model(dense)
    assert all(node.domain != DOMAIN for node in dense.graph.node)
    assert all(entry.domain != DOMAIN for entry in dense.opset_import)
    images = feeds(original)
    for a, b in zip(
        open_session(original, ONE).run(images), open_session(dense, ONE).run(images), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * float(np.abs(a).max()))


def test_inputs_outputs_and_metadata_stay_and_unused_weights_go() -> None:
    proto = masked(plain())
    set_metadata(proto, stage="masked", search={"eps": 0.01})
    fused = fuse_sites(proto, names(proto), [])
    assert list(fused.graph.input) == list(proto.graph.input)
    assert list(fused.graph.output) == list(proto.graph.output)
    assert list(fused.metadata_props) == list(proto.metadata_props)
    used = {name for node in fused.graph.node for name in node.input}
    assert {tensor.name for tensor in fused.graph.initializer} <= used
    written = {name for node in fused.graph.node for name in node.output}
    assert {value.name for value in fused.graph.value_info} <= written


def test_a_weight_that_another_conv_shares_stays() -> None:
    net = Net(("n", 4, 8, 8))
    weight = net.constant(net.rng.normal(0, 0.2, (4, 4, 3, 3)))
    first = net.relu(net.conv("x", 4, weight=weight))
    proto = masked(net.model(net.head(net.relu(net.conv(first, 4, weight=weight)))), simplify=False)
    one, other = names(proto)
    fused = fuse_sites(proto, [one], [other])
    assert weight in {tensor.name for tensor in fused.graph.initializer}
    open_session(fused, ONE).run(feeds(fused))


@pytest.mark.parametrize("suffix", ["W", "mask", "threshold", "B"])
def test_constants_of_a_fused_site_take_names_that_are_free(suffix: str) -> None:
    net = Net()
    x = net.relu(net.conv("x", 3))
    taken = f"{x}/{suffix}"
    shape = (3,) if suffix == "B" else (3, 3, 3, 3)
    net.weights.append(numpy_helper.from_array(net.rng.normal(0, 1, shape).astype("f4"), taken))
    if suffix == "B":
        y = net.conv(x, 3, bias=False)
        net.nodes[-1].input.append(taken)
    else:
        y = net.conv(x, 3, weight=taken)
    mask = SiteMask(2, DIAGONAL.patterns, np.array([0.1], np.float32))
    proto = masked(net.model(net.head(net.relu(y))), mask, simplify=False)
    fused = fuse_sites(proto, [x], [])
    (node,) = [node for node in fused.graph.node if node.op_type == CONV]
    assert taken not in node.input
    assert {f"{x}/{end}" for end in {"W", "B", "mask", "threshold"} - {suffix}} < {*node.input}
    images = feeds(proto)
    for a, b in zip(
        open_session(proto, ONE).run(images), open_session(fused, ONE).run(images), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_site_that_reads_a_tensor_named_y_is_compared() -> None:
    net = Net()
    net.node("MaxPool", "x", kernel_shape=[2, 2])
    net.nodes[-1].output[0] = "y"
    net.channels["y"] = 3
    check_equal(masked(net.model(net.head(net.relu(net.conv("y", 4)))), simplify=False))


def test_a_relu_that_is_an_output_of_the_model_keeps_its_name() -> None:
    net = Net()
    proto = net.model(net.relu(net.conv("x", 4)), rank=4)
    check_equal(masked(proto))
    dense = dense_form(masked(proto))
    assert [value.name for value in dense.graph.output] == [proto.graph.output[0].name]


def test_the_bound_of_a_clip_is_an_attribute() -> None:
    net = Net()
    proto = masked(net.model(net.head(net.clip(net.conv("x", 4), 0, 0.5))))
    fused = fuse_sites(proto, names(proto), [])
    (node,) = [node for node in fused.graph.node if node.op_type == CONV]
    assert helper.get_attribute_value(
        next(a for a in node.attribute if a.name == "clip_max")
    ) == pytest.approx(0.5)
    check_equal(proto)


def test_a_residual_that_is_stretched_is_not_fused() -> None:
    net = Net()
    stem = net.relu(net.conv("x", 4))
    pooled = net.node("GlobalAveragePool", stem)
    proto = masked(net.model(net.head(net.relu(net.node("Add", net.conv(stem, 4), pooled)))))
    stem_site, site = names(proto)
    assert explain_unfusable(proto) == {site: "its residual has another shape than its map"}
    with pytest.raises(ModelError, match="cannot be fused: its residual"):
        fuse_sites(proto, [site], [])
    assert [f.site for f in find_fused(fuse_sites(proto, [stem_site], [site]))] == [stem_site]


def test_a_predictor_without_a_conv_is_not_fused_but_can_be_dense() -> None:
    proto = masked(plain(1))
    (site,) = names(proto)
    for node in proto.graph.node:
        if node.op_type == "Relu":
            node.op_type = "Abs"
    assert "no Conv" in explain_unfusable(proto)[site]
    assert ops(fuse_sites(proto, [], [site]))[PREDICT] == 0


def test_a_site_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ModelError, match="no SpatialPredict at site nowhere"):
        fuse_sites(masked(plain()), ["nowhere"], [])


CROPPED = "its stride is so far beyond its kernel that auto_pad crops the map"


@pytest.mark.parametrize("padding", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize(
    ("kernel", "stride", "fusable"),
    [
        (1, 1, True),
        (1, 2, True),
        (2, 3, True),
        (4, 3, True),
        (1, 3, False),
        (2, 4, False),
        (3, 10, False),
    ],
)
def test_auto_pad_equals_onnxruntime_or_is_not_fused(
    padding: str, kernel: int, stride: int, fusable: bool
) -> None:
    for size in (12, 13, 14, 15):
        net = Net(("n", 3, size, size + 7))
        x = net.conv("x", 4, kernel=kernel, pads=None, auto_pad=padding, strides=[stride] * 2)
        proto = masked(net.model(net.head(net.relu(x))), uniform_mask(2, 0b0001))
        (site,) = names(proto)
        assert explain_unfusable(proto) == ({} if fusable else {site: CROPPED})
        if fusable:
            check_equal(proto)
