"""Which Convs are sites, and why the others are none."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.models import MESS, Net, channels_last, depthwise, messy, plain, residual

from spatialonnx.errors import ModelError
from spatialonnx.graph.index import GraphIndex
from spatialonnx.graph.ops import DOMAIN, mask_name, patch_size_name
from spatialonnx.graph.shapes import infer_shapes
from spatialonnx.graph.site_match import SiteMatch, match_sites
from spatialonnx.graph.sites import SiteReport, find_sites, require_sites


def only_reason(proto: onnx.ModelProto) -> str:
    report = find_sites(proto)
    assert report.sites == ()
    (skipped,) = report.skipped
    return skipped.reason


def only_chain(proto: onnx.ModelProto) -> SiteMatch:
    matches, _ = match_sites(GraphIndex(proto), infer_shapes(proto))
    (match,) = matches
    return match


def with_predictors(proto: onnx.ModelProto, *sites: str) -> onnx.ModelProto:
    """A copy with SpatialPredict nodes behind some ReLUs, made by hand."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    nodes = list(copy.graph.node)
    for site in sites:
        written = f"{site}/predicted"
        for node in nodes:
            node.input[:] = [written if name == site else name for name in node.input]
        inputs = [site, mask_name(site), patch_size_name(site)]
        node = helper.make_node("SpatialPredict", inputs, [written], name=site, domain=DOMAIN)
        position = next(i for i, n in enumerate(nodes) if site in n.output)
        nodes.insert(position + 1, node)
        for name, value in ((inputs[1], np.full((1, 1, 1), 15, np.uint16)), (inputs[2], 2)):
            copy.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    copy.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return copy


# Sites


def test_conv_then_relu() -> None:
    report = find_sites(plain(depth=2))
    assert [(s.shape, s.macs_per_output, s.note) for s in report.sites] == [
        ((4, 8, 8), 27, ""),
        ((4, 8, 8), 36, ""),
    ]
    assert report.sites[0].name.startswith("relu")
    assert report.sites[0].conv.startswith("n_conv")
    assert report.skipped == ()
    assert report.conv_macs == 4 * 64 * (27 + 36)


TAKEN_AS_THEY_ARE = sorted(
    set(MESS) - {"Transpose island", "Unsqueeze/Squeeze", "no-op Cast", "computed constants"}
)


@pytest.mark.parametrize("mess", TAKEN_AS_THEY_ARE)
def test_what_exporters_leave_between_is_part_of_the_site(mess: str) -> None:
    report = find_sites(messy(mess))
    assert [site.note for site in report.sites] == ["", "", "residual Add"]
    assert report.skipped == ()


@pytest.mark.parametrize("opset", [6, 7, 9, 10, 11, 13, 17, 21])
@pytest.mark.parametrize("high", [6.0, None])
def test_clip_from_zero_is_a_relu_in_every_opset(opset: int, high: float | None) -> None:
    net = Net(opset=opset)
    match = only_chain(net.model(net.clip(net.conv("x", 4), 0.0, high), rank=4))
    assert match.clip_max == (math.inf if high is None else high)


def test_clip_from_minus_zero_is_a_relu() -> None:
    net = Net()
    assert only_chain(net.model(net.clip(net.conv("x", 4), -0.0, 6.0), rank=4)).clip_max == 6


def test_several_readers_of_the_relu_do_not_matter() -> None:
    net = Net()
    relu = net.relu(net.conv("x", 4))
    both = net.node("Mul", net.node("Sigmoid", relu), net.node("Tanh", relu))
    assert len(find_sites(net.model(both, relu, rank=4)).sites) == 1


def test_shared_weights_are_two_sites() -> None:
    net = Net(("n", 4, 8, 8))
    weight = net.constant(np.ones((4, 4, 3, 3)))
    x = net.relu(net.conv("x", 4, weight=weight))
    report = find_sites(net.model(net.relu(net.conv(x, 4, weight=weight)), rank=4))
    assert [site.macs_per_output for site in report.sites] == [36, 36]


