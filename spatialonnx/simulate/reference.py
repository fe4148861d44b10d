"""Results of the dense network on the samples."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spatialonnx.measure.metrics import Metric, kl_divergence


class DenseReference:
    """Results of the dense network on the samples; outcomes are compared with them."""

    def __init__(
        self, metric: Metric, dense: list[NDArray[Any]], labels: NDArray[np.int64] | None
    ) -> None:
        """Scores the dense outputs.

        Args:
            metric: What scores outputs.
            dense: The dense network's outputs on all samples.
            labels: int64 [n], or None.
        """
        self.metric = metric
        self.reference = metric.reference(dense, labels)
        self.score = metric.score(dense, self.reference)
        self.logits = metric.logits(dense) if metric.has_logits(dense) else None

    def score_of(self, outputs: list[NDArray[Any]]) -> Fraction:
        """The score of other outputs on the same samples."""
        return self.metric.score(outputs, self.reference)

    def mean_kl(self, outputs: list[NDArray[Any]]) -> float | None:
        """Mean KL of the logits; summed exactly, so that it does not depend on the order."""
        if self.logits is None:
            return None
        divergence = kl_divergence(self.logits, self.metric.logits(outputs))
        return math.fsum(divergence.tolist()) / max(len(divergence), 1)
