"""Targets, clusters and masks; the table of modes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spatialonnx.errors import UsageError
from spatialonnx.graph.sites import Site
from spatialonnx.plan.masks import check_mask_shape
from spatialonnx.searching.modes import MODES, first_targets, merges_of
from spatialonnx.searching.targets import Layout, Piece, Region
from spatialonnx.searching.thresholds import Choice, first_choices

A = Site("a", "conv a", (3, 7, 5), 9)
B = Site("b", "conv b", (2, 4, 4), 18)
LAYOUT = Layout((A, B), 2)
ALONE = (("a",), ("b",))


@pytest.mark.parametrize(
    ("mode", "shapes", "count"),
    [
        ("uniform-layer", [(1, 1, 1), (1, 1, 1)], 2),
        ("uniform-filter", [(1, 4, 3), (1, 2, 2)], 12 + 4),
        ("uniform-patch", [(3, 1, 1), (2, 1, 1)], 3 + 2),
        ("max-granularity", [(3, 4, 3), (2, 2, 2)], 36 + 8),
    ],
)
def test_modes_are_the_four_shapes_of_masks(mode, shapes, count):
    targets = first_targets(MODES[mode], LAYOUT, ALONE)
    assert len(targets) == len({target.name for target in targets}) == count
    for target in targets:
        plan = LAYOUT.plan(Choice("", 0, 9).pieces(target, {}))
        ((name, mask),) = plan.items()
        assert mask.patterns.shape == shapes["ab".index(name)]
        check_mask_shape(mask, LAYOUT.site(name).shape, name)
        # Only the target predicts.
        finest = np.broadcast_to(mask.patterns, [(3, 4, 3), (2, 2, 2)]["ab".index(name)])
        assert set(finest.ravel().tolist()) <= {9, 15}
    together = [piece for t in targets for piece in Choice("", 0, 9).pieces(t, {})]
    assert all((mask.patterns == 9).all() for mask in LAYOUT.plan(together).values())


def test_passes_of_the_modes():
    names = {mode: [m.name for m in merges_of(row, ALONE)] for mode, row in MODES.items()}
    assert names == {
        "uniform-layer": [],
        "uniform-filter": ["patch"],
        "uniform-patch": ["channel"],
        "max-granularity": ["patch", "channel"],
    }
    coupled = (("a", "b"),)
    assert [m.name for m in merges_of(MODES["max-granularity"], coupled)][-1] == "group"
    assert merges_of(MODES["uniform-layer"], coupled) == ()
    assert len(first_targets(MODES["uniform-layer"], LAYOUT, coupled)) == 1


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 40), st.sampled_from([2, 3, 4]))
def test_clusters_are_the_smallest_squares_that_are_few_enough(height, width, most, p):
    site = Site("s", "c", (1, height, width), 1)
    layout = Layout((site,), p, most)
    rows, columns = layout.grid(site)
    side = layout.cluster_side(site)

    def count(s):
        return -(-rows // s) * -(-columns // s)

    if most == 0:
        assert side == 1
    else:
        assert count(side) <= most
        assert side == 1 or count(side - 1) > most
    assert layout.clusters(site) == count(side)


@given(st.integers(1, 13), st.integers(1, 13), st.integers(0, 9))
def test_clusters_cover_every_patch_once(height, width, most):
    site = Site("s", "c", (2, height, width), 1)
    layout = Layout((site,), 2, most)
    side = layout.cluster_side(site)
    covered = np.zeros((2, *layout.grid(site)), int)
    for target in first_targets(MODES["max-granularity"], layout, (("s",),)):
        mask = layout.plan(Choice("", 0, 6).pieces(target, {}))["s"].patterns
        on = mask == 6
        covered += on
        (channels, rows, columns) = (np.unique(axis) for axis in np.nonzero(on))
        assert len(channels) == 1
        assert len(rows) <= side and len(columns) <= side
        assert len(set(rows // side)) == len(set(columns // side)) == 1
    assert (covered == 1).all()


def test_a_plan_takes_the_smallest_shape_that_holds_it():
    pieces = [Piece(Region("a"), 9), Piece(Region("b", channel=1), 6)]
    plan = LAYOUT.plan(pieces)
    assert plan["a"].patterns.tolist() == [[[9]]]
    assert plan["b"].patterns.tolist() == [[[15]], [[6]]]


def test_maps_of_dynamic_size_have_no_patches():
    site = Site("s", "c", (3, None, 8), 1)
    layout = Layout((site,), 2)
    for mode in ("uniform-filter", "max-granularity"):
        with pytest.raises(UsageError, match="site s: its height or width is dynamic"):
            first_targets(MODES[mode], layout, (("s",),))
    for mode in ("uniform-layer", "uniform-patch"):
        assert first_targets(MODES[mode], layout, (("s",),))


def test_thresholds_are_those_of_their_channels():
    means = {"a": np.array([1.0, 2.0, 4.0]), "b": np.array([3.0, 5.0])}
    found = first_choices((6, 9), 2, (0.5,))
    assert [choice.label for choice in found] == ["0110", "0110@0.5", "1001", "1001@0.5"]
    assert [choice.order for choice in found] == sorted(choice.order for choice in found)
    half = found[-1]
    (layer, other), channels = (
        first_targets(MODES[mode], LAYOUT, ALONE) for mode in ("uniform-layer", "uniform-patch")
    )
    assert LAYOUT.plan(half.pieces(layer, means))["a"].threshold.tolist() == [0.5, 1.0, 2.0]
    plan = LAYOUT.plan([*half.pieces(channels[1], means), *found[0].pieces(channels[2], means)])
    assert plan["a"].threshold.tolist() == [0.0, 1.0, 0.0]
    assert plan["a"].patterns.ravel().tolist() == [15, 9, 6]
    assert LAYOUT.plan(found[0].pieces(other, means))["b"].threshold is None
