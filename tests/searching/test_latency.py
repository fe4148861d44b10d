"""Latency as the goal: the line through two timings, and what the search does with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.searching import make_job
from support.trained import RUNTIME, TinyFiles, draw_images

from spatialonnx.data.opening import open_dataset
from spatialonnx.data.split import Split
from spatialonnx.errors import StudyError, UsageError
from spatialonnx.graph.ops import find_predictors
from spatialonnx.graph.sites import find_sites
from spatialonnx.measure.experiment import Experiment
from spatialonnx.measure.network import Network
from spatialonnx.measure.samples import Samples
from spatialonnx.model.metadata import get_json
from spatialonnx.model.model_file import load_model
from spatialonnx.plan.masks import uniform_mask
from spatialonnx.runtime.session import Runtime
from spatialonnx.searching import latency as module
from spatialonnx.searching.latency import (
    LatencyModel,
    SiteSpeed,
    fastest_first,
    measure_latency,
    predicted_macs,
)
from spatialonnx.searching.ranking import Contender
from spatialonnx.searching.run import search_masks
from spatialonnx.searching.settings import Settings
from spatialonnx.searching.study import Study
from spatialonnx.simulate.site_timing import SiteTime

PATTERNS = (1, 6, 8, 9, 14)


def twenty(files: TinyFiles, **changes: Any) -> Experiment:
    """The tiny network on twenty search images."""
    dataset = open_dataset(files.spec)
    part = np.arange(20, dtype=np.int64)
    experiment = Experiment(load_model(files.spatial), dataset, Split(part, part, part, 0), RUNTIME)
    return replace(experiment, **changes)


def test_what_does_not_make_up_for_the_overhead_saves_nothing() -> None:
    speed = SiteSpeed(macs=1000, overhead=1e-3, per_mac=1e-5)
    assert speed.saved(300) == pytest.approx(2e-3)
    assert speed.saved(100) == 0 and speed.saved(0) == 0


def test_a_site_is_the_line_through_two_timings(
    tiny_files: TinyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine on which every site takes 5 us + 2 ns a MAC kept, and 1 ns a MAC dense."""
    proto = load_model(tiny_files.spatial).proto
    network = Network(proto, RUNTIME)
    sites = find_sites(proto, {network.image_input: (1, 1, 7, 7)}).sites
    total = {s.name: s.macs_per_output * int(np.prod(s.shape)) for s in sites}  # type: ignore[arg-type]

    def timed(masked: Any, fused: Any, dense: Any, images: Any, *_: Any, **__: Any) -> Any:
        saved = predicted_macs(network, sites, images, Network(masked, RUNTIME).plan)
        return {
            s: SiteTime(1e-9 * total[s], 4e-6 + 2e-9 * (total[s] - saved[s]), 1e-6) for s in fused
        }

    monkeypatch.setattr(module, "time_sites", timed)
    found = measure_latency(twenty(tiny_files), 2, PATTERNS)
    for site in sites:
        speed = found.speeds[site.name]
        assert speed.macs == total[site.name]
        assert speed.per_mac == pytest.approx(2e-9)
        assert speed.overhead == pytest.approx(5e-6 + 1e-9 * total[site.name])


def test_times_are_measured(tiny_files: TinyFiles) -> None:
    proto = load_model(tiny_files.spatial).proto
    found = measure_latency(twenty(tiny_files), 2, PATTERNS)
    assert list(found.speeds) == [p.site for p in find_predictors(proto)]
    assert all(speed.per_mac > 0 for speed in found.speeds.values())
    assert LatencyModel.from_text(found.to_text()) == found


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', '{"a": {"macs": 1}}'])
def test_damaged_times_are_refused(text: str) -> None:
    with pytest.raises(StudyError, match="site times are damaged"):
        LatencyModel.from_text(text)


def test_cuda_is_refused(tiny_files: TinyFiles) -> None:
    with pytest.raises(UsageError, match="--provider cpu"):
        measure_latency(twenty(tiny_files, runtime=Runtime("cuda", 1)), 2, PATTERNS)