def test_depthwise_and_grouped_convs_cost_what_they_compute() -> None:
    report = find_sites(depthwise())
    assert [(s.macs_per_output, s.shape) for s in report.sites] == [
        (3, (8, 8, 8)),
        (9, (8, 8, 8)),
        (36, (8, 4, 4)),
    ]


def test_a_residual_identity_is_noted() -> None:
    report = find_sites(residual(project=False))
    assert [site.note for site in report.sites] == ["", "", "residual Add"]
    assert report.skipped == ()


def test_of_two_convs_the_costlier_is_charged() -> None:
    report = find_sites(residual(kernel=1))
    charged = report.sites[2]
    assert charged.macs_per_output == 36
    (other,) = report.skipped
    assert charged.note == f"residual Add with {other.conv}, which stays dense"
    assert f"{charged.conv} has more MACs" in other.reason
    assert report.conv_macs == 64 * 4 * (27 + 36 + 36 + 4)


def test_the_costlier_is_charged_though_it_comes_later() -> None:
    report = find_sites(residual(kernel=5))
    assert report.sites[2].macs_per_output == 100
    assert "has more MACs" in report.skipped[0].reason


def test_of_equal_convs_the_first_is_charged() -> None:
    proto = residual(kernel=3)
    convs = [node.name for node in proto.graph.node if node.op_type == "Conv"]
    report = find_sites(proto)
    assert report.sites[2].conv == convs[2]
    assert [s.conv for s in report.skipped] == [convs[3]]
    assert "comes first" in report.skipped[0].reason


def test_a_two_input_sum_is_a_residual_add() -> None:
    net = Net(("n", 4, 8, 8))
    match = only_chain(net.model(net.relu(net.node("Sum", "x", net.conv("x", 4))), rank=4))
    assert match.residual == "x"
    assert match.add is not None


def test_a_conv_without_a_name_goes_by_its_output() -> None:
    proto = plain(depth=1)
    conv = proto.graph.node[0]
    conv.name = ""
    assert find_sites(proto).sites[0].conv == conv.output[0]


def test_weights_from_constant_nodes() -> None:
    net = Net()
    values = np.ones((4, 3, 3, 3), np.float32)
    weight = net.node("Constant", value=numpy_helper.from_array(values))
    proto = net.model(net.relu(net.conv("x", 4, weight=weight)), rank=4)
    report = find_sites(proto)
    assert report.sites[0].macs_per_output == 27
    assert report.conv_macs == 64 * 4 * 27


# Convs that are none, each with its reason


