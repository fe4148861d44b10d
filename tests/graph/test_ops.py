"""SpatialPredict nodes in a graph, and the plan they carry."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.models import Net, feeds, residual

from spatialonnx.errors import ModelError, PlanError
from spatialonnx.graph.fuse import dense_form
from spatialonnx.graph.insert import insert
from spatialonnx.graph.instrument import instrument, plan_feeds
from spatialonnx.graph.ops import (
    CONV,
    DOMAIN,
    add_opset,
    find_fused,
    find_predictors,
    read_plan,
    write_plan,
)
from spatialonnx.plan.masks import make_mask, uniform_mask
from spatialonnx.runtime.resources import trim_memory, used_memory
from spatialonnx.runtime.session import Runtime, open_session

RUNTIME = Runtime("cpu", 1)


@pytest.fixture(scope="module")
def spatial():
    return insert(residual(), threads=1).model


def sparse(proto):
    return write_plan(proto, {find_predictors(proto)[0].site: uniform_mask(2, 9)})


@pytest.mark.parametrize("change", [sparse, instrument, dense_form])
def test_a_changed_model_holds_the_weights_once(spatial, change):
    heavy = copy_of(spatial)
    heavy.graph.initializer.extend(
        numpy_helper.from_array(np.ones(1 << 21, np.float32), f"unused_{k}") for k in range(16)
    )
    weights = heavy.ByteSize()
    trim_memory()
    before = used_memory()
    changed = change(heavy)
    trim_memory()
    assert 0.9 * weights < used_memory() - before < 1.2 * weights
    assert changed.ByteSize() > 16 << 23


def copy_of(proto):
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    return copy


def replace_initializer(proto, name, array):
    (tensor,) = [t for t in proto.graph.initializer if t.name == name]
    tensor.CopyFrom(numpy_helper.from_array(array, name))


def test_a_plan_survives_writing_and_reading(spatial):
    names = [p.site for p in find_predictors(spatial)]
    plan = {
        names[0]: uniform_mask(3, 0b100010001),
        names[1]: make_mask(2, np.arange(1, 17).reshape(1, 4, 4) % 15 + 1),
        names[2]: make_mask(4, [[[1]], [[0x8421]], [[0xFFFF]], [[7]]]),
    }
    before = spatial.SerializeToString()
    assert read_plan(write_plan(spatial, plan)) == plan
    assert spatial.SerializeToString() == before
    one = {names[0]: uniform_mask(2, 9)}
    assert read_plan(write_plan(write_plan(spatial, plan), one)).predicting == one


def test_a_threshold_takes_a_name_that_is_free():
    net = Net()
    x = net.relu(net.conv("x", 4))
    weight = net.rng.normal(0, 1, (4, 4, 3, 3)).astype(np.float32)
    net.weights.append(numpy_helper.from_array(weight, f"{x}/threshold"))
    y = net.relu(net.conv(x, 4, weight=f"{x}/threshold"))
    proto = insert(net.model(net.head(y)), simplify=False, threads=1).model
    predictor = find_predictors(proto)[0]
    assert predictor.threshold == f"{x}/threshold_1"
    arrays = feeds(proto)
    expected = open_session(proto, RUNTIME).run(arrays)
    for threshold in (None, 0.25, None):
        proto = write_plan(proto, {x: uniform_mask(2, 15, threshold or 0.0)})
        assert np.array_equal(open_session(proto, RUNTIME).run(arrays), expected)
    measured = open_session(instrument(proto), RUNTIME)
    fed = measured.run(arrays | plan_feeds({}, find_predictors(proto)))
    assert np.array_equal(fed[0], expected[0])


def test_a_plan_of_another_model_is_refused(spatial):
    with pytest.raises(PlanError, match="names nowhere, which is not a site"):
        write_plan(spatial, {"nowhere": uniform_mask(2, 9)})


def test_a_promoted_mask_gives_what_a_written_one_gives(spatial):
    """One session evaluates any plan; the file says the same."""
    predictors = find_predictors(spatial)
    promoted = open_session(instrument(spatial), RUNTIME)
    x = feeds(spatial)
    counted = []
    for pattern in (9, 1, 6):
        plan = {p.site: uniform_mask(2, pattern) for p in predictors}
        written = open_session(instrument(write_plan(spatial, plan), promote=False), RUNTIME)
        names = [value.name for value in written.outputs]
        assert names == [value.name for value in promoted.outputs]
        got = promoted.run({**x, **plan_feeds(plan, predictors)}, names)
        for name, one, other in zip(names, written.run(x), got, strict=True):
            np.testing.assert_array_equal(one, other, err_msg=name)
        counted.append([int(v.sum()) for v in got[1:]])
    assert len({tuple(c) for c in counted}) == 3, "the plans must differ in what they skip"


def test_counts_are_outputs_beside_the_models_own(spatial):
    session = open_session(instrument(spatial), RUNTIME)
    names = [value.name for value in session.outputs]
    counts = [n for p in find_predictors(spatial) for n in (p.skipped, p.false_zero)]
    assert names == [value.name for value in spatial.graph.output] + counts
    masks = {name for p in find_predictors(spatial) for name in p.promoted}
    assert {value.name for value in session.inputs} == masks | {"x"}


@pytest.mark.parametrize(
    ("mask", "size", "message"),
    [
        (np.zeros((1, 1, 1), np.uint16), 2, "pattern 0"),
        (np.full((1, 1, 1), 16, np.uint16), 2, "pattern 16"),
        (np.full((1, 1), 9, np.uint16), 2, "three dimensions"),
        (np.full((1, 1, 1), 9, np.int64), 2, "uint16"),
        (np.full((1, 1, 1), 9.0, np.float32), 2, "uint16"),
        (np.full((1, 1, 1), 9, np.uint16), 7, "patch size 7"),
        (np.full((1, 1, 1), 9, np.uint16), [2, 2], "patch size"),
    ],
)
def test_masks_in_a_file_that_are_not_allowed(spatial, mask, size, message):
    copy = copy_of(spatial)
    predictor = find_predictors(copy)[1]
    replace_initializer(copy, predictor.mask, mask)
    replace_initializer(copy, predictor.patch_size, np.asarray(size, np.int64))
    with pytest.raises(PlanError, match=message) as caught:
        read_plan(copy)
    assert predictor.site in str(caught.value)


def test_a_mask_whose_bytes_do_not_fit_is_one_line(spatial):
    for change in ("raw", "type", "dims"):
        copy = copy_of(spatial)
        predictor = find_predictors(copy)[0]
        (tensor,) = [t for t in copy.graph.initializer if t.name == predictor.mask]
        if change == "raw":
            tensor.raw_data = tensor.raw_data[:1]
        elif change == "type":
            tensor.data_type = 99
        else:
            tensor.dims[:] = [1, 1, 1 << 40]
        with pytest.raises(PlanError, match="cannot be read"):
            read_plan(copy)


def test_a_mask_that_is_computed_is_refused(spatial):
    copy = copy_of(spatial)
    predictor = find_predictors(copy)[0]
    kept = [t for t in copy.graph.initializer if t.name != predictor.mask]
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(kept)
    with pytest.raises(ModelError, match="not a constant"):
        read_plan(copy)


@pytest.mark.parametrize("damage", ["unnamed", "short", "silent", "twice"])
def test_incomplete_nodes_are_refused(spatial, damage):
    copy = copy_of(spatial)
    first, second, *_ = [n for n in copy.graph.node if n.domain == DOMAIN]
    if damage == "unnamed":
        first.name = ""
    elif damage == "short":
        del first.input[2:]
    elif damage == "silent":
        del first.output[:]
    else:
        second.name = first.name
    with pytest.raises(ModelError, match="insert"):
        find_predictors(copy)


def test_the_domain_is_imported_once(spatial):
    copy = copy_of(spatial)
    add_opset(copy)
    assert [o.version for o in copy.opset_import if o.domain == DOMAIN] == [2]


def fused_model(**changes):
    inputs = changes.get("inputs", ["x", "w", "m"])
    node = helper.make_node(CONV, inputs, ["y"], "site", domain=DOMAIN, patch_size=2)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(np.ones((5, 3, 3, 3), np.float32), "w"),
            numpy_helper.from_array(np.full((1, 1, 1), changes.get("pattern", 9), np.uint16), "m"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(DOMAIN, 1)])


def test_fused_convs_carry_their_plan():
    (fused,) = find_fused(fused_model())
    assert (fused.site, fused.weight, fused.output) == ("site", (5, 3, 3, 3), "y")
    assert read_plan(fused_model()) == {"site": uniform_mask(2, 9)}


def test_fused_convs_that_are_not_allowed():
    with pytest.raises(PlanError, match="pattern 0"):
        find_fused(fused_model(pattern=0))
    for inputs in (["x", "w"], ["x", "w", "x"], ["x", "x", "m"]):
        with pytest.raises(ModelError, match="must be constant"):
            find_fused(fused_model(inputs=inputs))
