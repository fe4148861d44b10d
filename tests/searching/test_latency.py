"""Latency as the goal: what tables say, and what the search does with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.searching import change_job, make_job
from support.trained import RUNTIME, TinyFiles, draw_images

from spatialonnx.data.opening import open_dataset
from spatialonnx.data.split import Split
from spatialonnx.errors import StudyError, UsageError
from spatialonnx.graph.ops import find_predictors
from spatialonnx.measure.experiment import Experiment
from spatialonnx.measure.network import Network
from spatialonnx.measure.samples import Samples
from spatialonnx.model.metadata import get_json
from spatialonnx.model.model_file import load_model
from spatialonnx.plan.masks import uniform_mask
from spatialonnx.plan.patterns import full_pattern
from spatialonnx.runtime.session import Runtime
from spatialonnx.searching import latency as module
from spatialonnx.searching.latency import (
    LatencyModel,
    SiteSpeed,
    fastest_first,
    measure_latency,
)
from spatialonnx.searching.ranking import Contender
from spatialonnx.searching.run import search_masks
from spatialonnx.searching.settings import LATENCY_PATTERNS, Settings, default_mode
from spatialonnx.searching.study import Study
from spatialonnx.simulate.latency_table import ShapeTimes, mask_kind, read_table
from spatialonnx.simulate.measuring_latency import TIMED_IMAGES, timed_images

PATTERNS = (1, 6, 8, 9, 14)
KIND = mask_kind(2, 1)


def twenty(files: TinyFiles, **changes: Any) -> Experiment:
    """The tiny network on twenty search images."""
    dataset = open_dataset(files.spec)
    part = np.arange(20, dtype=np.int64)
    experiment = Experiment(load_model(files.spatial), dataset, Split(part, part, part, 0), RUNTIME)
    return replace(experiment, **changes)


def line(macs: int, dense: float, overhead: float, kinds: tuple[str, ...] = (KIND,)) -> SiteSpeed:
    """A site that takes `overhead` beyond its dense time, less what is in proportion predicted."""
    curve = ((0.0, overhead), (1.0, dense + overhead))
    return SiteSpeed(macs, ShapeTimes(dense, 0.0, dict.fromkeys(kinds, curve)))


def test_what_deploy_would_leave_dense_saves_nothing() -> None:
    speed = line(1000, dense=1e-2, overhead=1e-3)
    assert speed.saved(300, KIND) == pytest.approx(2e-3)
    assert speed.saved(120, KIND) == 0  # a gain below the guard
    assert speed.saved(0, KIND) == 0
    assert speed.saved(300, mask_kind(3, 1)) == 0  # not timed


def test_times_are_measured_once_per_table(
    tiny_files: TinyFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, table = twenty(tiny_files), tmp_path / "latency.json"
    channels = {s.name: s.shape[0] or 0 for s in experiment.sites.sites}
    means = {name: np.full(count, 0.2) for name, count in channels.items()}
    found = measure_latency(experiment, [2, 3], 3, lambda: means, table=table)
    assert list(found.speeds) == [p.site for p in find_predictors(experiment.model.proto)]
    for speed in found.speeds.values():
        assert speed.times.dense > 0 and set(speed.times.curves) == {"p2x3", "p3x3"}
        shares = [kept for kept, _ in speed.times.curves["p2x3"]]
        assert len(shares) == 5 and 0 < shares[0] < shares[-1] <= 1
    assert LatencyModel.from_text(found.to_text()) == found
    assert len(read_table(table, RUNTIME).shapes) == 3

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("the table holds these shapes")

    monkeypatch.setattr(module, "measure_shapes", never)
    assert measure_latency(experiment, [2], 3, never, table=table).speeds == found.speeds
    with pytest.raises(AssertionError, match="the table holds"):
        measure_latency(experiment, [4], 3, lambda: means, table=table)


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', '{"patterns": 1, "macs": {"a": 1}}'])
def test_damaged_times_are_refused(text: str) -> None:
    with pytest.raises(StudyError, match="site times are damaged"):
        LatencyModel.from_text(text)


def test_cuda_is_refused(tiny_files: TinyFiles) -> None:
    with pytest.raises(UsageError, match="--provider cpu"):
        measure_latency(twenty(tiny_files, runtime=Runtime("cuda", 1)), [2], 1, dict)


def test_the_plan_that_saves_the_most_time_is_first(tiny_files: TinyFiles) -> None:
    experiment = twenty(tiny_files)
    first, second, third = (p.site for p in find_predictors(experiment.model.proto))
    macs = {s.name: s.macs_per_output * int(np.prod(s.shape)) for s in experiment.sites.sites}  # type: ignore[arg-type]
    latency = LatencyModel(
        {
            first: line(macs[first], 1e-6, 0.0),
            second: line(macs[second], 1e-6, 0.0),
            third: line(macs[third], 1e-3, 0.0),
        }
    )
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
    latency = LatencyModel({"a": line(300, 3e-4, 1e-6), "b": line(100, 0.1, 0.0)})
    assert latency.benefit(["a"], 400, 2, samples=10) == pytest.approx(39e-6 / 1e-12)
    assert latency.benefit(["a"], 10, 2, samples=10) == 0
    # Coupled sites share what is saved by their size.
    both = latency.benefit(["a", "b"], 400, 2, samples=10)
    assert both == pytest.approx((29e-6 + 10e-3) / 1e-12)


@pytest.mark.parametrize("strategy", ["greedy", "joint"])
def test_a_search_by_latency_prefers_the_site_that_saves_time(
    strategy: str, tiny_files: TinyFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proto = load_model(tiny_files.spatial).proto
    *others, last = (p.site for p in find_predictors(proto))
    speeds = {site: line(10**4, 1e-3, 1.0) for site in others}  # never worth it
    speeds[last] = line(10**4, 1e-3, 0.0)
    times = LatencyModel(speeds, measured_by="another processor")
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
    told: list[str] = []
    again = search_masks(job, lambda step: told.append(step.stage))
    assert again.to_json()["trials"] == report.to_json()["trials"]
    start = "warning: the study's site times are those of another processor: name another"
    assert any(text.startswith(start) for text in told)


def test_a_time_budget_ends_the_timing_of_sites(tiny_files: TinyFiles, tmp_path: Path) -> None:
    """None is predicted then, and the next search times them."""
    settings = Settings(mode="uniform-patch", patterns={2: PATTERNS}, goal="latency")
    job = make_job(tiny_files, tmp_path, "0.5", settings=settings)
    told: list[str] = []
    late = replace(job, budget=replace(job.budget, seconds=0.0))
    report = search_masks(late, lambda step: told.append(step.stage))
    assert any("ended before the sites were timed" in stage for stage in told)
    assert not report.complete and report.trials == 0
    (result,) = report.results
    assert all(mask.is_full for mask in result.plan.values())
    with Study(job.files.study, readonly=True) as study:
        assert "latency" not in study.meta()


def test_a_search_by_latency_measures_shares_few_patterns_and_takes_several_sizes(
    tiny_files: TinyFiles, tmp_path: Path
) -> None:
    settings = Settings(
        mode="uniform-patch", patterns={2: PATTERNS, 3: (1, 16, 257)}, goal="latency"
    )
    job = make_job(tiny_files, tmp_path, "0.5", settings=settings)
    job = change_job(job, latency_table=tmp_path / "latency.json")
    (result,) = search_masks(job).results
    assert read_table(tmp_path / "latency.json", RUNTIME).shapes
    for mask in result.plan.values():
        used = set(mask.patterns.ravel().tolist()) - {full_pattern(mask.patch_size)}
        assert len(used) <= LATENCY_PATTERNS


def test_a_search_by_latency_chooses_by_channel_unless_told() -> None:
    assert default_mode("latency", None) == default_mode("latency", "joint") == "uniform-patch"
    assert default_mode("macs", None) == default_mode("latency", "greedy") == "uniform-layer"


def test_an_unknown_goal_is_refused() -> None:
    with pytest.raises(UsageError, match="macs or latency"):
        Settings(goal="energy")


def test_images_are_as_many_as_the_set_has(tiny_files: TinyFiles) -> None:
    network = Network(load_model(tiny_files.spatial).proto, RUNTIME)
    few = Samples(open_dataset(tiny_files.spec), np.arange(3, dtype=np.int64))
    images = timed_images(network, few)
    assert [batch.shape for batch in images] == [(1, 1, 7, 7)] * TIMED_IMAGES
    assert np.array_equal(images[3], images[0])
    assert not np.array_equal(images[1], draw_images(1)[0])
