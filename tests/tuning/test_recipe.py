"""Schedules and ranges of a recipe."""

from typing import Any

import pytest

from spatialonnx.errors import UsageError
from spatialonnx.tuning.recipe import Recipe


def test_the_rate_rises_then_falls_to_zero() -> None:
    recipe = Recipe(saved=0.5, rate=0.1, warm_up=0.2)
    rates = [recipe.rate_at(i / 100) for i in range(101)]
    assert rates[0] == 0
    assert max(rates) == rates[20] == pytest.approx(0.1)
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[-1] == pytest.approx(0)


def test_the_budget_falls_from_today_to_the_goal() -> None:
    recipe = Recipe(saved=0.6, ramp=0.5)
    budgets = [recipe.budget_at(i / 10, start=0.8) for i in range(11)]
    assert budgets[0] == pytest.approx(0.8)
    assert budgets[:6] == sorted(budgets[:6], reverse=True)
    assert budgets[5:] == [pytest.approx(0.4)] * 6


def test_a_network_below_its_budget_is_not_pushed_up() -> None:
    assert Recipe(saved=0.3).budget_at(0.0, start=0.5) == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("field", "value", "option"),
    [
        ("saved", 1.0, "--saved"),
        ("saved", 0.0, "--saved"),
        ("epochs", 0, "--epochs"),
        ("batch", 1, "--batch"),
        ("rate", 0.0, "--lr"),
        ("rate", float("nan"), "--lr"),
        ("seed", -1, "--seed"),
    ],
)
def test_what_makes_no_sense_names_its_option(field: str, value: Any, option: str) -> None:
    with pytest.raises(UsageError, match=option):
        Recipe(**{"saved": 0.5, field: value})
