"""Sites of quantised networks, in every form that quantisers write."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.models import feeds
from support.quantized import FORMS, MIDDLE, QuantizedNet, folded, residual_quantized

from spatialonnx.graph.index import GraphIndex
from spatialonnx.graph.insert import insert
from spatialonnx.graph.shapes import infer_shapes
from spatialonnx.graph.site_match import SiteMatch, match_sites
from spatialonnx.graph.sites import find_sites
from spatialonnx.runtime.session import Runtime, open_session

ONE = Runtime("cpu", 1)


def matches(proto: onnx.ModelProto) -> list[SiteMatch]:
    found, _ = match_sites(GraphIndex(proto), infer_shapes(proto))
    return found


@pytest.mark.parametrize("form", FORMS)
def test_every_conv_of_every_form_is_a_site(form: str) -> None:
    proto = FORMS[form]()
    open_session(proto, ONE)  # what is tested is a model that ONNX Runtime takes
    report = find_sites(proto)
    convs = [node for node in proto.graph.node if node.op_type == "Conv"]
    assert len(report.sites) == len(convs)
    assert report.skipped == ()
    # MACs counted by hand: every Conv is 3x3; maps are 8x8, or 4x4 behind a pool.
    per_output = [9 * (3 if i == 0 else 4) for i in range(len(convs))]
    assert [site.macs_per_output for site in report.sites] == per_output
    areas = [64, 16] if form == "a pool between" else [64] * len(convs)
    expected = sum(4 * area * macs for area, macs in zip(areas, per_output, strict=True))
    assert report.conv_macs == expected


@pytest.mark.parametrize("form", FORMS)
def test_a_site_is_named_after_the_tensor_that_is_quantised(form: str) -> None:
    proto = FORMS[form]()
    for match in matches(proto):
        assert match.is_quantized
        assert match.last.op_type == "QuantizeLinear"
        assert match.name == match.last.input[0]
        assert match.output == match.last.output[0]


def test_what_stands_between_conv_and_add_is_part_of_the_chain() -> None:
    proto = residual_quantized()
    with_add = [match for match in matches(proto) if match.add is not None]
    assert [[n.op_type for n in match.between] for match in with_add] == [
        ["QuantizeLinear", "DequantizeLinear"]
    ] * 2
    assert [match.relu is None for match in with_add] == [True, False]


def test_a_map_of_negative_values_is_no_site() -> None:
    net = QuantizedNet()
    x = net.quantize(net.qconv(net.image()), 0.05, MIDDLE)[1]
    proto = net.finish(x)
    report = find_sites(proto)
    assert report.sites == ()
    (skipped,) = report.skipped
    assert "GlobalAveragePool follows it, not a ReLU" in skipped.reason


def test_the_type_of_a_map_without_zero_point_is_read() -> None:
    proto = without_zero_point(TensorProto.INT8, relu=True)
    (site,) = find_sites(proto).sites
    assert site.dtype == "int8"
    assert insert(proto, pattern="1001", threads=1).difference.exact
    (site,) = find_sites(without_zero_point(TensorProto.UINT8)).sites
    assert site.dtype == "uint8"
    (skipped,) = find_sites(without_zero_point(TensorProto.INT8)).skipped
    assert "GlobalAveragePool follows it, not a ReLU" in skipped.reason


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
@pytest.mark.parametrize("zero_point", [True, False])
def test_maps_of_16_bits_are_no_sites(dtype: type, zero_point: bool, relu: bool) -> None:
    if zero_point:
        net = QuantizedNet(opset=21, ir=10)
        conv = net.qconv(net.image())
        least = int(np.iinfo(dtype).min)
        proto = net.finish(net.quantize(net.relu(conv) if relu else conv, 0.05, least, dtype)[1])
    else:
        proto = without_zero_point(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), relu)
    report = find_sites(proto)
    assert report.sites == ()
    reason = f"it is quantised to {np.dtype(dtype)}: only 8-bit maps are predicted"
    if dtype is np.int16 and not zero_point and not relu:  # zero is not its least value
        reason = "a GlobalAveragePool follows it, not a ReLU"
    assert [skipped.reason for skipped in report.skipped] == [reason]


@pytest.mark.parametrize("computed", ["scale", "zero point"])
def test_a_map_whose_scale_is_computed_is_no_site(computed: str) -> None:
    net = QuantizedNet()
    relu = net.relu(net.qconv(net.image()))
    inputs = [net.constant(0.05), net.constant(0, "zero", np.uint8)]
    if computed == "scale":
        inputs[0] = net.node("ReduceMax", "x", keepdims=0)
    else:
        inputs[1] = net.node("Cast", net.node("ReduceMax", "x", keepdims=0), to=TensorProto.UINT8)
    quantized = net.node("QuantizeLinear", relu, *inputs)
    x = net.node("DequantizeLinear", quantized, *inputs)
    net.channels[x] = 4
    (skipped,) = find_sites(net.finish(x)).skipped
    assert skipped.reason.endswith("with a scale or zero point that is not one constant")


def without_zero_point(kind: int, relu: bool = False) -> onnx.ModelProto:
    """A site whose QuantizeLinear says its type in an attribute."""
    net = QuantizedNet(opset=21, ir=10)
    conv = net.qconv(net.image())
    scale = net.constant(0.05)
    quantized = net.node(
        "QuantizeLinear", net.relu(conv) if relu else conv, scale, output_dtype=kind
    )
    return net.finish(net.node("DequantizeLinear", quantized, scale))


def test_a_relu_that_nothing_quantises_is_said() -> None:
    net = QuantizedNet()
    proto = net.finish(net.relu(net.qconv(net.image())))
    (skipped,) = find_sites(proto).skipped
    assert "no QuantizeLinear follows its ReLU" in skipped.reason


def test_a_map_that_two_nodes_read_is_one_site() -> None:
    net = QuantizedNet()
    quantized, x = net.quantize(net.qconv(net.image()))
    other = net.node("DequantizeLinear", quantized, *net.nodes[-1].input[1:])
    net.channels[other] = 4
    proto = net.finish(net.node("Add", x, other))
    assert len(find_sites(proto).sites) == 1


def test_qlinear_convs_are_sites() -> None:
    net = QuantizedNet()
    scale, zero = net.constant(0.1), net.constant(0, "z", np.uint8)
    weight = net.constant(np.ones((4, 3, 3, 3)), dtype=np.int8)
    weight_zero = net.constant(0, "z", np.int8)
    x = net.node("QuantizeLinear", "x", scale, zero)
    y = net.node("QLinearConv", x, scale, zero, weight, scale, weight_zero, scale, zero)
    proto = net.model(net.node("DequantizeLinear", y, scale, zero), rank=4)
    (site,) = find_sites(proto).sites
    assert (site.name, site.shape, site.macs_per_output) == (y, (4, 6, 6), 27)


def test_a_qlinear_conv_that_folds_no_relu_is_none() -> None:
    net = QuantizedNet()
    scale, zero = net.constant(0.1), net.constant(MIDDLE, "z", np.uint8)
    weight, weight_zero = (
        net.constant(np.ones((4, 3, 3, 3)), "w", np.int8),
        net.constant(0, "z", np.int8),
    )
    x = net.node("QuantizeLinear", "x", scale, zero)
    y = net.node("QLinearConv", x, scale, zero, weight, scale, weight_zero, scale, zero)
    report = find_sites(net.model(net.node("DequantizeLinear", y, scale, zero), rank=4))
    assert report.sites == ()
    assert "its zero point folds no ReLU" in report.skipped[0].reason


def test_the_forms_give_different_outputs_for_different_images() -> None:
    """The networks are alive: a test on a dead one would say nothing."""
    for form in FORMS.values():
        proto = form()
        (result,) = open_session(proto, ONE).run(feeds(proto, batch=4))
        assert np.ptp(result, axis=0).max() > 0


def test_constants_are_followed_however_they_are_stored() -> None:
    net = QuantizedNet()
    stored = net.constant(np.arange(12).reshape(3, 4), "w", np.float16)
    cast = net.node("Cast", stored, to=onnx.TensorProto.FLOAT)
    turned = net.node("Transpose", cast, perm=[1, 0])
    shaped = net.node("Reshape", turned, net.constant([2, -1], "s", np.int64))
    proto = net.model(shaped)
    index = GraphIndex(proto)
    assert index.constant_shape(turned) == (4, 3)
    assert index.constant_shape(shaped) == (2, 6)
    assert index.constant_type(shaped) == onnx.TensorProto.FLOAT
    expected = np.arange(12, dtype=np.float32).reshape(3, 4).T.reshape(2, 6)
    np.testing.assert_array_equal(index.constant_array(shaped), expected)


def test_constant_nodes_of_numbers() -> None:
    net = QuantizedNet()
    one = net.node("Constant", value_float=1.5)
    many = net.node("Constant", value_ints=[3, 4])
    index = GraphIndex(net.model(one, rank=0))
    assert index.scalar(one) == 1.5
    assert index.constant_shape(many) == (2,)
    assert folded().graph.node


FIXTURES = Path(__file__).parent / "quantized"


@pytest.mark.parametrize(
    ("name", "sites", "dtypes"),
    [
        ("nncf", 3, ["uint8", "uint8", "uint8"]),
        ("pt2e", 2, ["uint8", "uint8"]),
        ("neural_compressor", 3, ["uint8", "uint8", "uint8"]),
    ],
)
def test_what_other_quantisers_write(name: str, sites: int, dtypes: list[str]) -> None:
    """Networks by NNCF, PT2E and Neural Compressor: `make_*.py` beside them made them."""
    proto = onnx.load(FIXTURES / f"{name}.onnx")
    report = find_sites(proto)
    assert [site.dtype for site in report.sites] == dtypes
    assert len(report.sites) == sites
    # With full masks the outputs are those of the quantised network, to the last bit.
    assert insert(proto, threads=1).difference.exact