def after(op: str, *extra: Any, **attributes: Any) -> onnx.ModelProto:
    net = Net()
    inputs = [net.constant(value) for value in extra]
    return net.model(net.relu(net.node(op, net.conv("x", 4), *inputs, **attributes)), rank=4)


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        (after("Sigmoid"), "a Sigmoid follows it, not a ReLU"),
        (after("LeakyRelu", alpha=0.1), "a LeakyRelu follows it, not a ReLU"),
        (after("PRelu", np.full((4, 1, 1), 0.1)), "a PRelu follows it, not a ReLU"),
        (after("HardSwish"), "a HardSwish follows it, not a ReLU"),
        (after("MaxPool", kernel_shape=[2, 2]), "a MaxPool follows it, not a ReLU"),
        (after("Add", np.ones((4, 8, 8))), "not one per channel"),
        (after("Add", np.ones((1, 1, 4, 1, 1))), "not one per channel"),
        (after("Cast", to=TensorProto.FLOAT16), "a Cast follows it"),
        (after("Transpose", perm=[0, 2, 3, 1]), "a Transpose follows it"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_follows_is_named(proto: onnx.ModelProto, reason: str) -> None:
    assert reason in only_reason(proto)


def test_an_unknown_ops_domain_is_named() -> None:
    net = Net()
    proto = net.model(net.relu(net.node("Relu", net.conv("x", 4), domain="my.ops")), rank=4)
    assert only_reason(proto) == "a my.ops.Relu follows it, not a ReLU"


@pytest.mark.parametrize(
    ("low", "high", "reason"),
    [
        (-1.0, 1.0, "a Clip from -1 follows it"),
        (1e-9, 6.0, "a Clip from 1e-09 follows it"),
        (None, 6.0, "a Clip from -inf follows it"),
        (float("nan"), 6.0, "a Clip from nan follows it"),
        (0.0, 0.0, "a Clip to 0 follows it"),
        (0.0, -3.0, "a Clip to -3 follows it"),
        (0.0, float("nan"), "a Clip to nan follows it"),
    ],
)
@pytest.mark.parametrize("opset", [10, 17])
def test_other_clips_are_no_relu(low: float | None, high: float, reason: str, opset: int) -> None:
    net = Net(opset=opset)
    assert reason in only_reason(net.model(net.clip(net.conv("x", 4), low, high), rank=4))


def test_a_computed_clip_bound() -> None:
    net = Net()
    bound = net.node("ReduceMax", "x", keepdims=0)
    clip = net.node("Clip", net.conv("x", 4), net.constant(0.0), bound)
    assert "a Clip whose max is computed" in only_reason(net.model(clip, rank=4))


def test_a_conv_that_is_a_bound_of_a_clip() -> None:
    net = Net()
    clip = net.node("Clip", net.constant(1.0), net.conv("x", 4))
    assert "it is a bound of a Clip" in only_reason(net.model(clip, rank=4))


def test_something_else_reads_it_before_the_relu() -> None:
    net = Net()
    conv = net.conv("x", 4)
    out = net.node("Concat", net.relu(conv), net.node("Neg", conv), axis=1)
    assert only_reason(net.model(out, rank=4)) == "2 nodes read it before a ReLU (Neg, Relu)"


def test_something_reads_between_norm_and_relu() -> None:
    net = Net()
    norm = net.norm(net.conv("x", 4))
    out = net.node("Concat", net.relu(norm), net.node("Neg", norm), axis=1)
    assert "2 nodes read it before a ReLU" in only_reason(net.model(out, rank=4))


def test_a_conv_added_to_itself() -> None:
    net = Net()
    conv = net.conv("x", 4)
    proto = net.model(net.relu(net.node("Add", conv, conv)), rank=4)
    assert only_reason(proto) == "2 nodes read it before a ReLU (Add)"


def test_a_conv_that_is_an_output() -> None:
    net = Net()
    conv = net.conv("x", 4)
    assert "an output of the model" in only_reason(net.model(net.relu(conv), conv, rank=4))


def test_a_conv_that_nothing_reads() -> None:
    net = Net()
    net.conv("x", 4)
    assert only_reason(net.model(net.relu("x"), rank=4)) == "nothing reads its output"


def test_a_norm_in_training_mode() -> None:
    net = Net()
    norm = net.norm(net.conv("x", 4))
    net.nodes[-1].attribute.append(helper.make_attribute("training_mode", 1))
    assert "in training mode" in only_reason(net.model(net.relu(norm), rank=4))


def test_a_dropout_in_training_mode() -> None:
    net = Net()
    ratio, training = net.constant(0.5), net.constant(True, "t", np.bool_)
    x = net.node("Dropout", net.conv("x", 4), ratio, training)
    assert "in training mode" in only_reason(net.model(net.relu(x), rank=4))


def test_a_computed_weight() -> None:
    net = Net()
    weight = net.node("Neg", net.constant(np.ones((4, 3, 3, 3))))
    proto = net.model(net.relu(net.conv("x", 4, weight=weight)), rank=4)
    assert only_reason(proto) == "its weight is computed, not a constant"
    assert find_sites(proto).conv_macs == 4 * 64 * 27


@pytest.mark.parametrize(("rank", "dims"), [(1, [8]), (3, [8, 8, 8])])
def test_other_ranks(rank: int, dims: list[int]) -> None:
    net = Net(("n", 3, *dims))
    weight = net.constant(np.ones((4, 3, *[3] * rank)))
    proto = net.model(net.relu(net.node("Conv", "x", weight, pads=[1] * 2 * rank)), rank=rank + 2)
    assert only_reason(proto) == f"it is a {rank}-d Conv: only 2-d Convs are predicted"
    assert find_sites(proto).conv_macs == 4 * 8**rank * 3 * 3**rank


@pytest.mark.parametrize(("dtype", "name"), [(np.float16, "float16"), (np.float64, "double")])
def test_other_element_types(dtype: Any, name: str) -> None:
    net = Net()
    weight = net.constant(np.ones((4, 3, 3, 3)), dtype=dtype)
    net.inputs[0].type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    proto = net.model(net.relu(net.conv("x", 4, weight=weight, bias=False)), rank=4)
    assert only_reason(proto) == f"its weights are {name}: only float32 is predicted"


def test_a_residual_add_of_three() -> None:
    net = Net(("n", 4, 8, 8))
    proto = net.model(net.relu(net.node("Sum", "x", net.conv("x", 4), "x")), rank=4)
    assert only_reason(proto) == "a Sum of 3 tensors follows it; a residual Add has two"


def test_arithmetic_behind_a_residual_add() -> None:
    net = Net(("n", 4, 8, 8))
    proto = net.model(net.relu(net.norm(net.node("Add", net.conv("x", 4), "x"))), rank=4)
    assert "a BatchNormalization stands between its residual Add and a ReLU" in only_reason(proto)


def test_a_map_that_a_residual_add_stretches() -> None:
    net = Net(("n", 3, 8, 8))
    big = net.conv("x", 4)
    small = net.conv(net.node("GlobalAveragePool", "x"), 4, kernel=1, bias=False)
    report = find_sites(net.model(net.relu(net.node("Add", big, small)), rank=4))
    assert [site.macs_per_output for site in report.sites] == [27]
    assert [s.reason for s in report.skipped] == ["a residual Add stretches it to a larger map"]


def test_convs_that_ort_fused() -> None:
    net = Net()
    weight = net.constant(np.ones((4, 3, 3, 3)))
    conv = net.node("FusedConv", "x", weight, domain="com.microsoft", activation="Relu")
    assert "com.microsoft.FusedConv, made by ONNX Runtime's" in only_reason(net.model(conv, rank=4))


def branch(name: str, node: onnx.NodeProto, *initializer: onnx.TensorProto) -> onnx.GraphProto:
    out = helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, [None] * 4)
    return helper.make_graph([node], name, [], [out], initializer=list(initializer))


