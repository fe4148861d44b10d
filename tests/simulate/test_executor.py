"""Executors: plans are started while the budget allows it, and outcomes come with positions."""

from fractions import Fraction

from support.fakesim import FakeSimulator, World

from spatialonnx.plan.masks import uniform_mask
from spatialonnx.simulate.executor import LocalExecutor

WORLD = World(((2, 2, 2), (1, 2, 1)), most_saved=40, seed=11)
PLANS = [{WORLD.names[0]: uniform_mask(2, pattern)} for pattern in (1, 6, 9, 14)]


def test_outcomes_are_the_simulator_s_in_order():
    wanted = list(FakeSimulator(WORLD).simulate(PLANS, Fraction(1, 10)))
    found = list(LocalExecutor(FakeSimulator(WORLD)).run(PLANS, Fraction(1, 10), lambda _: True))
    assert found == list(enumerate(wanted))


def test_nothing_is_started_after_the_first_refusal():
    simulator = FakeSimulator(WORLD)
    asked = []

    def may_start(plan):
        asked.append(plan)
        return len(asked) != 3

    found = list(LocalExecutor(simulator).run(PLANS, None, may_start))
    assert [position for position, _ in found] == [0, 1]
    assert asked == PLANS[:3] and sum(simulator.runs.values()) == 2
