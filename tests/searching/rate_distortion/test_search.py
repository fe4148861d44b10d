"""The joint strategy: hulls against brute force, and whole searches of the tiny network."""

import itertools
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.searching import PATTERNS, change_job, make_job, read_journal

from spatialonnx.errors import StudyError, UsageError
from spatialonnx.graph.ops import read_plan, write_plan
from spatialonnx.graph.sites import find_sites
from spatialonnx.model.model_file import ModelFile, load_model
from spatialonnx.plan.masks import full_mask, make_mask
from spatialonnx.plan.outcome import Outcome
from spatialonnx.searching.benefit import count_macs
from spatialonnx.searching.modes import MODES
from spatialonnx.searching.pareto import pareto_front
from spatialonnx.searching.rate_distortion.code_tables import Choices
from spatialonnx.searching.rate_distortion.distortion import (
    DistortionModel,
    best_plan,
    interpolate,
    lagrangian_plan,
    make_layer,
    rising,
)
from spatialonnx.searching.rate_distortion.families import find_operating_points
from spatialonnx.searching.rate_distortion.hull import upper_hull
from spatialonnx.searching.rate_distortion.initial import check_initial, extends
from spatialonnx.searching.rate_distortion.operating_points import OFF, OperatingPoint
from spatialonnx.searching.rate_distortion.profile import (
    PROFILE,
    interpolate_layer,
    least_distortion,
)
from spatialonnx.searching.rate_distortion.search import CHOOSE, REFINE, PlanSearch
from spatialonnx.searching.run import make_simulator, search_masks
from spatialonnx.searching.settings import Settings
from spatialonnx.searching.study import Study
from spatialonnx.searching.targets import Grain, Layout
from spatialonnx.searching.trials import Trial
from spatialonnx.simulate.code_histogram import CodeHistogram

POINTS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=12)


@given(POINTS, st.fractions(0, 50))
def test_the_hull_holds_the_best_point_of_every_multiplier(points, multiplier):
    saved = np.array([s for s, _ in points], np.int64)
    lost = np.array([x for _, x in points], np.float64)
    hull = upper_hull(saved, lost)
    best = max(0, max(s - multiplier * x for s, x in points))
    kept = [0, *(int(saved[i]) - multiplier * Fraction(float(lost[i])) for i in hull)]
    assert max(kept) == best
    assert (np.diff(saved[hull]) > 0).all() and (np.diff(lost[hull]) >= 0).all()


def layer_of(points):
    found = [OFF, *(OperatingPoint(str(i), 2, (), s, float(x)) for i, (s, x) in enumerate(points))]
    distortion = [0.0, *(float(x) for _, x in points)]
    return make_layer("layer", found, distortion, [p.saved for p in found])


def tables_of(layers):
    benefit = [np.asarray(layer.benefit, np.int64) for layer in layers]
    return benefit, [np.asarray(layer.distortion) for layer in layers]


@given(POINTS, st.floats(0, 50))
def test_a_layer_keeps_the_best_level_of_every_multiplier(points, multiplier):
    layer = layer_of(points)
    best = max(0, max(s - multiplier * x for s, x in points))
    (chosen,) = lagrangian_plan(*tables_of([layer]), multiplier)
    assert layer.benefit[chosen] - multiplier * layer.distortion[chosen] == pytest.approx(best)


@given(st.lists(POINTS, min_size=1, max_size=3), st.integers(1, 60))
def test_the_best_plan_is_that_of_all_products(points, limit):
    layers = [layer_of(own) for own in points]
    plan = best_plan(*tables_of(layers), float(limit))
    cost = sum(layer.distortion[i] for layer, i in zip(layers, plan, strict=True))
    assert cost <= limit
    every = itertools.product(*(range(len(layer.points)) for layer in layers))
    # Costs are rounded up to parts of the limit, so the last part of it may stay unused.
    allowed = limit * (1 - len(layers) / 4000)
    best = max(
        sum(layer.benefit[i] for layer, i in zip(layers, other, strict=True))
        for other in every
        if sum(layer.distortion[i] for layer, i in zip(layers, other, strict=True)) <= allowed
    )
    assert sum(layer.benefit[i] for layer, i in zip(layers, plan, strict=True)) >= best


def test_without_any_distortion_allowed_all_is_off():
    assert best_plan(*tables_of([layer_of([(1, 1), (2, 3)])]), 0.0) == (0,)