def test_a_relu_in_a_subgraph() -> None:
    net = Net()
    conv = net.conv("x", 4)
    cond = net.constant(True, "cond", np.bool_)
    x = net.node(
        "If",
        cond,
        then_branch=branch("then", helper.make_node("Relu", [conv], ["a"])),
        else_branch=branch("else", helper.make_node("Neg", [conv], ["b"])),
    )
    assert only_reason(net.model(x, rank=4)) == "a subgraph of If reads it before a ReLU"


def test_a_conv_in_a_subgraph() -> None:
    net = Net()
    weight = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "inner_w")
    conv = helper.make_node("Conv", ["x", "inner_w"], ["a"], name="inner")
    x = net.node(
        "If",
        net.constant(True, "cond", np.bool_),
        then_branch=branch("then", conv, weight),
        else_branch=branch("else", helper.make_node("Neg", ["x"], ["b"])),
    )
    proto = net.model(net.relu(x), rank=4)
    assert only_reason(proto) == (
        "it stands in a subgraph of If: it is neither predicted nor counted"
    )
    assert find_sites(proto).conv_macs == 0


def test_convs_not_moved_out_of_transposes() -> None:
    assert len(find_sites(channels_last()).sites) == 3
    assert find_sites(channels_last(relu_inside=False)).sites == ()


