"""Measurements: drop, discordant counts, and whether a bound is met."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spatialonnx.measure.measured import DenseRun, compare
from spatialonnx.measure.metrics import TOP1, Metric
from spatialonnx.measure.statistics import (
    Discordant,
    mcnemar_p,
    paired_interval,
)


def logits_for(right, labels, classes=3):
    """Logits that are right where told."""
    values = np.zeros((len(labels), classes), np.float32)
    chosen = np.where(right, labels, (labels + 1) % classes)
    values[np.arange(len(labels)), chosen] = 1
    return values


def compare_rights(before, after, confidence=None):
    labels = np.arange(len(before)) % 3
    dense = [logits_for(np.array(before), labels)]
    run = DenseRun(dense, labels, TOP1.score(dense, labels))
    masked = [logits_for(np.array(after), labels)]
    return compare(TOP1, run, masked, saved=30, conv_total=120, confidence=confidence)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_drop_and_discordant_counts(pairs):
    before, after = zip(*pairs, strict=True)
    measured = compare_rights(before, after, confidence=0.95)
    lost = pairs.count((True, False))
    gained = pairs.count((False, True))
    both = pairs.count((True, True))
    assert measured.discordant == Discordant(lost, gained)
    assert measured.drop == Fraction(lost - gained, len(pairs))
    assert measured.baseline == Fraction(sum(before), len(pairs))
    table = (both, lost, gained, len(pairs) - both - lost - gained)
    assert measured.interval == paired_interval(*table, confidence=0.95)
    assert measured.upper == paired_interval(*table, confidence=0.9)[1]
    assert measured.mcnemar_p == mcnemar_p(Discordant(lost, gained))
    assert measured.saved_fraction == 0.25


def test_the_bound_is_met_by_the_drop_or_by_its_upper_limit():
    before = [True] * 190 + [False] * 10
    after = [False] * 2 + [True] * 188 + [False] * 10
    plain = compare_rights(before, after)
    assert plain.drop == Fraction(1, 100)
    assert plain.holds(Fraction(1, 100)) and not plain.holds(Fraction(99, 10000))
    careful = compare_rights(before, after, confidence=0.95)
    assert not careful.holds(Fraction(1, 100)) and careful.drop == Fraction(1, 100)
    assert careful.holds(Fraction(careful.upper) + Fraction(1, 10**9))


def test_a_users_metric_gets_a_bootstrap():
    rng = np.random.default_rng(1)
    dense = [rng.normal(1, 1, (200, 2)).astype(np.float32)]
    masked = [dense[0] - rng.normal(0.1, 0.2, (200, 2)).astype(np.float32)]
    metric = Metric("python:m:f", lambda outputs, labels: float(outputs[0].mean()))
    run = DenseRun(dense, None, metric.score(dense, None))
    measured = compare(metric, run, masked, saved=0, conv_total=1, confidence=0.95)
    again = compare(metric, run, masked, saved=0, conv_total=1, confidence=0.95)
    assert measured == again, "the bootstrap has a seed of its own"
    low, high = measured.interval
    difference = (dense[0] - masked[0]).mean(axis=1, dtype=np.float64)
    half = 1.96 * difference.std(ddof=1) / math.sqrt(200)
    assert low == pytest.approx(difference.mean() - half, abs=half / 5)
    assert high == pytest.approx(difference.mean() + half, abs=half / 5)
    assert low < float(measured.drop) < measured.upper < high
    assert measured.discordant is None and measured.mcnemar_p is None
    assert "discordant" not in measured.to_json()