def test_measured_plans_teach_what_steps_cost():
    layers = [layer_of([(1, 1), (2, 3)]), layer_of([(1, 1), (2, 3)])]
    distortion = DistortionModel(layers)
    assert distortion.total((2, 1)) == 4
    distortion.learn((2, 1), 8.0)
    assert distortion.total((2, 1)) == pytest.approx(8.0, rel=0.1)
    assert distortion.total((1, 0)) > 1 and distortion.table(1)[2] - distortion.table(1)[1] == 2
    before = distortion.table(0)[1]
    distortion.learn((2, 2), 8.2)  # the last step of the second layer costs next to nothing
    assert distortion.total((2, 2)) == pytest.approx(8.2, rel=0.1)
    assert distortion.table(1)[2] - distortion.table(1)[1] < 1
    assert distortion.table(0)[1] == pytest.approx(before, rel=0.2)


def test_distortion_rises_along_what_was_measured():
    assert rising([(4.0, 1.0), (2.0, 3.0)]) == [(0.0, 0.0), (2.0, 3.0), (4.0, 3.0)]


def test_distortion_between_and_beyond_what_was_measured():
    points = [(0.0, 0.0), (2.0, 1.0), (4.0, 5.0)]
    assert [interpolate(x, points) for x in (0.0, 1.0, 2.0, 3.0, 4.0)] == [0, 0.5, 1, 3, 5]
    assert interpolate(5.0, points) == 7.0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("patch_size", [2, 3])
def test_a_levels_saving_is_what_its_trial_saves(tiny_files, tmp_path, mode, patch_size):
    simulator = make_simulator(make_job(tiny_files, tmp_path))
    layout = Layout(simulator.sites, patch_size)
    for site in simulator.sites:
        patterns = range(1, 2 ** (patch_size**2) - 1)
        off, *found = find_operating_points(
            simulator, [site.name], MODES[mode].grain, layout, Choices(patterns)
        )
        assert off == OFF and found and found == sorted(found, key=lambda point: point.saved)
        for outcome, point in zip(
            simulator.simulate(layout.plan(point.pieces) for point in found), found, strict=True
        ):
            assert outcome.saved == point.saved
            assert (outcome.kl == 0) == (point.lost == 0)


@pytest.mark.parametrize("mode", ["uniform-layer", "uniform-patch"])
@pytest.mark.parametrize("patch_size", [2, 3, 4])
def test_thresholds_widen_the_family_and_are_counted_exactly(
    tiny_files, tmp_path, mode, patch_size
):
    simulator = make_simulator(make_job(tiny_files, tmp_path))
    layout, grain = Layout(simulator.sites, patch_size), MODES[mode].grain
    patterns = range(1, 2 ** (patch_size**2) - 1, 1 if patch_size < 4 else 97)
    for site in simulator.sites:
        plain, more = (
            find_operating_points(
                simulator, [site.name], grain, layout, Choices(patterns, thresholds)
            )
            for thresholds in ((), (0.2, 0.6))
        )
        assert more[-1].saved > plain[-1].saved
        plans = [layout.plan(point.pieces) for point in more[1:]]
        assert any(plan[site.name].threshold is not None for plan in plans)
        for outcome, point in zip(simulator.simulate(plans), more[1:], strict=True):
            assert outcome.saved == point.saved


def test_a_search_with_thresholds_writes_them(tiny_files, tmp_path):
    settings = joint(mode="uniform-patch", thresholds=(0.0, 0.3, 0.6))
    job = make_job(tiny_files, tmp_path, eps="0.3", settings=settings)
    (result,) = search_masks(job).results
    carried = read_plan(load_model(result.path).proto).predicting
    assert carried == result.plan
    assert any(mask.threshold is not None for mask in carried.values())
    # Continued, it chooses the same; another list of thresholds is another study.
    assert search_masks(change_job(job, trials=0)).results[0].plan == result.plan
    with pytest.raises(StudyError, match="thresholds"):
        other = replace(settings, thresholds=(0.0, 0.3))
        search_masks(change_job(job, settings=other))


def joint(**changes):
    return Settings(**{"patterns": PATTERNS} | changes)


