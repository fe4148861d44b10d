"""The greedy search against one written down once more from its description."""

import tempfile
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fakesim import FakeSimulator, World, fake_task, names_of
from support.slow_search import best_of, slow_search

from spatialonnx.plan.patterns import patterns_with_ones
from spatialonnx.searching.greedy import greedy_search, next_layer, rank_options
from spatialonnx.searching.modes import MODES
from spatialonnx.searching.ranking import feasible_trials, prefer_saved
from spatialonnx.searching.study import Study
from spatialonnx.searching.targets import Option, Piece, Region
from spatialonnx.searching.trials import Trials

PASSES = ("first", "patch", "channel", "group", "layer")


def run_search(
    world, mode, patterns, eps, *, max_clusters=0, top=None, groups=None, rejecting=False
):
    """Runs the search; returns the plans of every pass, the simulator and the best trial."""
    simulator = FakeSimulator(world, rejecting)
    groups = names_of(groups or [[i] for i in range(len(world.shapes))], world)
    with tempfile.TemporaryDirectory() as folder, Study(Path(folder) / "s.db") as study:
        trials = Trials(simulator, study, eps=eps)
        task = fake_task(trials, patterns, groups, mode=mode, max_clusters=max_clusters, top=top)
        keys = greedy_search(task)[eps]
        passes = {}
        for name in PASSES:
            records = list(study.records(name))
            if records:
                passes[name] = [world.spread(study.plan(r.plan_key)) for r in records]
        records = [r for r in study.records() if r.plan_key in keys]
        best = prefer_saved(feasible_trials(records, simulator.baseline, eps))
    return passes, simulator, best


worlds = st.builds(
    World,
    shapes=st.lists(
        st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=3
    ).map(tuple),
    samples=st.just(20),
    baseline=st.integers(8, 18),
    most_saved=st.sampled_from([2, 9, 1000]),
    seed=st.integers(0, 10**6),
)
pattern_sets = st.sets(st.integers(1, 14), min_size=1, max_size=3).map(lambda s: tuple(sorted(s)))
bounds = st.sampled_from([Fraction(0), Fraction(1, 20), Fraction(1, 10), Fraction(1, 4)])


@st.composite
def groupings(draw, sites):
    """A partition of the sites, each group in graph order, groups by their first site."""
    homes = [draw(st.integers(0, sites - 1)) for _ in range(sites)]
    groups = {}
    for site, home in enumerate(homes):
        groups.setdefault(home, []).append(site)
    return list(groups.values())


@settings(max_examples=80)
@given(
    data=st.data(),
    world=worlds,
    mode=st.sampled_from(sorted(MODES)),
    patterns=pattern_sets,
    eps=bounds,
    top=st.sampled_from([None, None, 1, 2]),
    rejecting=st.booleans(),
)
def test_every_pass_is_as_described(data, world, mode, patterns, eps, top, rejecting):
    clusters = 0
    if mode == "max-granularity":
        clusters = data.draw(st.sampled_from([0, 1, 2, 4]), label="max clusters")
    groups = data.draw(groupings(len(world.shapes)), label="groups")
    options = {"max_clusters": clusters, "top": top, "groups": groups}
    expected = slow_search(world, mode, patterns, eps, **options)
    passes, _, best = run_search(world, mode, patterns, eps, **options, rejecting=rejecting)
    assert passes.keys() == expected.passes.keys()
    for name, plans in expected.passes.items():
        # A pass lists a plan of an option once; two ranks may give the same plan.
        assert passes[name] == plans, f"{name} pass"
    # The answer: the largest saving within the bound.
    answer = best_of(world, expected.passes["layer"], eps)
    assert answer is not None
    if answer[0] == 0:
        assert best == []
    else:
        saved, drop = best[0].saved, best[0].drop
        assert (saved, drop) == (answer[0], Fraction(world.baseline - answer[1], world.samples))


