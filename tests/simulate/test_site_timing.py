"""Timing sites inside the model: which nodes are a site's."""

from __future__ import annotations

import numpy as np
import pytest
from support.masked import masked, names
from support.trained import RUNTIME, draw_images, trained_model

from spatialonnx.runtime.progress import Progress
from spatialonnx.runtime.session import Runtime
from spatialonnx.runtime.timing import NodeTimes, Schedule
from spatialonnx.simulate import site_timing
from spatialonnx.simulate.site_timing import SiteTime, compare_nodes, time_sites


def nodes(**milliseconds: float) -> NodeTimes:
    seconds = {name: np.full(4, 1e-3 * value) for name, value in milliseconds.items()}
    ops = {name: name.split("_")[0] for name in milliseconds}
    return NodeTimes(seconds, ops)


def test_nodes_of_both_models_cancel_and_reordering_is_counted() -> None:
    fused = nodes(Conv_a=5, SpatialConv_s=2, ReorderInput_1=0.3, ReorderOutput_2=0.2)
    dense = nodes(Conv_a=7, Conv_s=3, Add_s=0.5, ReorderInput_9=0.1)
    time = compare_nodes(fused, dense)
    assert time.dense == pytest.approx(3.5e-3)
    assert time.fused == pytest.approx(2e-3)
    assert time.layout == pytest.approx(0.4e-3)
    assert time.gain == pytest.approx(3.5 / 2.4)
    assert SiteTime(dense=3.0, fused=1.0, layout=-2.0).gain == 30, "an odd time gains no millions"
    assert time.saved == pytest.approx(1.1e-3)


def test_a_site_that_saves_reordering_gains_by_it() -> None:
    assert SiteTime(dense=2.0, fused=2.0, layout=-0.5).gain == pytest.approx(4 / 3)


@pytest.mark.parametrize("events", [1, 400_000])
def test_every_fused_site_of_a_model_is_timed(monkeypatch: pytest.MonkeyPatch, events: int) -> None:
    monkeypatch.setattr(site_timing, "_EVENTS", events)
    proto = masked(trained_model())
    first, second, third = names(proto)
    images = [draw_images(1)[0]]
    told: list[Progress] = []
    times = time_sites(
        proto,
        [first, third],
        [second],
        images,
        RUNTIME,
        shares={},
        schedule=Schedule(3),
        progress=told.append,
    )
    assert list(times) == [first, third]
    assert [at.stage for at in told] == [f"timing site {site}" for site in times]
    assert all(time.dense > 0 and time.fused > 0 for time in times.values())


def test_without_a_profiler_the_whole_models_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    proto = masked(trained_model())
    runtime = Runtime("cpu", 1)
    sites = names(proto)
    monkeypatch.setattr("spatialonnx.simulate.site_timing._PROFILED", ())
    shares = dict.fromkeys(sites, 0.3)
    times = time_sites(
        proto, sites, [], [draw_images(1)[0]], runtime, shares=shares, schedule=Schedule(3)
    )
    assert list(times) == sites
    assert all(time.dense > 0 and time.layout == 0 for time in times.values())