def test_the_plan_that_saves_the_most_time_is_first(tiny_files: TinyFiles) -> None:
    experiment = twenty(tiny_files)
    first, second, third = (p.site for p in find_predictors(experiment.model.proto))
    slow, fast = SiteSpeed(10**6, 0.0, 1e-9), SiteSpeed(10**6, 0.0, 1e-6)
    latency = LatencyModel({first: slow, second: slow, third: fast})
    mask = uniform_mask(2, 1)
    plans = {
        "many MACs": {first: mask, second: mask},
        "much time": {third: mask},
        "none": {},
    }
    contenders = [Contender(1, None, key, None) for key in plans]
    study = SimpleNamespace(plan=plans.__getitem__)
    ranked = fastest_first(latency, experiment, study, contenders)  # type: ignore[arg-type]
    assert [c.key for c in ranked] == ["much time", "many MACs", "none"]


def test_macs_are_worth_the_time_that_they_save() -> None:
    latency = LatencyModel({"a": SiteSpeed(300, 1e-6, 1e-6), "b": SiteSpeed(100, 0.0, 1e-3)})
    assert latency.benefit(["a"], 400, 10) == pytest.approx(39e-6 / 1e-12)
    assert latency.benefit(["a"], 10, 10) == 0  # less than the overhead
    # Coupled sites share what is saved by their size.
    assert latency.benefit(["a", "b"], 400, 10) == pytest.approx((29e-6 + 10e-3) / 1e-12)


def test_channels_that_may_differ_are_timed_while_they_differ(
    tiny_files: TinyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks: list[Any] = []

    def timed(masked: Any, fused: Any, *_: Any, **__: Any) -> Any:
        masks.append(Network(masked, RUNTIME).plan)
        return {site: SiteTime(1e-3, 1e-3, 0.0) for site in fused}

    monkeypatch.setattr(module, "time_sites", timed)
    for by_channel in (False, True):
        measure_latency(twenty(tiny_files), 2, PATTERNS, by_channel=by_channel)
    kinds = [{tuple(np.unique(mask.patterns)) for mask in plan.values()} for plan in masks]
    assert kinds == [{(14,)}, {(1,)}, {(13, 14)}, {(1, 8)}]


@pytest.mark.parametrize("strategy", ["greedy", "joint"])
def test_a_search_by_latency_prefers_the_site_that_saves_time(
    strategy: str, tiny_files: TinyFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proto = load_model(tiny_files.spatial).proto
    *others, last = (p.site for p in find_predictors(proto))
    speeds = {site: SiteSpeed(10**4, 1.0, 1e-9) for site in others}  # never worth it
    speeds[last] = SiteSpeed(10**4, 0.0, 1e-6)
    times = LatencyModel(speeds)
    monkeypatch.setattr("spatialonnx.searching.run.measure_latency", lambda *_, **__: times)
    settings = Settings(strategy=strategy, patterns={2: PATTERNS}, goal="latency")
    job = make_job(tiny_files, tmp_path, "0.5", settings=settings)
    report = search_masks(job)
    (result,) = report.results
    assert last in {site for site, mask in result.plan.items() if not mask.is_full}
    assert result.path is not None
    assert get_json(load_model(result.path).proto, "search")["goal"] == "latency"
    with Study(job.files.study, readonly=True) as study:
        assert LatencyModel.from_text(study.meta()["latency"]) == times
        assert study.about()["goal"] == "latency"

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("a search that is continued goes by the times that it kept")

    monkeypatch.setattr("spatialonnx.searching.run.measure_latency", never)
    assert search_masks(job).to_json()["trials"] == report.to_json()["trials"]


def test_an_unknown_goal_is_refused() -> None:
    with pytest.raises(UsageError, match="macs or latency"):
        Settings(goal="energy")


def test_images_are_as_many_as_the_set_has(tiny_files: TinyFiles) -> None:
    network = Network(load_model(tiny_files.spatial).proto, RUNTIME)
    few = Samples(open_dataset(tiny_files.spec), np.arange(3, dtype=np.int64))
    images = module.timed_images(network, few)
    assert [batch.shape for batch in images] == [(1, 1, 7, 7)] * module.TIMED_IMAGES
    assert np.array_equal(images[3], images[0])
    assert not np.array_equal(images[1], draw_images(1)[0])
