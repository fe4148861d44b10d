"""Scores single samples, and finds when a trial can no longer meet its bound."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spatialonnx.measure.metrics import kl_divergence, margins
from spatialonnx.simulate.reference import DenseReference

Rows = NDArray[np.int64]
"""Numbers of samples, in the order of the search samples."""


@dataclass(frozen=True, eq=False)
class RowScores:
    """Scores of some samples.

    Attributes:
        right: bool [m]; None for a metric that does not count.
        kl: float64 [m], nats; None without logits.
        outputs: The network's outputs, kept only for a metric that does not count.
    """

    right: NDArray[np.bool_] | None
    kl: NDArray[np.float64] | None
    outputs: list[NDArray[Any]] | None


class Scorer:
    """Scores single samples; together they give the figures of ``DenseReference``."""

    def __init__(self, reference: DenseReference, off: list[NDArray[Any]]) -> None:
        """Scores the network with every site off.

        Args:
            reference: Results of the baseline, which may be another network.
            off: Outputs of this network with every site off.
        """
        self.reference = reference
        self.counts = reference.metric.counts
        self.samples = len(off[0])
        self.off = off
        scores = self.score(off, np.arange(self.samples))
        self.off_right, self.off_kl = scores.right, scores.kl

    def score(self, outputs: list[NDArray[Any]], rows: Rows) -> RowScores:
        """Scores the outputs of some samples."""
        right = kl = None
        if self.counts:
            assert self.reference.reference is not None
            right = self.reference.metric.right(outputs, self.reference.reference[rows])
        if self.reference.logits is not None:
            logits = self.reference.metric.logits(outputs)
            kl = kl_divergence(self.reference.logits[rows], logits)
        return RowScores(right, kl, None if self.counts else outputs)

    def order(self, dense: list[NDArray[Any]]) -> Rows:
        """The order of samples in which a trial can be rejected earliest.

        First the samples that the dense network gets wrong, which can only gain; then the others,
        those with the smallest margin first.
        """
        labels = self.reference.reference
        if not self.counts or labels is None:
            return np.arange(self.samples)
        logits = self.reference.metric.logits(dense)
        right = self.reference.metric.right(dense, labels)
        margin = np.nan_to_num(margins(logits, labels), nan=0.0)
        return np.lexsort((np.arange(self.samples), margin, right)).astype(np.int64)

    def least_right(self, reject_above: Fraction | None) -> int | None:
        """How many right samples a trial needs so that its drop is at most a bound."""
        if reject_above is None or not self.counts:
            return None
        return math.ceil((self.reference.score - reject_above) * self.samples)

    def mean_kl(self, kl: NDArray[np.float64] | None) -> float | None:
        """The mean of all samples' divergences, summed exactly."""
        return None if kl is None else math.fsum(kl.tolist()) / max(len(kl), 1)
