"""Statistics of paired samples: one network before and after a change, on the same samples.

Intervals are for paired proportions: Newcombe, "Improved confidence intervals for the difference
between binomial proportions based on paired data", Statistics in Medicine 17 (1998), method 10.
A score that does not count right samples gets a bootstrap.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, bootstrap

from spatialonnx.errors import UsageError

_RESAMPLES = 1000


@dataclass(frozen=True)
class Discordant:
    """Samples on which the dense and the masked network disagree.

    Attributes:
        lost: Right before, wrong after.
        gained: Wrong before, right after.
    """

    lost: int
    gained: int


def find_discordant(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> Discordant:
    """Counts the samples that are right only before, and only after: bool [n] each."""
    return Discordant(int((before & ~after).sum()), int((~before & after).sum()))


def paired_interval(
    both: int, lost: int, gained: int, neither: int, confidence: float
) -> tuple[float, float]:
    """Two-sided interval of p(right before) - p(right after) for paired samples.

    Newcombe's method 10: Wilson score limits of the two proportions, combined with a
    continuity-corrected phi coefficient.

    Args:
        both: Samples right both times.
        lost: Right before, wrong after.
        gained: Wrong before, right after.
        neither: Wrong both times.
        confidence: Two-sided level, such as 0.95.

    Returns:
        Lower and upper limit of the drop.
    """
    n = both + lost + gained + neither
    if n == 0:
        return -1.0, 1.0
    p1, p2 = (both + lost) / n, (both + gained) / n
    low1, high1 = _wilson(both + lost, n, confidence)
    low2, high2 = _wilson(both + gained, n, confidence)
    product = (both + lost) * (gained + neither) * (both + gained) * (lost + neither)
    phi = 0.0
    if product:
        numerator = both * neither - lost * gained
        if numerator > n / 2:
            numerator_corrected = numerator - n / 2
        elif numerator >= 0:
            numerator_corrected = 0.0
        else:
            numerator_corrected = float(numerator)
        phi = numerator_corrected / math.sqrt(product)
    difference = p1 - p2
    below = (p1 - low1) ** 2 - 2 * phi * (p1 - low1) * (high2 - p2) + (high2 - p2) ** 2
    above = (high1 - p1) ** 2 - 2 * phi * (high1 - p1) * (p2 - low2) + (p2 - low2) ** 2
    return (
        difference - math.sqrt(max(below, 0.0)),
        difference + math.sqrt(max(above, 0.0)),
    )


@functools.lru_cache(maxsize=4096)  # binomtest also finds a p-value, which takes a millisecond
def _wilson(count: int, n: int, confidence: float) -> tuple[float, float]:
    low, high = binomtest(count, n).proportion_ci(confidence, "wilson")
    return float(low), float(high)


def mcnemar_p(discordant: Discordant) -> float:
    """Exact two-sided McNemar test: is a change equally likely in both directions?"""
    n = discordant.lost + discordant.gained
    return float(binomtest(discordant.lost, n).pvalue) if n else 1.0


def check_confidence(confidence: float | None) -> None:
    """Checks a confidence.

    Raises:
        UsageError: It is not between 0.5 and 1.
    """
    if confidence is not None and not 0.5 < confidence < 1:
        raise UsageError(f"--confidence {confidence}: give one between 0.5 and 1, such as 0.95")


def resolution(samples: int, confidence: float = 0.95) -> float:
    """The smallest drop that this many samples can distinguish from none.

    The rule of three: with no lost sample among n, the upper limit of the loss is about
    ``-ln(1 - confidence) / n``.
    """
    return -math.log(1 - confidence) / samples if samples else 1.0


def bootstrap_interval(
    drop: Callable[[NDArray[np.int64]], float], samples: int, confidence: float | None
) -> tuple[tuple[float, float], float | None]:
    """Percentile bootstrap of a drop over the samples, from a fixed seed.

    Args:
        drop: The drop on chosen rows, int64 [samples]; rows may repeat.
        samples: Number of samples.
        confidence: Confidence of the one-sided upper limit; None = no limit.

    Returns:
        The 95 % interval and the upper limit.
    """
    rows = np.arange(samples)
    if samples < 2:
        value = drop(rows)
        return (value, value), None if confidence is None else value
    found = bootstrap(
        (rows,),
        drop,
        vectorized=False,
        n_resamples=_RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    low, high = (float(limit) for limit in found.confidence_interval)
    if confidence is None:
        return (low, high), None
    return (low, high), float(np.quantile(found.bootstrap_distribution, confidence))
