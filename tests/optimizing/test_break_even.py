"""What a site must save: the arithmetic, and the times of a real network by site."""

import numpy as np
import pytest
from support.trained import RUNTIME, draw_images

from spatialonnx.graph.sites import find_sites
from spatialonnx.model.model_file import load_model
from spatialonnx.optimizing import break_even
from spatialonnx.optimizing.break_even import BreakEven, _fit, measure_pace


def test_the_share_at_which_both_times_are_equal():
    site = BreakEven(dense=10.0, fixed=2.0, computed=12.0)
    needed = site.needed()
    assert needed == pytest.approx(1 / 3) and site.fused(needed) == pytest.approx(10)
    guarded = site.needed(1.25)
    assert guarded > needed and site.fused(guarded) == pytest.approx(10 / 1.25)


def test_a_site_that_cannot_gain_and_one_that_always_does():
    assert BreakEven(1.0, 1.0, 3.0).needed() is None
    assert BreakEven(10.0, 1.0, 3.0).needed() == 0


def test_a_line_through_two_points():
    site = _fit(10.0, [(0.25, 8.0), (0.75, 4.0)])
    assert (site.fixed, site.computed) == (2.0, 8.0)


def test_points_that_show_no_slope_take_the_dense_time():
    for points in ([(0.5, 4.0), (0.51, 4.0)], [(0.2, 3.0), (0.8, 3.5)]):
        site = _fit(10.0, points)
        assert site.computed == 10.0 and site.fixed >= 0


@pytest.mark.parametrize("large", [10**18, 0])
def test_every_site_of_a_network_is_timed(tiny_files, monkeypatch, large):
    monkeypatch.setattr(break_even, "_LARGE", large)
    proto = load_model(tiny_files.spatial).proto
    images, _ = draw_images(4)
    sites = find_sites(proto).sites
    pace = measure_pace(proto, sites, images, RUNTIME)
    assert pace.sites.keys() == {site.name for site in sites}
    assert all(site.dense > 0 and np.isfinite(site.fixed) for site in pace.sites.values())
    assert sum(site.dense for site in pace.sites.values()) < 2 * pace.seconds


@pytest.mark.parametrize("fixed", [1, 2])
def test_a_network_of_a_fixed_batch_is_timed_in_such_batches(tiny_files, fixed):
    proto = load_model(tiny_files.spatial).proto
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = fixed
    images, _ = draw_images(4)
    sites = find_sites(proto).sites
    pace = measure_pace(proto, sites, images, RUNTIME, fixed=fixed)
    assert pace.sites.keys() == {site.name for site in sites}
