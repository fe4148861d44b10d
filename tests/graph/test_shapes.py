"""Shapes are those of the network as ONNX Runtime runs it, whatever the file says."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.models import Net, depthwise, feeds, plain, residual

from spatialonnx.graph.insert import insert
from spatialonnx.graph.shapes import correct_value_info, infer_shapes
from spatialonnx.graph.sites import find_sites
from spatialonnx.runtime.session import open_session


def sizes_of_a_run(proto: onnx.ModelProto, size: int = 8) -> dict[str, tuple[int, ...]]:
    """The oracle: every tensor that a node writes as an output of a session."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    del copy.graph.output[:]
    names = [name for node in proto.graph.node for name in node.output]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    values = open_session(copy).run(feeds(proto, size=size, batch=1))
    return {name: value.shape for name, value in zip(names, values, strict=True)}


def stale(proto: onnx.ModelProto, height: int) -> onnx.ModelProto:
    """What a tool leaves that changes the size of the input alone."""
    proto = onnx.shape_inference.infer_shapes(proto)
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_value = height
    return proto


def same_padding(net: Net, x: str) -> str:
    """Padding computed from the map's own height, as TensorFlow's exporters write SAME."""
    whole = {n: net.constant([n], "n", np.int64) for n in (0, 1, 2, 3)}
    height = net.node("Slice", net.node("Shape", x), whole[2], whole[3])
    rows = net.node("Div", net.node("Add", height, whole[1]), whole[2])
    reach = net.node("Add", net.node("Mul", net.node("Sub", rows, whole[1]), whole[2]), whole[3])
    missing = net.node("Max", net.node("Sub", reach, height), whole[0])
    before = net.node("Div", missing, whole[2])
    after = net.node("Sub", missing, before)
    none = net.constant([0, 0], "none", np.int64)
    pads = net.node("Concat", none, before, before, none, after, after, axis=0)
    return net.node("Pad", x, pads)


def half_size(net: Net, x: str) -> str:
    """A Resize to a size that is computed from the map's own."""
    size = net.node("Cast", net.node("Shape", x), to=TensorProto.FLOAT)
    half = net.node("Mul", size, net.constant([1, 1, 0.5, 0.5]))
    whole = net.node("Cast", net.node("Floor", half), to=TensorProto.INT64)
    return net.node("Resize", x, "", "", whole, mode="nearest")


def unknown_op(net: Net, x: str) -> str:
    """An op that ONNX's inference does not know, and ONNX Runtime runs."""
    return net.node("Gelu", x, domain="com.microsoft")


def branches(net: Net, x: str) -> str:
    """A branch whose sizes inference leaves open."""
    out = [onnx.ValueInfoProto(name=name) for name in ("a", "b")]
    pool = helper.make_node("MaxPool", [x], ["a"], kernel_shape=[2, 2], strides=[2, 2])
    half = helper.make_node("AveragePool", [x], ["b"], kernel_shape=[2, 2], strides=[2, 2])
    total = net.node("ReduceSum", net.node("Shape", x), keepdims=0)
    many = net.node("Greater", total, net.constant(0, "zero", np.int64))
    then = helper.make_graph([pool], "then", [], [out[0]])
    other = helper.make_graph([half], "other", [], [out[1]])
    return net.node("If", many, then_branch=then, else_branch=other)


def computed(part: Callable[[Net, str], str]) -> onnx.ModelProto:
    net = Net(("n", 3, 13, 13))
    x = net.relu(net.conv("x", 4))
    y = part(net, x)
    net.channels[y] = 4
    y = net.relu(net.conv(y, 6, strides=[2, 2], pads=[0, 0, 0, 0]))
    proto = net.model(net.head(y))
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return proto


