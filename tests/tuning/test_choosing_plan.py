"""Which plan a network is tuned with."""

import pytest
import torch
from support.models import feeds, plain, residual
from support.one_probe import masked

from spatialonnx.errors import UsageError
from spatialonnx.graph.ops import read_plan, write_plan
from spatialonnx.plan.masks import uniform_mask
from spatialonnx.tuning.choosing_plan import (
    CANDIDATES,
    TUNING_GAIN,
    choose_plan,
    most_saved,
    starting_plan,
)
from spatialonnx.tuning.network import GraphNetwork


def test_by_hand_the_mask_is_in_every_site() -> None:
    proto = masked(residual())
    mask = uniform_mask(3, 16)
    assert set(starting_plan(proto, mask).values()) == {mask}
    assert starting_plan(proto, None) == read_plan(proto)


def test_a_model_without_a_plan_needs_one() -> None:
    proto = write_plan(masked(plain()), {})
    with pytest.raises(UsageError, match=r"--pattern 1000 .* --plan auto"):
        starting_plan(proto, None)


def test_most_saved_counts_what_is_no_probe() -> None:
    proto = masked(plain())  # one probe of 2 x 2 in 8 x 8 maps, both Convs are sites
    assert most_saved(GraphNetwork(proto, read_plan(proto))) == pytest.approx(0.75)


def test_a_larger_budget_saves_more_and_costs_more() -> None:
    proto = masked(residual())
    images = [torch.from_numpy(next(iter(feeds(proto, batch=8).values())))]
    kept = []
    for saved in (0.05, 0.2, 0.6):
        plan = choose_plan(proto, images, saved)
        assert plan.keys() == read_plan(proto).keys()
        assert set(plan.values()) <= set(CANDIDATES)
        network = GraphNetwork(proto, plan).eval()
        network.predicts = False
        network.site_observer = lambda site, x, gate: gate(x)
        with torch.no_grad():
            network(images[0])
        kept.append(float(network.kept_share()))
    assert kept == sorted(kept, reverse=True)
    assert kept[0] <= 1 - 0.05 / TUNING_GAIN
    assert kept[1] <= 1 - 0.2 / TUNING_GAIN
    assert kept[1] > 0.7, "patches that die in training are not paid for twice"


def test_a_budget_beyond_every_pattern_says_the_most() -> None:
    proto = masked(residual())
    images = [torch.from_numpy(next(iter(feeds(proto, batch=2).values())))]
    with pytest.raises(UsageError, match=r"can save at most 68\.8 %, were every patch predicted"):
        choose_plan(proto, images, 0.9)
