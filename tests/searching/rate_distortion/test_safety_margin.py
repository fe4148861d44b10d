"""The safety margin: estimates of what verify will show, and the order of contenders."""

import math
from fractions import Fraction

import numpy as np
import pytest

from spatialonnx.measure.measured import Measured
from spatialonnx.measure.statistics import Discordant
from spatialonnx.searching.judge import SelectJudge
from spatialonnx.searching.ranking import Contender, prefer_safe
from spatialonnx.searching.rate_distortion.safety_margin import (
    DropEstimate,
    estimate_drop,
    likely_holds,
    scale_distortion,
    scale_to_bound,
)

NOTHING = DropEstimate(0.0, 0.0)


def measured(lost, gained, samples=1000, **more):
    return Measured(
        drop=Fraction(lost - gained, samples),
        saved=0,
        conv_total=1,
        samples=samples,
        baseline=Fraction(9, 10),
        interval=(-0.01, 0.03),
        discordant=Discordant(lost, gained),
        **more,
    )


def test_an_estimate_spreads_as_verify_scatters():
    """Plans with one true drop, drawn again and again on select and on verify."""
    random = np.random.default_rng(1)
    select, verify, true = 800, 1500, (0.03, 0.02, 0.95)
    within = []
    for _ in range(800):
        lost, gained, _ = random.multinomial(select, true)
        estimate = estimate_drop(measured(lost, gained, select), verify)
        lost, gained, _ = random.multinomial(verify, true)
        within.append((lost - gained) / verify <= estimate.likely)
    assert np.mean(within) == pytest.approx(0.9, abs=0.03)


def test_confidence_takes_the_place_of_counting():
    plain = estimate_drop(measured(30, 10), 5000)
    sure = estimate_drop(measured(30, 10, expected=0.018, expected_error=0.001), 5000)
    assert plain.drop == 0.02 and sure.drop == 0.018 and sure.spread < plain.spread
    assert sure.spread == pytest.approx(math.sqrt(1e-6 + (0.04 - 0.02**2) / 5000))


def test_a_metric_that_does_not_count_is_told_from_its_interval():
    found = estimate_drop(
        Measured(Fraction(1, 100), 0, 1, 100, Fraction(1), (0.0, 0.0392)), verify_samples=100
    )
    assert found.spread == pytest.approx(0.01 * math.sqrt(2), rel=1e-3)


@pytest.mark.parametrize(("drop", "spread"), [(0.01, 0.002), (0.005, 0.001), (0.0, 0.002)])
def test_scaled_distortion_brings_the_likely_drop_to_the_bound(drop, spread):
    scale = scale_distortion(DropEstimate(drop, spread), NOTHING, 0.008)
    scaled = DropEstimate(drop * scale, spread * math.sqrt(scale))
    assert scaled.likely == pytest.approx(0.008) or scale == 4


def test_what_a_tuned_network_lost_already_is_no_longer_there_to_lose():
    whole = scale_distortion(DropEstimate(0.01, 0.0), NOTHING, 0.01)
    less = scale_distortion(DropEstimate(0.014, 0.0), DropEstimate(0.004, 0.0), 0.01)
    assert whole == pytest.approx(1.0) and less == pytest.approx(0.6)
    assert scale_distortion(DropEstimate(0.03, 0.0), DropEstimate(0.02, 0.0), 0.01) == 0.25


def test_among_nearly_equal_savings_the_smaller_divergence_comes_first():
    a = Contender(1000, Fraction(0), "a", 0.03)
    b = Contender(998, Fraction(0), "b", 0.02)
    c = Contender(900, Fraction(0), "c", 0.01)
    assert [x.key for x in prefer_safe([c, a, b])] == ["b", "a", "c"]


def test_a_plan_is_measured_once_on_select():
    asked = []

    def measure(plan):
        asked.append(plan)
        return measured(10, 10)

    judge = SelectJudge(measure, likely_holds, 1000)
    assert judge.find({}) is judge.find({})
    assert judge.accepts({}, Fraction(2, 100)) and not judge.accepts({}, Fraction(2, 1000))
    assert len(asked) == 1


def test_a_plan_that_shows_too_much_on_select_is_scaled_by_what_it_shows():
    """Confidence expects next to nothing, but select shows twice the bound."""
    shown = measured(25, 5, expected=0.001, expected_error=0.0)
    assert not likely_holds(shown, Fraction(1, 100), 10**9)
    assert scale_to_bound(shown, NOTHING, Fraction(1, 100), 10**9) == pytest.approx(0.5)
    assert scale_to_bound(shown, NOTHING, Fraction(2, 100), 10**9) == 4
