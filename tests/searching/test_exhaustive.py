"""The exhaustive search tries every plan once."""

import itertools
from fractions import Fraction

from support.fakesim import FakeSimulator, World, as_spread, fake_task, names_of

from spatialonnx.searching.exhaustive import count_plans, exhaustive_search
from spatialonnx.searching.settings import EXHAUSTIVE
from spatialonnx.searching.study import Study
from spatialonnx.searching.trials import Trials


def run(world, patterns, groups, path):
    simulator = FakeSimulator(world)
    with Study(path) as study:
        trials = Trials(simulator, study, eps=Fraction(1, 100))
        task = fake_task(trials, patterns, names_of(groups, world))
        (found,) = exhaustive_search(task).values()
        records = [world.spread(study.plan(r.plan_key)) for r in study.records(EXHAUSTIVE)]
    return simulator, found, records


def test_all_products_of_all_patterns_and_off(tmp_path):
    world = World(((2, 1, 2), (1, 2, 1), (1, 1, 1)), seed=4)
    patterns = (1, 6, 9)
    simulator, found, records = run(world, patterns, [[0], [1], [2]], tmp_path / "s.db")
    expected = set()
    for choice in itertools.product((*patterns, world.full), repeat=3):
        patches = {
            (site, patch): pattern
            for site, pattern in enumerate(choice)
            for patch in range([4, 2, 1][site])
        }
        expected.add(as_spread(world, patches))
    assert len(records) == len(expected) == count_plans(patterns, [[0], [1], [2]]) == 4**3
    assert set(records) == expected
    # The plan that is off everywhere is recorded, not run. No filter: plans beyond eps are kept.
    assert set(simulator.runs) == expected - {as_spread(world, {})}
    assert set(simulator.runs.values()) == {1}
    assert len(found) == 4**3 - 1


def test_coupled_sites_are_one_layer(tmp_path):
    world = World(((1, 1, 1),) * 3)
    _, _, records = run(world, (6, 9), [[0, 2], [1]], tmp_path / "s.db")
    assert len(records) == 3**2
    assert all(spread[0] == spread[2] for spread in records)
