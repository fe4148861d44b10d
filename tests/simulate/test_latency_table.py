"""Latency tables: curves, kinds of masks, and files that several searches share."""

import json
import math

import pytest
from support.models import Net

from spatialonnx.errors import InputError
from spatialonnx.graph.insert import insert
from spatialonnx.graph.sites import find_sites
from spatialonnx.runtime.session import Runtime
from spatialonnx.simulate.latency_table import (
    LatencyTable,
    ShapeTimes,
    environment,
    mask_kind,
    read_table,
    site_shapes,
    write_table,
)

ONE, TWO = Runtime("cpu", 1), Runtime("cpu", 2)
TIMES = ShapeTimes(1.0, 0.1, {"p2x3": ((0.25, 0.3), (0.5, 0.5), (1.0, 1.1))})


def test_a_time_lies_on_the_curve_and_beyond_it_on_a_line():
    assert TIMES.fused("p2x3", 0.5) == pytest.approx(0.5)
    assert TIMES.fused("p2x3", 0.75) == pytest.approx(0.8)
    slope = (1.1 - 0.3) / 0.75
    assert TIMES.fused("p2x3", 0.15) == pytest.approx(0.3 - 0.1 * slope)
    assert TIMES.fused("p2x3", -9.0) == 0
    assert TIMES.fused("p3x3", 0.5) is None
    assert TIMES.slope("p2x3") == pytest.approx((0.98 - 0.42) / 0.5)


def test_less_work_never_takes_more_time():
    noisy = ShapeTimes(1.0, 0.0, {"p2x1": ((0.2, 0.6), (0.4, 0.5), (0.6, 0.7))})
    assert noisy.fused("p2x1", 0.4) == pytest.approx(0.6)


def test_what_is_saved_counts_the_layout_and_the_guard():
    assert TIMES.saved("p2x3", 0.5) == pytest.approx(0.4)
    assert TIMES.saved("p2x3", 0.9) == 0  # slower
    fast = ShapeTimes(1.0, 0.0, {"p2x3": ((0.5, 0.5), (1.0, 0.5))})
    assert fast.saved("p2x3", 0.97) == pytest.approx(0.5)
    assert fast.saved("p2x3", 0.99) == 0  # it predicts next to nothing: deploy leaves it dense


def test_the_kind_that_is_most_like_a_mask():
    times = ShapeTimes(1.0, 0.0, {mask_kind(2, 1): (), mask_kind(2, 3): (), mask_kind(3, 3): ()})
    assert times.nearest(2, 4) == "p2x3" and times.nearest(2, 2) == "p2x1"
    assert times.nearest(3, 1) == "p3x3" and times.nearest(4, 1) == ""


def test_a_file_holds_several_machines(tmp_path):
    path = tmp_path / "latency.json"
    assert read_table(path, ONE) == LatencyTable()
    write_table(path, ONE, LatencyTable({"a": TIMES}))
    write_table(path, TWO, LatencyTable({"b": TIMES}))
    assert read_table(path, ONE) == LatencyTable({"a": TIMES})
    assert set(json.loads(path.read_text())) == {environment(ONE), environment(TWO)}


def test_what_another_run_added_stays(tmp_path):
    path = tmp_path / "latency.json"
    first, second = LatencyTable({"a": TIMES}), LatencyTable({"b": TIMES})
    for table in (first, second):  # both were read when the file was empty
        write_table(path, ONE, table)
    assert read_table(path, ONE).shapes.keys() == {"a", "b"}


def test_what_is_known_stays_and_kinds_are_added():
    more = ShapeTimes(9.0, 9.0, {"p2x3": (), "p3x3": ((0.5, 0.5),)})
    joined = LatencyTable({"a": TIMES}).joined({"a": more, "b": more}).shapes
    assert joined["a"].dense == 1.0 and joined["b"] == more
    assert joined["a"].curves == {**TIMES.curves, "p3x3": ((0.5, 0.5),)}
    table = LatencyTable(joined)
    assert not table.lacks("a", ("p2x3", "p3x3")) and table.lacks("a", ("p4x3",))
    assert table.lacks("c", ())


@pytest.mark.parametrize("text", ["", "[]", "7", "{"])
def test_another_file_is_not_a_table(tmp_path, text):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(InputError, match="is not a latency table"):
        read_table(path, ONE)
    with pytest.raises(InputError, match="is not a latency table"):
        read_table(tmp_path, ONE)


@pytest.mark.parametrize(
    "shape",
    [
        {"dense": 1},
        {"dense": 10**400, "layout": 0, "curves": {}},
        {"dense": math.nan, "layout": 0, "curves": {}},
        {"dense": 1, "layout": 0, "curves": {"p2x1": [[0.5, math.inf]]}},
        {"dense": 1, "layout": 0, "curves": {"p2x1": [[0.5]]}},
        {"dense": 1, "layout": 0, "curves": {"p9": []}},
        {"dense": 1, "layout": 0, "curves": []},
    ],
)
def test_a_damaged_table_is_refused(tmp_path, shape):
    path = tmp_path / "latency.json"
    path.write_text(json.dumps({environment(ONE): {"a": shape}}))
    with pytest.raises(InputError, match="is not a latency table"):
        read_table(path, ONE)


def test_a_shape_is_all_that_time_depends_on():
    net = Net(("n", 8, 9, 9))
    first = net.relu(net.conv("x", 8))
    second = net.relu(net.conv(first, 8))
    strided = net.relu(net.conv(second, 8, strides=[2, 2]))
    proto = insert(net.model(net.relu(net.node("Add", net.conv(strided, 8), strided)))).model
    sites = find_sites(proto).sites
    a, b, c, d = (site_shapes(proto, sites)[site.name] for site in sites)
    assert a == b and len({a, c, d}) == 3
    assert a.startswith("float32 8x9x9 weight 8x8x3x3") and d.endswith("residual")
