"""Few patterns per site: the choice against brute force, and families of the tiny network."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from support.searching import make_job

from spatialonnx.errors import UsageError
from spatialonnx.graph.ops import read_plan
from spatialonnx.model.model_file import load_model
from spatialonnx.plan.patterns import full_pattern
from spatialonnx.searching.identity import study_key
from spatialonnx.searching.modes import MODES
from spatialonnx.searching.rate_distortion.code_tables import Choices
from spatialonnx.searching.rate_distortion.families import find_operating_points
from spatialonnx.searching.rate_distortion.few_patterns import _share
from spatialonnx.searching.run import make_simulator, search_masks
from spatialonnx.searching.settings import LATENCY_PATTERNS, Settings, choose_patterns
from spatialonnx.searching.targets import Layout


def worth(best, columns):
    """What rows gain that take the best of some columns, or nothing."""
    return float(np.maximum(best[:, columns].max(axis=1, initial=0.0), 0.0).sum())


@given(arrays(np.int64, (5, 4), elements=st.integers(-9, 9)), st.integers(0, 3))
def test_shared_patterns_are_about_the_best_ones(values, more):
    best = values.astype(float)
    shared = _share(best, [], more)
    assert len(shared) <= more and len(set(shared)) == len(shared)
    optimum = max(worth(best, list(columns)) for columns in itertools.combinations(range(4), more))
    # Greedy choice of a submodular function: 1 - 1/e of the optimum, and exact for one pattern.
    assert worth(best, shared) >= (1 if more <= 1 else 1 - 1 / np.e) * optimum - 1e-9


def test_patterns_that_are_shared_anyway_come_first():
    best = np.array([[1.0, 5.0, 0.0], [1.0, 0.0, 4.0]])
    assert _share(best, [0], 1) == [0, 1]
    assert _share(best, [0], 0) == [0]


def test_an_exchange_mends_what_the_greedy_choice_spoils():
    best = np.array([[5.0, 6.0, 0.0], [5.0, 0.0, 6.0], [1.0, 1.0, 0.0]])
    assert sorted(_share(best, [], 2)) == [1, 2]


@pytest.mark.parametrize("mode", ["uniform-filter", "uniform-patch", "max-granularity"])
@pytest.mark.parametrize("patch_size", [2, 3])
@pytest.mark.parametrize("most", [1, 3])
def test_a_site_has_few_patterns_and_its_saving_is_exact(
    tiny_files, tmp_path, mode, patch_size, most
):
    simulator = make_simulator(make_job(tiny_files, tmp_path))
    layout, grain = Layout(simulator.sites, patch_size), MODES[mode].grain
    multiples = () if grain.by_patch else (0.3,)
    choices = Choices(range(1, full_pattern(patch_size)), multiples, most)
    for site in simulator.sites:
        off, *points = find_operating_points(simulator, [site.name], grain, layout, choices)
        assert not off.pieces and points
        plans = [layout.plan(point.pieces) for point in points]
        for outcome, plan, point in zip(simulator.simulate(plans), plans, points, strict=True):
            used = set(plan[site.name].patterns.ravel().tolist()) - {full_pattern(patch_size)}
            assert 1 <= len(used) <= most
            assert outcome.saved == point.saved
            assert (outcome.kl == 0) == (point.lost == 0)


def test_a_search_keeps_to_the_limit(tiny_files, tmp_path):
    settings = Settings(
        mode="uniform-patch", patterns=choose_patterns([2, 3], None, ()), max_patterns=2
    )
    job = make_job(tiny_files, tmp_path, eps="0.3", settings=settings)
    (result,) = search_masks(job).results
    plan = read_plan(load_model(result.path).proto).predicting
    assert plan
    for mask in plan.values():
        used = set(mask.patterns.ravel().tolist()) - {full_pattern(mask.patch_size)}
        assert len(used) <= 2
    unlimited = make_job(tiny_files, tmp_path, eps="0.3", settings=Settings(mode="uniform-patch"))
    assert study_key(job) != study_key(unlimited)


def test_the_limit_is_latencys_unless_asked_for():
    assert Settings().pattern_limit is None
    assert Settings(goal="latency").pattern_limit == LATENCY_PATTERNS
    assert Settings(goal="latency", strategy="greedy").pattern_limit is None
    assert Settings(goal="latency", max_patterns=5).pattern_limit == 5
    with pytest.raises(UsageError, match="1 or more"):
        Settings(max_patterns=0)