@settings(max_examples=25)
@given(world=worlds, mode=st.sampled_from(sorted(MODES)), eps=bounds)
def test_no_plan_is_run_twice_and_off_never(world, mode, eps):
    _, simulator, _ = run_search(world, mode, (6, 9), eps)
    by_finest = max(simulator.runs.values(), default=0)
    # Plans that say the same with masks of different shapes are two plans to a study.
    assert by_finest <= 4
    assert all(any(p != world.full for site in spread for p in site) for spread in simulator.runs)


def test_all_patterns_of_a_large_patch_size():
    world = World(((1, 1, 1),), patch_size=3, most_saved=50, seed=5)
    patterns = patterns_with_ones(3, 1, 2)
    passes, _, _ = run_search(world, "uniform-layer", patterns, Fraction(1, 4))
    expected = slow_search(world, "uniform-layer", patterns, Fraction(1, 4))
    assert passes == expected.passes
    assert len(passes["first"]) == 9 + 36


# -- the steps by hand -------------------------------------------------------------------------


def option(saved, right, order=0, off=False):
    pieces = () if off else (Piece(Region("s"), 9),)
    return Option(str(order), order, pieces, saved, Fraction(right, 100))


OFF = option(0, 90, off=True)


def test_the_layer_with_the_largest_ratio_advances():
    # S = 100 + 50. Layer 0: gain 2 for cost 11/151; layer 1: gain 3 for cost 41/151.
    layers = [
        [option(100, 80), option(90, 82), OFF],
        [option(50, 80), option(10, 83), OFF],
    ]
    assert next_layer(layers, [0, 0]) == 0
    # At the second options both are followed by "off" alone.
    assert next_layer(layers, [1, 1]) is None
    # A layer whose next option is "off" takes no part.
    assert next_layer(layers, [1, 0]) == 1


def test_ties_go_to_the_last_layer():
    layers = [[option(10, 80), option(8, 81), OFF]] * 3
    assert next_layer(layers, [0, 0, 0]) == 2
    assert next_layer(layers, [0, 0, 1]) == 1


def test_a_loss_may_be_the_best_step():
    layers = [
        [option(10, 85), option(9, 80), OFF],
        [option(10, 85), option(2, 80), OFF],
    ]
    # gain -5 for both; -5 * 21 / 2 against -5 * 21 / 9: the larger ratio is the dearer step's.
    assert next_layer(layers, [0, 0]) == 1


def test_ratios_are_compared_exactly():
    """Two ratios which differ by less than a float can tell."""
    huge = 10**18
    layers = [
        [option(huge, 80), option(huge - 3 * 10**17, 81), OFF],
        [option(huge, 80), option(huge - 3 * 10**17 - 1, 81), OFF],
    ]
    assert float(Fraction(1, 3 * 10**17 + 1)) == float(Fraction(1, 3 * 10**17 + 2))
    assert next_layer(layers, [0, 0]) == 0


@pytest.mark.parametrize(
    ("options", "order"),
    [
        ([(5, 80, 3), (7, 80, 1), (5, 90, 2)], [1, 2, 3]),
        ([(5, 80, 6), (5, 80, 2), (5, 80, 9)], [2, 6, 9]),
        ([(5, 79, 1), (1, 80, 2)], [2]),
    ],
)
def test_options_are_filtered_and_sorted(tmp_path, options, order):
    world = World(((1, 1, 1),), samples=100, baseline=90)
    with Study(tmp_path / "s.db") as study:
        trials = Trials(FakeSimulator(world), study, eps=Fraction(1, 10))
        ranked = rank_options([option(*values) for values in options], trials, None)
        assert [o.order for o in ranked[:-1]] == order
        assert ranked[-1].is_off and (ranked[-1].saved, ranked[-1].score) == (0, Fraction(9, 10))
        first_two = rank_options([option(*values) for values in options], trials, 1)
        assert [o.order for o in first_two[:-1]] == order[:1]
