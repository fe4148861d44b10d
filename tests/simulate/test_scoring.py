"""Scoring sample by sample, and when a trial is lost."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from spatialonnx.measure.metrics import AGREEMENT, TOP1, Metric
from spatialonnx.simulate.reference import DenseReference
from spatialonnx.simulate.scoring import Scorer


def draw(seed: int, count: int = 40) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    return rng.normal(0, 1, (count, 5)).astype(np.float32), rng.integers(0, 5, count)


@pytest.mark.parametrize("metric", [TOP1, AGREEMENT], ids=lambda metric: metric.name)
def test_samples_one_by_one_give_what_all_give_together(metric: Metric) -> None:
    dense, labels = draw(0)
    other, _ = draw(1)
    reference = DenseReference(metric, [dense], labels)
    scorer = Scorer(reference, [dense])
    parts = [scorer.score([other[i : i + 1]], np.array([i])) for i in range(len(other))]
    right = np.concatenate([p.right for p in parts if p.right is not None])
    kl = np.concatenate([p.kl for p in parts if p.kl is not None])
    assert Fraction(int(right.sum()), len(right)) == reference.score_of([other])
    assert scorer.mean_kl(kl) == reference.mean_kl([other])


def test_wrong_samples_come_first_and_then_small_margins() -> None:
    dense = np.float32([[9, 0], [0, 1], [2, 0], [1, 0], [0, 5]])
    labels = np.array([0, 0, 0, 0, 1])
    scorer = Scorer(DenseReference(TOP1, [dense], labels), [dense])
    assert scorer.order([dense]).tolist() == [1, 3, 2, 4, 0]


def test_a_metric_that_does_not_count_keeps_the_order() -> None:
    dense, labels = draw(2)
    metric = Metric("python:a:b", lambda outputs, labels: 0.5)
    scorer = Scorer(DenseReference(metric, [dense], labels), [dense])
    assert scorer.order([dense]).tolist() == list(range(40))
    assert scorer.least_right(Fraction(1, 100)) is None


def test_a_drop_of_exactly_the_bound_is_no_reason_to_stop() -> None:
    dense = np.zeros((1000, 2), np.float32)
    dense[:, 1] = 1
    labels = np.ones(1000, np.int64)
    labels[:100] = 0  # 900 right
    scorer = Scorer(DenseReference(TOP1, [dense], labels), [dense])
    assert scorer.least_right(None) is None
    assert scorer.least_right(Fraction(1, 100)) == 890
    assert scorer.least_right(Fraction(1001, 100000)) == 890
    assert scorer.least_right(Fraction(999, 100000)) == 891
    assert scorer.least_right(Fraction(0)) == 900