@pytest.mark.parametrize("mode", MODES)
def test_a_search_ends_within_the_bound_on_search_and_select(tiny_files, tmp_path, mode):
    settings = joint(mode=mode, patterns={**PATTERNS, 3: (1, 16, 273)})
    report = search_masks(make_job(tiny_files, tmp_path, eps="0.3", settings=settings))
    (result,) = report.results
    assert report.complete and result.search["drop"] <= 0.3 and float(result.select.drop) <= 0.3
    carried = {s: m for s, m in read_plan(load_model(result.path).proto).items() if not m.is_full}
    assert carried == {s: m for s, m in result.plan.items() if not m.is_full}
    assert result.plan and result.search["saved_fraction"] > 0


def test_a_finished_search_runs_nothing_again(tiny_files, tmp_path):
    job = make_job(tiny_files, tmp_path, eps="0.3", settings=joint())
    first = search_masks(job)
    journal = read_journal(tmp_path / "study.db")
    passes = {line[0] for line in journal}
    assert {PROFILE, CHOOSE} <= passes <= {PROFILE, CHOOSE, REFINE}
    again = search_masks(change_job(job, trials=0))
    assert again.complete and again.trials == first.trials
    assert again.results[0].plan == first.results[0].plan
    assert read_journal(tmp_path / "study.db") == journal


def test_a_cut_search_continues(tiny_files, tmp_path):
    job = make_job(tiny_files, tmp_path, eps="0.3", settings=joint())
    part = search_masks(change_job(job, trials=4))
    assert not part.complete
    with Study(tmp_path / "study.db", readonly=True) as study:
        assert study.count() == 4
    whole = search_masks(job)
    other = tmp_path / "other"
    other.mkdir()
    straight = search_masks(change_job(job, study=other / "s.db", output=other / "o.masked.onnx"))
    assert whole.results[0].plan == straight.results[0].plan


def test_several_bounds_share_a_search(tiny_files, tmp_path):
    report = search_masks(make_job(tiny_files, tmp_path, eps="0.1,0.3,0.6", settings=joint()))
    saved = [result.search["saved_fraction"] for result in report.results]
    assert saved == sorted(saved) and saved[-1] > saved[0]
    for result, eps in zip(report.results, (0.1, 0.3, 0.6), strict=True):
        assert result.search["drop"] is None or result.search["drop"] <= eps
        assert float(result.select.drop) <= eps
        assert f"eps{eps:g}" in result.path.name
    assert report.to_json()["select_plans"] >= 1


def test_no_time_is_no_plan_and_a_study_to_go_on_with(tiny_files, tmp_path):
    job = make_job(tiny_files, tmp_path, eps="0.3", settings=joint(), seconds=0.0)
    report = search_masks(job)
    assert not report.complete and report.results[0].plan == {}
    assert search_masks(change_job(job, seconds=None)).results[0].plan


def test_the_bound_holds_at_a_confidence(tiny_files, tmp_path):
    report = search_masks(
        make_job(tiny_files, tmp_path, eps="0.4", settings=joint(), confidence=0.9)
    )
    (result,) = report.results
    assert result.select.upper is not None and result.select.upper <= 0.4


def test_the_pareto_front_of_a_joint_study_is_listed(tiny_files, tmp_path):
    report = search_masks(make_job(tiny_files, tmp_path, eps="0.3", settings=joint()))
    with Study(tmp_path / "study.db", readonly=True) as study:
        front = pareto_front(study)
    assert max(saved for saved, _, _ in front) >= report.results[0].search["saved_fraction"]


def test_what_select_refuses_is_never_chosen(tiny_files, tmp_path, monkeypatch):
    """Every plan above some divergence is refused: rounds go on below, the choice lies there."""
    refused = []

    def accepts(self, plan, eps):
        if self.find(plan).kl <= 1e-3:
            return True
        refused.append(plan)
        return False

    monkeypatch.setattr("spatialonnx.searching.judge.SelectJudge.accepts", accepts)
    report = search_masks(make_job(tiny_files, tmp_path, eps="0.3", settings=joint()))
    (result,) = report.results
    assert refused and result.plan not in refused
    assert result.select.kl is not None and result.select.kl <= 1e-3


def test_a_tuned_network_is_searched_against_its_original(tiny_files, tmp_path):
    job = tuned_job(tiny_files, tmp_path, "0.3", settings=joint())
    off = write_plan(job.experiment.model.proto, {site: full_mask(2) for site in job.initial})
    job = change_job(job, model=replace(job.experiment.model, proto=off))
    (result,) = search_masks(job).results
    assert result.plan and result.select.expected is not None
    off = next(line for line in read_journal(job.files.study) if line[2] == "off")
    assert off[6] > 0  # the logits differ from the original's with prediction off


