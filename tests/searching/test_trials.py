"""Running trials: nothing twice, budgets, what is rejected and run again."""

import contextlib
import itertools
import random
from fractions import Fraction

import pytest
from support.fakesim import FakeSimulator, World, fake_task, names_of

from spatialonnx.plan.masks import uniform_mask
from spatialonnx.searching.deadline import Deadline
from spatialonnx.searching.greedy import greedy_search
from spatialonnx.searching.modes import MODES
from spatialonnx.searching.study import Study
from spatialonnx.searching.trials import BudgetSpent, Candidate, Trials

WORLD = World(((2, 2, 2), (3, 1, 2), (1, 2, 1)), most_saved=40, seed=11)
PATTERNS = (1, 6, 9)


def search(study, simulator, eps=Fraction(1, 4), mode="uniform-patch", **budgets):
    trials = Trials(simulator, study, eps=eps, **budgets)
    greedy_search(fake_task(trials, PATTERNS, names_of([[0], [1], [2]], WORLD), mode=mode))


def journal(study):
    return [(r.pass_name, r.target, r.option, r.plan_key, r.outcome) for r in study.records()]


def candidate(pattern, site=0):
    name = WORLD.names[site]
    return Candidate(name, str(pattern), {name: uniform_mask(2, pattern)})


@pytest.mark.parametrize("mode", sorted(MODES))
def test_a_second_search_runs_nothing(tmp_path, mode):
    with Study(tmp_path / "s.db") as study:
        first = FakeSimulator(WORLD)
        search(study, first, mode=mode)
        before = journal(study)
        assert sum(first.runs.values()) == study.count()
        again = FakeSimulator(WORLD)
        search(study, again, mode=mode)
        assert again.runs == {}
        assert journal(study) == before


@pytest.mark.parametrize("rejecting", [False, True])
@pytest.mark.parametrize("stops", [[1], [5, 17], list(range(2, 40, 3))])
def test_a_search_that_is_stopped_goes_on(tmp_path, stops, rejecting):
    with Study(tmp_path / "whole.db") as study:
        whole = FakeSimulator(WORLD, rejecting)
        search(study, whole)
        expected = journal(study)
    runs: dict = {}
    for stop in stops:
        simulator = FakeSimulator(WORLD, rejecting, stop_after=stop)
        with Study(tmp_path / "s.db") as study, contextlib.suppress(KeyboardInterrupt):
            search(study, simulator)
        for spread, times in simulator.runs.items():
            runs[spread] = runs.get(spread, 0) + times
    simulator = FakeSimulator(WORLD, rejecting)
    with Study(tmp_path / "s.db") as study:
        search(study, simulator)
        assert journal(study) == expected
    for spread, times in simulator.runs.items():
        runs[spread] = runs.get(spread, 0) + times
    assert runs == whole.runs, "no trial may be run twice"


def test_the_number_of_trials_is_a_budget(tmp_path):
    total = 0
    with Study(tmp_path / "s.db") as study:
        while True:
            simulator = FakeSimulator(WORLD)
            try:
                search(study, simulator, max_trials=7)
            except BudgetSpent:
                assert sum(simulator.runs.values()) == 7
                total += 7
                assert study.count() == total
            else:
                break
        assert sum(simulator.runs.values()) < 7
        found = journal(study)
    with Study(tmp_path / "whole.db") as study:
        search(study, FakeSimulator(WORLD))
        assert journal(study) == found


def test_no_trial_begins_after_the_time_budget(tmp_path):
    simulator = FakeSimulator(WORLD)
    with Study(tmp_path / "s.db") as study, pytest.raises(BudgetSpent):
        search(study, simulator, deadline=Deadline(0))
    assert simulator.runs == {}


class Shuffled:
    """Runs plans like workers do: outcomes arrive in any order."""

    status = ""

    def __init__(self, simulator, at_once, seed):
        self.simulator, self.at_once, self.random = simulator, at_once, random.Random(seed)

    def run(self, plans, reject_above, may_start):
        started = list(itertools.takewhile(may_start, plans))
        found = list(enumerate(self.simulator.simulate(started, reject_above)))
        self.random.shuffle(found)
        yield from found