def test_maps_smaller_than_every_patch_are_no_sites() -> None:
    """A squeeze-and-excitation block, a Conv that fills the map, and one that strides to it."""
    net = Net()
    x = net.relu(net.conv("x", 4))
    y = net.relu(net.conv(net.node("GlobalAveragePool", x), 2, kernel=1))
    x = net.node("Mul", x, net.node("Sigmoid", net.conv(y, 4, kernel=1)))
    net.channels[x] = 4
    whole = net.clip(net.conv(x, 5, kernel=8, pads=[0] * 4))
    strided = net.relu(net.conv(x, 5, kernel=1, strides=[9, 9]))
    net.channels[whole] = net.channels[strided] = 5
    report = find_sites(net.model(net.head(net.node("Add", whole, strided))))
    assert [site.shape for site in report.sites] == [(4, 8, 8)]
    reasons = [entry.reason for entry in report.skipped]
    assert sum(reason.startswith("its map is 1 x 1, smaller than") for reason in reasons) == 3
    assert report.conv_macs == 4 * 64 * 27 + 2 * 4 + 4 * 2 + 5 * 256 + 5 * 4


@pytest.mark.parametrize("size", [(1, 2), (2, 1), (2, 2)])
def test_maps_with_something_beside_a_probe_are_sites(size: tuple[int, int]) -> None:
    assert len(find_sites(plain(depth=1, shape=("n", 3, *size))).sites) == 1


# Shapes and counts


def test_dynamic_maps_and_shapes_given_to_them() -> None:
    proto = plain(depth=1, shape=("n", 3, "h", "w"))
    report = find_sites(proto)
    assert report.sites[0].shape == (4, None, None)
    assert report.conv_macs is None
    fixed = find_sites(proto, {"x": (1, 3, 10, 6)})
    assert fixed.sites[0].shape == (4, 10, 6)
    assert fixed.conv_macs == 4 * 60 * 27


def test_shapes_given_overrule_what_the_file_says_behind() -> None:
    proto = onnx.shape_inference.infer_shapes(plain(depth=1))
    assert find_sites(proto, {"x": (1, 3, 10, 6)}).sites[0].shape == (4, 10, 6)


@pytest.mark.parametrize("batch", ["n", 1, 4])
def test_macs_are_of_one_sample(batch: int | str) -> None:
    assert find_sites(plain(depth=1, shape=(batch, 3, 8, 8))).conv_macs == 4 * 64 * 27


# Later stages


def test_predicted_sites_go_by_their_nodes() -> None:
    original = plain(depth=2)
    before = find_sites(original)
    proto = with_predictors(original, *(site.name for site in before.sites))
    assert find_sites(proto) == before


def test_sites_left_out_are_listed() -> None:
    original = plain(depth=2)
    first, second = find_sites(original).sites
    report = find_sites(with_predictors(original, second.name))
    assert report.sites == (second,)
    assert [s.conv for s in report.skipped] == [first.conv]
    assert "left out" in report.skipped[0].reason


def test_fused_sites_are_found_and_counted() -> None:
    original = plain(depth=2)
    before = find_sites(original)
    proto = with_predictors(original, before.sites[1].name)
    conv, relu = proto.graph.node[:2]
    mask = numpy_helper.from_array(np.full((1, 1, 1), 9, np.uint16), "mask")
    proto.graph.initializer.append(mask)
    fused = helper.make_node(
        "SpatialConv",
        [*conv.input[:2], "mask", conv.input[2]],
        [relu.output[0]],
        name=relu.output[0],
        domain=DOMAIN,
        pads=[1, 1, 1, 1],
        patch_size=2,
    )
    del proto.graph.node[:2]
    proto.graph.node.insert(0, fused)
    report = find_sites(proto)
    assert [(s.name, s.shape, s.macs_per_output) for s in report.sites] == [
        (s.name, s.shape, s.macs_per_output) for s in before.sites
    ]
    assert report.conv_macs == before.conv_macs
    assert report.skipped == ()


