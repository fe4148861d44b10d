"""Placement: sites stay together, idle workers take over, nothing is lost or run twice."""

import random

import pytest

from spatialonnx.simulate.placement import Placement


def take(placement, worker, last=0, fewest=1, most=1000):
    site = placement.site(worker, last)
    return site, [] if site is None else placement.take(worker, fewest, most)


def test_each_worker_gets_a_site_of_its_own_and_keeps_it():
    placement = Placement([1, 1, 1, 1, 2, 2, 2, 2])
    assert take(placement, 7) == (1, [0, 1])
    assert take(placement, 8) == (2, [4, 5])
    assert take(placement, 7, last=1) == (1, [2])
    assert take(placement, 7, last=1) == (1, [3])


def test_a_batch_is_at_most_half_of_what_is_left_unless_that_is_too_few():
    placement = Placement([1] * 20)
    assert len(take(placement, 1, fewest=4, most=6)[1]) == 6
    assert len(take(placement, 1, fewest=4, most=100)[1]) == 7
    assert [len(take(placement, 1, fewest=4, most=100)[1]) for _ in range(3)] == [4, 3, 0]


def test_free_sites_are_taken_from_the_last_one_on():
    """Stored activations only move forward."""
    placement = Placement([1, 2, 3])
    assert take(placement, 1, last=2) == (2, [1])
    assert take(placement, 1, last=2) == (3, [2])
    assert take(placement, 1, last=3) == (1, [0])
    assert take(placement, 1, last=1) == (None, [])


def test_an_idle_worker_takes_the_second_half_of_the_longest_queue():
    placement = Placement([1] * 8 + [2] * 4)
    assert take(placement, 1, most=1) == (1, [0])
    assert take(placement, 2, most=1) == (2, [8])
    assert take(placement, 3, most=2) == (1, [4, 5])
    assert take(placement, 1, last=1, most=3) == (1, [1, 2])


def test_what_a_dead_worker_had_is_run_first_and_its_queue_is_free():
    placement = Placement([1] * 4 + [2] * 4)
    first = take(placement, 1, most=2)[1]
    placement.drop(1)
    placement.give_back(first)
    assert take(placement, 2) == (1, [0])
    assert take(placement, 2, last=1) == (1, [1])
    assert take(placement, 2, last=1) == (1, [2])


@pytest.mark.parametrize("seed", range(20))
def test_every_plan_is_run_once_whoever_asks_and_dies(seed):
    draw = random.Random(seed)
    sites = sorted(draw.randint(0, 4) for _ in range(draw.randint(1, 200)))
    placement = Placement(sites)
    finished, last = [], dict.fromkeys(range(draw.randint(1, 5)), 0)
    while len(placement):
        worker = draw.choice(list(last))
        site, plans = take(placement, worker, last[worker], draw.randint(1, 8), draw.randint(1, 50))
        assert plans and all(sites[position] == site for position in plans)
        assert plans == sorted(plans)
        last[worker] = site
        if draw.random() < 0.2:
            placement.drop(worker)
            placement.give_back(plans)
        else:
            finished += plans
    assert sorted(finished) == list(range(len(sites)))