CARRIED = (6, 9)
"""Patterns that a network is tuned with, channel by channel, in turns."""


def carried_plan(proto):
    sites = find_sites(proto, {"input": (1, 1, 12, 12)}).sites
    return {
        site.name: make_mask(2, np.resize(CARRIED, site.shape[0])[:, None, None])
        for site in sites[:-1]
    }


def tuned_job(files, folder, eps, **changes):
    """The tiny network, its weights a little changed, with masks on: as if tuned with them."""
    proto = load_model(files.spatial).proto
    for tensor in proto.graph.initializer:
        if list(tensor.dims) == [196, 4]:
            values = np.frombuffer(tensor.raw_data, np.float32)
            tensor.raw_data = (values * np.float32(1.05)).tobytes()
    proto = write_plan(proto, carried_plan(proto))
    changes.setdefault("settings", joint(mode="uniform-patch"))
    return make_job(
        files, folder, eps, model=ModelFile(folder / "tuned.masked.onnx", proto, "1" * 64),
        baseline=load_model(files.model), **changes,
    )  # fmt: skip


@pytest.mark.parametrize("mode", ["uniform-patch", "max-granularity"])
def test_levels_go_on_from_the_masks_of_a_tuned_network(tiny_files, tmp_path, mode):
    job = tuned_job(tiny_files, tmp_path, "0.3")
    simulator = make_simulator(job)
    layout = Layout(simulator.sites, 2)
    (begun,) = simulator.simulate([job.initial])
    for site in simulator.sites:
        start, *found = find_operating_points(
            simulator, [site.name], MODES[mode].grain, layout, Choices(range(1, 15)), job.initial
        )
        assert found
        masks = [layout.plan(point.pieces)[site.name].patterns for point in found]
        carried = job.initial.get(site.name)
        assert carried is None or all((mask & carried.patterns == mask).all() for mask in masks)
        plans = [{**job.initial, **layout.plan(point.pieces)} for point in found]
        for outcome, point in zip(simulator.simulate(plans), found, strict=True):
            assert outcome.kl == begun.kl or point.lost > 0
            if site is simulator.sites[-1]:  # no other site sees what it does
                assert outcome.saved - begun.saved == point.saved - start.saved


def test_a_tuned_network_is_searched_from_its_masks(tiny_files, tmp_path):
    job = tuned_job(tiny_files, tmp_path, "0.6")
    (result,) = search_masks(job).results
    begun = next(line for line in read_journal(job.files.study) if line[2] == "start")
    assert result.search["saved_fraction"] > begun[5] / make_simulator(job).conv_total
    for site, mask in job.initial.items():
        assert (result.plan[site].patterns & mask.patterns == result.plan[site].patterns).all()


def test_a_tuned_network_keeps_its_masks_where_nothing_else_holds(
    tiny_files, tmp_path, monkeypatch
):
    monkeypatch.setattr("spatialonnx.searching.judge.SelectJudge.accepts", lambda *_: False)
    job = tuned_job(tiny_files, tmp_path, "0.3")
    (result,) = search_masks(job).results
    assert result.plan == job.initial and result.search["saved_fraction"] > 0


def test_a_search_cut_before_its_first_trial_keeps_the_masks(tiny_files, tmp_path):
    job = tuned_job(tiny_files, tmp_path, "0.3", trials=0)
    report = search_masks(job)
    (result,) = report.results
    assert not report.complete and result.plan == job.initial
    assert result.search["drop"] is None and result.search["saved_fraction"] is None
    assert any("nothing beyond the masks" in note for note in report.notes)


def test_a_cut_search_of_a_tuned_network_continues(tiny_files, tmp_path):
    job = tuned_job(tiny_files, tmp_path, "0,0.6")
    assert not search_masks(change_job(job, trials=3)).complete
    whole = search_masks(job)
    other = tmp_path / "other"
    other.mkdir()
    straight = search_masks(change_job(job, study=other / "s.db", output=other / "o.masked.onnx"))
    plans = [[result.plan for result in report.results] for report in (whole, straight)]
    assert plans[0] == plans[1]


