"""Statistics of paired samples against published tables and simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from spatialonnx.errors import UsageError
from spatialonnx.measure.statistics import (
    Discordant,
    check_confidence,
    mcnemar_p,
    paired_interval,
    resolution,
)

# Newcombe (1998), Statistics in Medicine 17, 2635-2650, table III, method 10: cells e, f, g, h
# (both, first only, second only, neither) and the 95 % limits of (f - g) / n.
TABLE_III = [
    ((36, 12, 2, 0), (0.0569, 0.3404)),
    ((20, 12, 2, 16), (0.0562, 0.3292)),
    ((18, 12, 2, 18), (0.0562, 0.3290)),
    ((36, 14, 0, 0), (0.1528, 0.4167)),
    ((35, 14, 0, 1), (0.1461, 0.4175)),
    ((18, 14, 0, 18), (0.1441, 0.3963)),
    ((2, 97, 1, 0), (0.8721, 0.9854)),
    ((1, 97, 1, 1), (0.8736, 0.9850)),
    ((0, 29, 1, 0), (0.6666, 0.9882)),
    ((2, 98, 0, 0), (0.9178, 0.9945)),
    ((1, 98, 0, 1), (0.9171, 0.9916)),
    ((0, 30, 0, 0), (0.8395, 1.0)),
    ((54, 0, 0, 0), (-0.0664, 0.0664)),
    ((30, 0, 0, 24), (-0.0358, 0.0358)),
]
# Fagerland, Lydersen and Laake (2014), BMC Medical Research Methodology 14: airway
# hyper-responsiveness before and after a transplantation, and a complete response.
FAGERLAND = [((1, 1, 7, 12), (-0.507, -0.026)), ((59, 6, 16, 80), (-0.119, -0.0046))]

cells = st.tuples(*[st.integers(0, 60)] * 4).filter(lambda table: sum(table) > 0)


@pytest.mark.parametrize(("table", "limits"), TABLE_III)
def test_the_published_table(table, limits):
    assert paired_interval(*table, confidence=0.95) == pytest.approx(limits, abs=1.01e-4)


@pytest.mark.parametrize(("table", "limits"), FAGERLAND)
def test_published_examples(table, limits):
    assert paired_interval(*table, confidence=0.95) == pytest.approx(limits, abs=6e-4)


@given(cells, st.sampled_from([0.8, 0.9, 0.95, 0.99]))
def test_an_interval_holds_the_difference_and_stays_in_range(table, confidence):
    both, lost, gained, neither = table
    low, high = paired_interval(*table, confidence=confidence)
    drop = (lost - gained) / sum(table)
    assert -1 - 1e-12 <= low <= drop + 1e-12
    assert drop - 1e-12 <= high <= 1 + 1e-12
    # Exchanging before and after turns the interval round.
    mirrored = paired_interval(both, gained, lost, neither, confidence=confidence)
    assert mirrored == pytest.approx((-high, -low), abs=1e-12)
    wider = paired_interval(*table, confidence=0.999)
    assert wider[0] <= low + 1e-12 and high <= wider[1] + 1e-12


@pytest.mark.parametrize(
    ("n", "both", "lost", "gained"),
    [(500, 0.90, 0.02, 0.01), (1000, 0.92, 0.012, 0.002), (3000, 0.91, 0.01, 0.01)],
)
def test_coverage_by_simulation(n, both, lost, gained):
    """As often as promised the interval holds the true drop, and the upper limit exceeds it."""
    rng = np.random.default_rng(0)
    draws = rng.multinomial(n, [both, lost, gained, 1 - both - lost - gained], 1500)
    true = lost - gained
    two_sided = one_sided = 0
    for table in draws.tolist():
        low, high = paired_interval(*table, confidence=0.95)
        two_sided += low <= true <= high
        # The upper limit of a one-sided 95 % bound is that of the two-sided 90 % interval.
        one_sided += true <= paired_interval(*table, confidence=0.9)[1]
    # Three standard errors of 1,500 draws are 1.7 points.
    assert 0.933 <= two_sided / 1500 <= 0.975
    assert 0.933 <= one_sided / 1500 <= 0.985


def test_no_samples_say_nothing():
    assert paired_interval(0, 0, 0, 0, confidence=0.95) == (-1.0, 1.0)


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_the_exact_binomial_test(lost, gained):
    n = lost + gained
    tail = binom.cdf(min(lost, gained), n, 0.5)
    expected = min(1.0, 2 * tail) if n else 1.0
    assert mcnemar_p(Discordant(lost, gained)) == pytest.approx(expected, abs=1e-12)


def test_what_n_can_resolve():
    # The rule of three: no event in n leaves rates up to about 3 / n.
    assert resolution(3000) == pytest.approx(0.001, rel=2e-3)
    assert (1 - resolution(500)) ** 500 == pytest.approx(0.05, rel=1e-2)


def test_confidences():
    for good in (None, 0.51, 0.95, 0.999):
        check_confidence(good)
    for bad in (0.0, 0.5, 1.0, 1.5, -0.95, math.nan):
        with pytest.raises(UsageError, match="--confidence"):
            check_confidence(bad)
