"""How many right answers a change of outputs costs, told from the network's own confidence.

Where the top-1 of a sample changes from a to b, q(a) - q(b) right answers are lost in expectation,
q being the unchanged network's probabilities. One temperature makes these honest (Guo et al.,
"On Calibration of Modern Neural Networks", ICML 2017); it is all that the labels decide, so the
mean scatters several times less than a count of right answers does.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

_WIDEST = math.log(20.0)
"""Temperatures between 1/20 and 20: beyond, the logits say nothing of the labels."""


def fit_temperature(logits: NDArray[Any], labels: NDArray[np.int64]) -> float:
    """The temperature at which the labels are likeliest.

    Args:
        logits: [n, classes], finite.
        labels: [n].
    """
    rows = np.arange(len(labels))
    exact = logits.astype(np.float64)

    def unlikeliness(log_temperature: float) -> float:
        scaled = log_softmax(exact / math.exp(log_temperature), axis=1)
        return -float(scaled[rows, labels].mean())

    found = minimize_scalar(unlikeliness, bounds=(-_WIDEST, _WIDEST), method="bounded")
    return math.exp(float(found.x))


def expected_losses(
    before: NDArray[Any], after: NDArray[Any], temperature: float
) -> NDArray[np.float64]:
    """Right answers that every sample is expected to lose, float64 [n], negative for gains.

    Args:
        before: Logits of the unchanged network, [n, classes].
        after: Logits of the changed one.
        temperature: Of the unchanged network.
    """
    rows = np.arange(len(before))
    q = np.exp(log_softmax(before.astype(np.float64) / temperature, axis=1))
    losses: NDArray[np.float64] = (
        q[rows, np.argmax(before, axis=1)] - q[rows, np.argmax(after, axis=1)]
    )
    return losses