# No site, and files that mean harm


def test_no_site_names_the_most_frequent_reason() -> None:
    net = Net()
    x = net.node("Tanh", net.conv(net.node("Sigmoid", net.conv("x", 4)), 4))
    x = net.node("Tanh", net.conv(x, 4))
    report = find_sites(net.model(x, rank=4))
    with pytest.raises(ModelError, match=r"of 3 Convs 2 .* a Tanh follows it"):
        require_sites(report)


def test_no_conv_at_all() -> None:
    with pytest.raises(ModelError, match="it holds no Conv"):
        require_sites(SiteReport((), (), 0))


def test_cyclic_graphs_end() -> None:
    net = Net(("n", 4, 8, 8))
    conv = net.conv("x", 4)
    first, second = net.norm(conv), ""
    second = net.norm(first)
    net.nodes[1].input[0] = second  # first reads second, second reads first
    net.nodes[0].output[0] = "elsewhere"
    loop = net.model(second, rank=4)
    assert find_sites(loop).sites == ()
    net.nodes[0].output[0] = conv
    identity = Net(("n", 4, 8, 8))
    a = identity.node("Identity", "b")
    identity.nodes[0].output[0] = "b"
    identity.conv("x", 4, weight="b")
    assert "its weight is computed" in find_sites(identity.model(a, rank=4)).skipped[0].reason


def test_a_conv_that_reads_itself_ends() -> None:
    net = Net(("n", 4, 8, 8))
    norm = net.norm(net.conv("x", 4))
    net.nodes[-1].input[0] = norm  # a norm that feeds itself
    assert find_sites(net.model(norm, rank=4)).sites == ()


@pytest.mark.parametrize(
    "dims", [(0, 3, 3, 3), (4, -3, 3, 3), (), (2**62, 3, 3, 3), (2**40, 2**40, 2**40, 2**40)]
)
def test_absurd_weights_do_no_harm(dims: tuple[int, ...]) -> None:
    proto = plain(depth=1)
    weight = proto.graph.initializer[0]
    del weight.dims[:]
    weight.dims.extend(dims)
    report = find_sites(proto)
    assert len(report.sites) + len(report.skipped) == 1


def test_absurd_bounds_do_no_harm() -> None:
    net = Net()
    proto = net.model(net.clip(net.conv("x", 4)), rank=4)
    low = next(t for t in proto.graph.initializer if t.name.startswith("bound"))
    low.raw_data = b"\x00"
    assert "a Clip whose min is computed" in only_reason(proto)
    low.ClearField("raw_data")
    del low.dims[:]
    low.dims.extend([2**62, 2**62])
    assert "a Clip whose min is computed" in only_reason(proto)


def test_a_chain_of_thousands_is_no_recursion() -> None:
    net = Net(("n", 3, 8, 8))
    x = net.conv("x", 4)
    for _ in range(3000):
        x = net.node("Identity", x)
    assert len(find_sites(net.model(net.relu(x), rank=4)).sites) == 1


def test_broken_nodes_do_no_harm() -> None:
    proto = plain(depth=2)
    del proto.graph.node[0].input[1:]
    del proto.graph.node[2].output[:]
    proto.graph.node.append(helper.make_node("Conv", [], []))
    proto.graph.node.append(helper.make_node("Relu", [], []))
    report = find_sites(proto)
    assert report.sites == ()
    assert {s.reason for s in report.skipped} == {"it lacks a weight or an output"}