@pytest.mark.parametrize("batch", ["n", 1, 3])
@pytest.mark.parametrize("make", [plain, residual, depthwise])
def test_what_a_file_says_of_tensors_inside_is_not_believed(
    make: Callable[..., onnx.ModelProto], batch: int | str
) -> None:
    proto = make(shape=(batch, 3, 12, 8))
    old = onnx.shape_inference.infer_shapes(proto)
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 8
    del proto.graph.value_info[:]
    true = find_sites(proto)
    proto.graph.value_info.extend(old.graph.value_info)
    assert find_sites(proto) == true
    assert true.sites[0].shape[1:] == (8, 8)


def test_inserting_corrects_the_sizes() -> None:
    proto = stale(plain(shape=("n", 3, 8, 8)), height=12)
    result = insert(proto)
    assert [site.shape for site in result.sites] == [(4, 12, 8), (4, 12, 8)]
    for value in result.model.graph.value_info:
        dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
        assert len(dims) < 4 or dims[2:] in ([12, 8], [1, 1])


def test_correcting_keeps_notes_and_what_is_right() -> None:
    proto = stale(plain(shape=("n", 3, 8, 8)), height=12)
    right = onnx.shape_inference.infer_shapes(plain(shape=("n", 3, 8, 8)))
    for model in (proto, right):
        model.graph.value_info[0].doc_string = "a note"
    before = right.SerializeToString(deterministic=True)
    correct_value_info(proto)
    correct_value_info(right)
    assert right.SerializeToString(deterministic=True) == before
    assert proto.graph.value_info[0].doc_string == "a note"
    dims = proto.graph.value_info[0].type.tensor_type.shape.dim
    assert [d.dim_value for d in dims] == [0, 4, 12, 8]


@pytest.mark.parametrize("part", [same_padding, half_size, unknown_op, branches])
def test_sizes_that_a_run_gives(part: Callable[[Net, str], str]) -> None:
    proto = computed(part)
    true = sizes_of_a_run(proto)
    report = find_sites(proto)
    assert [site.shape for site in report.sites] == [true[site.name][1:] for site in report.sites]
    first, second = report.sites
    assert report.conv_macs == sum(
        site.macs_per_output * int(np.prod(site.shape)) for site in (first, second)
    )


def test_sizes_that_depend_on_the_image() -> None:
    net = Net(("n", 3, 9, 9))
    x = net.relu(net.conv("x", 4))
    places = net.node("Shape", net.node("NonZero", x))
    one = net.constant([1], "one", np.int64)
    count = net.node("Slice", places, one, net.constant([2], "two", np.int64))
    rows = net.node("Add", net.node("Mod", count, net.constant([5], "five", np.int64)), one)
    y = net.node(
        "Slice", x, net.constant([0], "zero", np.int64), rows, net.constant([2], "axis", np.int64)
    )
    net.channels[y] = 4
    proto = net.model(net.head(net.relu(net.conv(y, 4))))
    report = find_sites(proto)
    assert report.sites[1].shape[1] is None
    assert report.conv_macs is None
    (note,) = insert(proto).notes
    assert "depend on what is in an image" in note


def test_free_sizes_stay_free() -> None:
    shapes = infer_shapes(plain(shape=("n", 3, "h", "w")))
    assert shapes.get(plain().graph.node[0].output[0]) == (1, 4, None, None)


@pytest.mark.parametrize(("ops", "runs"), [(("Flatten", "MatMul"), 0), (("Flatten",), 0), ((), 1)])
def test_a_relu_of_a_dense_layer_is_worth_no_run(
    monkeypatch: pytest.MonkeyPatch, ops: tuple[str, ...], runs: int
) -> None:
    net = Net(("n", 3, 6, 6))
    x = net.relu(net.conv("x", 4))
    y = unknown_op(net, x)
    for op in ops:
        weights = [net.constant(np.ones((144, 5), np.float32))] if op == "MatMul" else []
        y = net.node(op, y, *weights)
    proto = net.model(net.node("Relu", y))
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    asked: list[object] = []
    monkeypatch.setattr(
        "spatialonnx.graph.shapes._run_for_shapes", lambda *rest: asked.append(rest) or {}
    )
    assert infer_shapes(proto).get(x) == (1, 4, 6, 6)
    assert len(asked) == runs