@pytest.mark.parametrize("mode", sorted(MODES))
@pytest.mark.parametrize("at_once", [1, 7, 1024])
def test_records_do_not_depend_on_the_order_in_which_outcomes_arrive(tmp_path, mode, at_once):
    with Study(tmp_path / "local.db") as study:
        search(study, FakeSimulator(WORLD), mode=mode)
        expected = journal(study)
    with Study(tmp_path / "shuffled.db") as study:
        simulator = FakeSimulator(WORLD)
        search(study, simulator, mode=mode, executor=Shuffled(simulator, at_once, 5))
        assert journal(study) == expected
        assert set(simulator.runs.values()) == {1}


@pytest.mark.parametrize("trials", [1, 9, 25])
def test_what_arrived_before_the_budget_was_spent_is_not_run_again(tmp_path, trials):
    runs = []
    with Study(tmp_path / "local.db") as study:
        search(study, FakeSimulator(WORLD))
        expected = journal(study)
    with Study(tmp_path / "s.db") as study:
        for budget in (trials, None):
            simulator = FakeSimulator(WORLD)
            with contextlib.suppress(BudgetSpent):
                search(study, simulator, executor=Shuffled(simulator, 40, 3), max_trials=budget)
            runs.append(simulator.runs)
        assert sum(runs[0].values()) == trials and not runs[0].keys() & runs[1].keys()
        assert sorted(journal(study), key=str) == sorted(expected, key=str)


def test_what_is_known_needs_no_budget(tmp_path):
    with Study(tmp_path / "s.db") as study:
        search(study, FakeSimulator(WORLD))
        search(study, FakeSimulator(WORLD), deadline=Deadline(0), max_trials=0)


def test_a_rejected_trial_is_run_again_where_a_larger_bound_needs_it(tmp_path):
    with Study(tmp_path / "s.db") as study:

        def run(eps):
            simulator = FakeSimulator(WORLD, rejecting=True)
            trials = Trials(simulator, study, eps=eps)
            (trial,) = trials.run("first", [bad])
            return sum(simulator.runs.values()), trial

        drops = {p: drop_of(candidate(p)) for p in range(1, 15)}
        bad = candidate(next(p for p, drop in drops.items() if drop >= Fraction(1, 5)))
        drop = drop_of(bad)
        times, trial = run(Fraction(1, 10))
        assert times == 1 and trial.drop is None and not trial.feasible(Fraction(1))
        assert trial.outcome.rejected_at == Fraction(1, 10)
        # A smaller bound is answered by the rejection, a larger one is not.
        assert run(Fraction(1, 20))[0] == 0
        times, trial = run(Fraction(1, 8))
        assert times == 1 and trial.outcome.rejected_at == Fraction(1, 8)
        times, trial = run(drop)
        assert times == 1 and trial.drop == drop
        # Once it is known, it is known for all bounds.
        for eps in (Fraction(0), drop, Fraction(1)):
            assert run(eps)[0] == 0
        assert len(list(study.records("first"))) == 1


def drop_of(one):
    _, right = WORLD.score(WORLD.spread(one.plan))
    return Fraction(WORLD.baseline - right, WORLD.samples)


def test_candidates_with_the_same_plan_share_a_run(tmp_path):
    simulator = FakeSimulator(WORLD)
    same = [candidate(9), candidate(6), candidate(9)]
    with Study(tmp_path / "s.db") as study:
        found = list(Trials(simulator, study, eps=Fraction(1, 10)).run("first", same))
    assert found[0] == found[2] != found[1]
    assert sum(simulator.runs.values()) == 2


def test_progress_is_told(tmp_path):
    told = []
    with Study(tmp_path / "s.db") as study:
        trials = Trials(FakeSimulator(WORLD), study, eps=Fraction(1), progress=told.append)
        found = list(trials.run("first", [candidate(p) for p in (1, 6, 9)], expected=10, done=4))
    assert [(s.stage, s.done, s.total) for s in told] == [
        ("first pass", done, 10) for done in (5, 6, 7)
    ]
    best = max(trial.outcome.saved for trial in found)
    assert told[-1].best_saved == best / 1000
    assert [s.best_saved for s in told] == sorted(s.best_saved for s in told)