def test_a_level_is_not_blind_where_its_start_is_not():
    histogram = CodeHistogram(2, (1, 7, 7))
    patterns = np.arange(1, 15)
    kept = patterns[extends(patterns, 0b1001, histogram.borders.tolist(), 2)]
    # 1000 is the last position of a patch: outside in the last row and column.
    assert kept.tolist() == [0b0001, 0b1001]
    borders = histogram.borders.tolist()
    assert patterns[extends(patterns, 0b1110, borders, 2)].tolist() == [0b0110, 0b1110]
    assert extends(patterns, 0b1111, borders, 2).all()


def test_no_level_of_a_tuned_network_is_for_nothing():
    found = [OFF, *(OperatingPoint(str(i), 2, (), 10 * i, float(i)) for i in range(1, 5))]
    nearer, dearer = [[(1.0, -0.01), (3.0, -0.02)]], [[(1.0, 0.01), (3.0, 0.02)]]
    least = least_distortion([nearer, dearer])
    assert 0 < least < 0.02
    layer = interpolate_layer(["a"], [found], nearer, least, count_macs)
    assert len(layer.points) == 5 and (np.diff(layer.distortion) > 0).all()
    assert least_distortion([nearer]) > 0


def test_a_start_that_the_search_cannot_hold(tiny_files, tmp_path):
    job = tuned_job(tiny_files, tmp_path, "0.3")
    with pytest.raises(UsageError, match="finer masks than this --mode"):
        search_masks(change_job(job, settings=joint(), study=tmp_path / "a.db"))
    with pytest.raises(UsageError, match="search with --patch-size 2"):
        settings = joint(mode="uniform-patch", patterns={3: (1, 16)})
        search_masks(change_job(job, settings=settings, study=tmp_path / "b.db"))
    assert not list(tmp_path.glob("*.db"))
    sites = find_sites(job.experiment.model.proto, {"input": (1, 1, 12, 12)}).sites
    layouts = {size: Layout(sites, size) for size in (2, 3)}
    names = [site.name for site in sites[:2]]
    for size, message in ((3, "different patch sizes"), (2, "different masks")):
        other = {names[0]: make_mask(2, [[[6]]]), names[1]: make_mask(size, [[[1]]])}
        with pytest.raises(UsageError, match=message):
            check_initial(other, [names], Grain(), layouts)


class StubTrials:
    """Two layers whose steps each cost 0.01 nats, as believed, and half a point."""

    eps = Fraction(3, 100)
    simulator = SimpleNamespace(samples=1000)

    def run(self, name, candidates, expected=None, done=0, *, reject=True):
        for candidate in candidates:
            steps = sum(map(int, candidate.option.split(",")))
            drop = Fraction(steps, 200)
            stopped = reject and drop > self.eps
            outcome = Outcome(
                score=None if stopped else 1 - drop,
                saved=10 * steps,
                kl=None if stopped else 0.01 * steps,
                forward_samples=1.0,
                seconds=0.0,
                rejected_at=self.eps if stopped else None,
            )
            yield Trial(candidate.option, outcome, None if stopped else drop)


def test_a_search_whose_plans_are_stopped_retreats_until_one_holds(monkeypatch):
    searching = "spatialonnx.searching.rate_distortion.search"
    monkeypatch.setattr(f"{searching}.estimate_drop", lambda *_: None)
    monkeypatch.setattr(f"{searching}.scale_to_bound", lambda *_: 0.9)
    points = [OFF, *(OperatingPoint(str(i), 2, (), 10 * i, float(i)) for i in range(1, 11))]
    distortion = [0.01 * i for i in range(11)]
    layers = [make_layer(name, points, distortion, [x.saved for x in points]) for name in "ab"]
    judge = SimpleNamespace(verify_samples=1, find=lambda plan: None, accepts=lambda *_: True)
    begun = SimpleNamespace(outcome=SimpleNamespace(kl=0.0), drop=Fraction(0))
    layouts = {2: SimpleNamespace(plan=lambda pieces: {})}
    search = PlanSearch(StubTrials(), layers, layouts, judge, {}, begun)
    limit = search.run(StubTrials.eps)
    # The only plan that bisection meets loses three times the bound, and so do those near it.
    found = [trial.outcome.saved for trial in search.within(limit, StubTrials.eps)]
    assert found and max(found) >= 40
    # Select allows what loses five times this bound on the search samples, which settles it.
    eps = StubTrials.eps / 6
    monkeypatch.setattr(f"{searching}.scale_to_bound", lambda *_: 1.0)
    before = len(search._tried)
    found = [trial.outcome.saved for trial in search.within(search.run(eps), eps)]
    assert found == [10] and len(search._tried) <= before + 6
