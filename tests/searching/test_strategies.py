"""The table of strategies: what each can do, and which one is the default."""

import onnx
import pytest
from support.models import plain

from spatialonnx.errors import UsageError
from spatialonnx.searching.settings import Settings
from spatialonnx.searching.strategies import (
    STRATEGIES,
    check_strategy,
    default_strategy,
    find_multiples,
)

TWO_SIZES = {2: (1, 9), 3: (1, 16)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "random"}, "--strategy random: use joint, greedy, exhaustive"),
        ({"strategy": "exhaustive", "mode": "uniform-patch"}, "use --strategy joint or greedy"),
        ({"mode": "uniform-patch", "couple": "block"}, "--couple in .* use --strategy greedy"),
        ({"top": 3}, "--top does not go with --strategy joint: use --strategy greedy"),
        ({"strategy": "greedy", "patterns": TWO_SIZES}, "several patch sizes .* --strategy joint"),
    ],
)
def test_what_a_strategy_cannot_do(options, message):
    with pytest.raises(UsageError, match=message):
        check_strategy(Settings(**options))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_can_couple_whole_layers(strategy):
    check_strategy(Settings(strategy=strategy, couple="block"))


def test_the_default_is_joint_unless_an_option_needs_greedy():
    model = plain(2)
    settings, why = default_strategy(Settings(mode="uniform-patch", patterns=TWO_SIZES), model)
    assert (settings.strategy, why) == ("joint", None)
    settings, why = default_strategy(Settings(mode="uniform-patch", couple="block"), model)
    assert settings.strategy == "greedy" and "--couple" in why
    settings, why = default_strategy(Settings(top=3), model)
    assert settings.strategy == "greedy" and why.startswith("--top goes with")


def test_the_default_is_greedy_for_a_network_without_logits():
    model = plain(2)
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("map", 1, ["n", 5, 8, 8]))
    settings, why = default_strategy(Settings(), model)
    assert settings.strategy == "greedy" and "logits" in why


def test_options_that_no_strategy_takes_together_are_refused():
    settings, _ = default_strategy(Settings(patterns=TWO_SIZES, top=3), plain(2))
    with pytest.raises(UsageError, match="--top does not go with"):
        check_strategy(settings)


def test_thresholds_are_those_of_the_strategy_unless_asked_for():
    assert find_multiples(Settings()) == STRATEGIES["joint"].thresholds
    assert find_multiples(Settings(thresholds=(0.0,))) == ()
    assert find_multiples(Settings(mode="uniform-filter")) == ()
    assert find_multiples(Settings(strategy="greedy")) == ()
    assert find_multiples(Settings(strategy="greedy", thresholds=(0.0, 0.1))) == (0.1,)
