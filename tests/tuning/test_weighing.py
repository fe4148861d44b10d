"""A MAC budget that weighs sites by their time."""

from pathlib import Path
from typing import Any

import pytest
from support.searching import make_job
from support.trained import TinyFiles, draw_images

import spatialonnx
from spatialonnx.graph.ops import find_predictors
from spatialonnx.plan.masks import uniform_mask
from spatialonnx.plan.plan import Plan
from spatialonnx.searching.latency import LatencyModel, SiteSpeed
from spatialonnx.simulate.latency_table import ShapeTimes, mask_kind
from spatialonnx.tuning import loop, preparation
from spatialonnx.tuning.job import TuneJob
from spatialonnx.tuning.preparation import weigh_by_time
from spatialonnx.tuning.recipe import Recipe


def weights(
    files: TinyFiles, folder: Path, seconds: list[float], monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, float], dict[str, float]]:
    """Shares of the MACs, and weights where predicting everything saves these times."""
    experiment = make_job(files, folder).experiment
    proto = experiment.model.proto
    names = [p.site for p in find_predictors(proto)]
    plan = Plan(dict.fromkeys(names, uniform_mask(2, 1)))
    speeds = {
        name: SiteSpeed(100, ShapeTimes(1.0, 0.0, {mask_kind(2, 1): ((0.0, 1.0), (1.0, 1.0 + s))}))
        for name, s in zip(names, seconds, strict=True)
    }

    def measured(*_: Any, **__: Any) -> LatencyModel:
        return LatencyModel(speeds)

    monkeypatch.setattr(preparation, "measure_latency", measured)
    other = make_job(files, folder).experiment.dataset
    job = object.__new__(TuneJob)  # weights need neither images to learn from nor their checks
    for field, value in {
        "experiment": experiment, "train": other, "recipe": Recipe(saved=0.4), "latency_table": None
    }.items():  # fmt: skip
        object.__setattr__(job, field, value)
    shares = dict(zip(names, (0.2, 0.5, 0.2), strict=True))
    return shares, weigh_by_time(job, proto, plan, shares, None)


def test_weights_are_in_proportion_to_time_and_add_up_to_the_same(
    tiny_files: TinyFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares, found = weights(tiny_files, tmp_path, [0.1, 0.1, 0.4], monkeypatch)
    assert list(found) == list(shares)
    assert list(found.values()) == pytest.approx([0.15, 0.15, 0.6])


def test_where_predictions_save_no_time_macs_count(
    tiny_files: TinyFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, found = weights(tiny_files, tmp_path, [0.0, 0.0, 0.0], monkeypatch)
    assert found == {}


def test_a_tuning_that_continues_goes_by_the_times_that_it_began_with(
    tiny: TinyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = loop.write_journal
    doubled: list[dict[str, float]] = []

    def stop(*arguments: Any) -> None:
        write(*arguments)
        raise KeyboardInterrupt

    def weigh(job: TuneJob, proto: Any, plan: Any, shares: dict[str, float], _: Any) -> Any:
        first, *others = shares
        doubled.append({first: 0.0, **{name: shares[name] for name in others}})
        return doubled[-1]

    def never(*_: Any) -> Any:
        raise AssertionError("sites were timed again")

    def tune(*, resume: bool) -> Any:
        return spatialonnx.tune(
            tiny.model,
            tiny.spec,
            train=draw_images(96, seed=9),
            plan="1000",
            saved=0.2,
            eps=1,
            epochs=2,
            batch=32,
            goal="latency",
            precision="float32",
            threads=1,
            journal="a.journal",
            resume=resume,
        )

    monkeypatch.setattr(preparation, "weigh_by_time", weigh)
    monkeypatch.setattr(loop, "write_journal", stop)
    with pytest.raises(KeyboardInterrupt):
        tune(resume=False)
    monkeypatch.setattr(loop, "write_journal", write)
    monkeypatch.setattr(preparation, "weigh_by_time", never)
    result = tune(resume=True)
    assert len(doubled) == 1 and len(result.epochs) == 2
    assert any("weigh sites by time" in note for note in result.notes)
