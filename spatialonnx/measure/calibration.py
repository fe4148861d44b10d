"""Expected accuracy loss of a change of outputs, from the network's calibrated confidence.

Where the top-1 of a sample changes from a to b, q(a) - q(b) right answers are lost in expectation,
q being the unchanged network's probabilities. One temperature calibrates them (Guo et al., "On
Calibration of Modern Neural Networks", ICML 2017). The labels decide this temperature alone, so the
mean varies several times less than a count of right answers does.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

_WIDEST = math.log(20.0)
"""Temperatures are searched between 1/20 and 20."""


def fit_temperature(logits: NDArray[Any], labels: NDArray[np.int64]) -> float:
    """The temperature that maximises the likelihood of the labels.

    Args:
        logits: [n, classes], finite.
        labels: [n]; labels outside the classes are ignored.
    """
    known = (labels >= 0) & (labels < logits.shape[1])
    if not known.any():
        return 1.0
    exact, labels = logits[known].astype(np.float64), labels[known]
    rows = np.arange(len(labels))

    def negative_likelihood(log_temperature: float) -> float:
        scaled = log_softmax(exact / math.exp(log_temperature), axis=1)
        return -float(scaled[rows, labels].mean())

    found = minimize_scalar(negative_likelihood, bounds=(-_WIDEST, _WIDEST), method="bounded")
    return math.exp(float(found.x))


def expected_losses(
    before: NDArray[Any], after: NDArray[Any], temperature: float
) -> NDArray[np.float64]:
    """Expected loss of right answers per sample, float64 [n]; negative for gains.

    Args:
        before: Logits of the unchanged network, [n, classes].
        after: Logits of the changed one.
        temperature: Temperature of the unchanged network.
    """
    rows = np.arange(len(before))
    q = np.exp(log_softmax(before.astype(np.float64) / temperature, axis=1))
    losses: NDArray[np.float64] = (
        q[rows, np.argmax(before, axis=1)] - q[rows, np.argmax(after, axis=1)]
    )
    return losses
