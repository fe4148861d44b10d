"""Quantised sites as SpatialQConv nodes: the same bits, and ONNX Runtime's kernels around them."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from support.models import feeds
from support.quantized import FORMS, QuantizedNet, explicit, folded, pooled, residual_quantized

from spatialonnx.graph.fuse import explain_unfusable, fuse_sites
from spatialonnx.graph.insert import insert
from spatialonnx.graph.ops import find_fused, find_predictors, read_plan, write_plan
from spatialonnx.graph.site_equivalence import compare_quantized_sites
from spatialonnx.graph.sites import find_sites
from spatialonnx.plan.masks import SiteMask, full_mask, uniform_mask
from spatialonnx.runtime.session import Runtime, open_session

ONE = Runtime("cpu", 1)
FUSABLE = {
    "folded": folded,
    "explicit": explicit,
    "residual with two roundings": residual_quantized,
    "a pool between": pooled,
}


def inserted(proto: onnx.ModelProto, mask: SiteMask | None = None) -> onnx.ModelProto:
    spatial = insert(proto, threads=1).model
    if mask is None:
        return spatial
    return write_plan(spatial, {p.site: mask for p in find_predictors(spatial)})


def outputs(proto: onnx.ModelProto, images: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    (result,) = open_session(proto, ONE).run(images)
    return np.asarray(result)


@pytest.mark.parametrize("form", FUSABLE)
def test_full_masks_give_the_bits_of_the_quantised_model(form: str) -> None:
    proto = FUSABLE[form]()
    spatial = inserted(proto, full_mask(2))
    sites = [p.site for p in find_predictors(spatial)]
    images = feeds(proto, batch=5)
    expected = outputs(proto, images)
    for count in range(1, len(sites) + 1):
        for fused in itertools.combinations(sites, count):
            dense = [site for site in sites if site not in fused]
            got = outputs(fuse_sites(spatial, fused, dense), images)
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("form", FUSABLE)
@pytest.mark.parametrize("pattern", [1, 6, 9])
def test_deployed_equals_simulated_to_the_bit(form: str, pattern: int) -> None:
    masked = inserted(FUSABLE[form](), uniform_mask(2, pattern))
    sites = [p.site for p in find_predictors(masked)]
    images = feeds(masked, batch=5)
    np.testing.assert_array_equal(
        outputs(fuse_sites(masked, sites, []), images), outputs(masked, images)
    )


def test_thresholds_count_steps() -> None:
    mask = SiteMask(2, np.full((1, 1, 1), 1, np.uint16), np.array([0.12], np.float32))
    masked = inserted(folded(), mask)
    sites = [p.site for p in find_predictors(masked)]
    deployed = fuse_sites(masked, sites, [])
    # 0.12 is two steps of 0.05 above the zero point, which is a threshold of 0.1.
    for found in (read_plan(masked), {f.site: f.mask for f in find_fused(deployed)}):
        assert [float(m.threshold[0]) for m in found.values()] == pytest.approx([0.1, 0.1])
    images = feeds(masked, batch=5)
    np.testing.assert_array_equal(outputs(deployed, images), outputs(masked, images))
    plain = outputs(inserted(folded(), uniform_mask(2, 1)), images)
    assert not np.array_equal(outputs(masked, images), plain)


def test_no_transpose_is_left_between_onnx_runtimes_kernels(tmp_path: Path) -> None:
    masked = inserted(residual_quantized(), uniform_mask(2, 1))
    sites = [p.site for p in find_predictors(masked)]
    for fused in (sites, sites[:1], sites[1:], sites[::2]):
        dense = [site for site in sites if site not in fused]
        ops = optimized_ops(fuse_sites(masked, fused, dense), tmp_path)
        assert ops["SpatialQConv"] == len(fused)
        assert ops["QLinearConv"] == len(dense)
        assert ops["Conv"] == 0
        assert ops["Transpose"] == 2  # at the graph's ends


def test_predictions_leave_onnx_runtimes_8_bit_kernels_in_place(tmp_path: Path) -> None:
    proto = residual_quantized()
    before = optimized_ops(proto, tmp_path)
    after = optimized_ops(inserted(proto, uniform_mask(2, 1)), tmp_path)
    assert after["QLinearConv"] == before["QLinearConv"] == 4
    assert after["QLinearAdd"] == before["QLinearAdd"] == 2
    assert after["SpatialPredict"] == 4


def test_a_pool_between_sites_stays_channels_last(tmp_path: Path) -> None:
    masked = inserted(pooled(), uniform_mask(2, 1))
    sites = [p.site for p in find_predictors(masked)]
    ops = optimized_ops(fuse_sites(masked, sites, []), tmp_path)
    assert (ops["SpatialQConv"], ops["NhwcMaxPool"], ops["MaxPool"]) == (2, 1, 0)
    assert ops["Transpose"] == 2  # at the graph's ends
    for fused in (sites[:1], sites[1:]):
        dense = [site for site in sites if site not in fused]
        assert optimized_ops(fuse_sites(masked, fused, dense), tmp_path)["Transpose"] == 2


def test_tensors_of_fused_sites_take_names_that_are_free() -> None:
    net = QuantizedNet()
    site = net.qconv(net.image())
    x = net.quantize(site)[1]
    pool = net.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    pooled_map, x = net.quantize(pool)
    users = [f"{pooled_map}/nhwc", *(f"{site}/{end}" for end in ("B", "mask", "threshold"))]
    users += [f"{site}/{end}" for end in ("nhwc", "residual_nhwc", "predicted_nhwc")]
    for name in users:
        x = net.node("Identity" if "nhwc" in name else "Mul", x)
        node = net.nodes[-1]
        if "nhwc" in name:
            node.output[0] = name
            net.channels[name] = 4
            x = name
        else:
            net.weights.append(numpy_helper.from_array(np.array(1.5, np.float32), name))
            node.input.append(name)
    mask = SiteMask(2, uniform_mask(2, 9).patterns, np.array([0.1], np.float32))
    proto = inserted(net.finish(x), mask)
    fused = fuse_sites(proto, [site], [])
    onnx.checker.check_model(fused)
    images = feeds(proto, batch=5)
    assert np.array_equal(outputs(proto, images), outputs(fused, images))


@pytest.mark.parametrize("form", FUSABLE)
def test_zero_points_that_are_left_out_are_zero(form: str) -> None:
    """Of uint8 maps, int8 weights and int32 biases."""
    proto = FUSABLE[form]()
    zeros = {t.name for t in proto.graph.initializer if not numpy_helper.to_array(t).any()}
    left_out = 0
    for node in proto.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[2] in zeros:
            del node.input[2]
            left_out += 1
    assert left_out > 6
    masked = inserted(proto, SiteMask(2, uniform_mask(2, 9).patterns, np.array([0.1], np.float32)))
    sites = [p.site for p in find_predictors(masked)]
    assert explain_unfusable(masked) == {}
    fused = fuse_sites(masked, sites, [])
    images = feeds(masked, batch=5)
    assert np.array_equal(outputs(masked, images), outputs(fused, images))
    assert ("NhwcMaxPool" in {n.op_type for n in fused.graph.node}) == (form == "a pool between")


@pytest.mark.parametrize("stored", ["Constant", "Identity"])
def test_scales_are_read_however_they_are_stored(stored: str) -> None:
    proto = residual_quantized()
    weights = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    nodes = []
    for node in proto.graph.node:
        for slot in (1, 2) if node.op_type == "QuantizeLinear" else ():
            name, value = f"{node.name}/{slot}", weights[node.input[slot]]
            if stored == "Identity":
                nodes.append(helper.make_node("Identity", [node.input[slot]], [name]))
            elif slot == 1:
                nodes.append(helper.make_node("Constant", [], [name], value_float=float(value)))
            else:
                tensor = numpy_helper.from_array(value)
                nodes.append(helper.make_node("Constant", [], [name], value=tensor))
            node.input[slot] = name
        nodes.append(node)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del proto.graph.node[:]
    proto.graph.node.extend(copies)
    mask = SiteMask(2, uniform_mask(2, 9).patterns, np.array([0.1], np.float32))
    masked = inserted(proto, mask)
    assert [p.dtype for p in find_predictors(masked)] == ["uint8"] * 4
    fused = fuse_sites(masked, [p.site for p in find_predictors(masked)], [])
    assert {site.site for site in find_fused(fused)} == read_plan(masked).keys()
    assert read_plan(fused) == read_plan(masked)
    images = feeds(masked, batch=5)
    assert np.array_equal(outputs(masked, images), outputs(fused, images))


def test_a_pool_whose_zero_points_differ_stays() -> None:
    net = QuantizedNet()
    x = net.quantize(net.relu(net.qconv(net.image())), 0.05, 10)[1]
    pool = net.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = net.quantize(pool)[1]
    for node in net.nodes[-2:]:
        del node.input[2]
    masked = inserted(net.finish(net.quantize(net.qconv(x))[1]), uniform_mask(2, 1))
    fused = fuse_sites(masked, [p.site for p in find_predictors(masked)], [])
    images = feeds(masked, batch=5)
    assert np.array_equal(outputs(masked, images), outputs(fused, images))
    assert "MaxPool" in {node.op_type for node in fused.graph.node}


def test_an_input_of_unknown_type_is_said() -> None:
    net = QuantizedNet()
    quantized, x = net.quantize("x")
    same = net.node("Identity", quantized)
    x = net.node("DequantizeLinear", same, net.nodes[-2].input[1])
    net.channels[x] = 3
    masked = inserted(net.finish(net.quantize(net.qconv(x))[1]), full_mask(2))
    (reason,) = explain_unfusable(masked).values()
    assert reason.startswith("its input has no constant zero point")


def test_sites_before_a_pool_are_compared_too() -> None:
    masked = inserted(pooled(), uniform_mask(2, 1))
    sites = [p.site for p in find_predictors(masked)]
    images = next(iter(feeds(masked, batch=5).values()))
    found = list(compare_quantized_sites(masked, sites, images, ONE))
    assert [difference.site for difference in found] == sites
    assert all(d.largest == 0 and not d.counts_differ for d in found)


def optimized_ops(proto: onnx.ModelProto, folder: Path) -> Counter[str]:
    """The ops of the graph that ONNX Runtime runs at its default level."""
    from spatialonnx.runtime.ort import ort
    from spatialonnx.runtime.session import session_options

    options = session_options(ONE)
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ("between", "its ReLU stands between two QuantizeLinears"),
        ("residual with one rounding", "no QuantizeLinear stands between its Conv"),
        ("int8 maps", "its maps are int8"),
    ],
)
def test_what_stays_dense_says_why(form: str, reason: str) -> None:
    reasons = explain_unfusable(inserted(FORMS[form](), full_mask(2)))
    assert any(reason in text for text in reasons.values()), reasons


def test_macs_of_a_deployed_network_are_those_of_the_quantised_one() -> None:
    proto = residual_quantized()
    masked = inserted(proto, uniform_mask(2, 1))
    sites = [p.site for p in find_predictors(masked)]
    deployed = find_sites(fuse_sites(masked, sites, []))
    assert deployed.conv_macs == find_sites(proto).conv_macs
    assert [site.shape for site in deployed.sites] == [s.shape for s in find_sites(proto).sites]
