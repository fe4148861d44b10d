"""Distortion: the KL divergence of the logits caused by the operating points of every layer.

A few trials per layer convert lost signal into distortion. The distortions of a plan's layers add
up approximately. Every measured plan corrects the estimated costs of the steps from point to point
(Bayesian linear regression, one rank-one update per plan).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spatialonnx.searching.rate_distortion.operating_points import OperatingPoint

_BINS = 4000
"""Number of parts of the allowed distortion to which ``best_plan`` rounds costs up."""
_DOUBT = 0.5
"""Relative standard deviation of a step's distortion from its prior."""
_INTERACTION = 0.05
"""Relative standard deviation of a plan's distortion from the sum over its layers."""
_LEAST = 0.05
"""A step costs at least this part of its prior."""


@dataclass(frozen=True)
class Layer:
    """One layer, or coupled ones, with its operating points.

    Attributes:
        name: Name in records.
        points: By increasing distortion and benefit; the first is the layer's initial masks.
        distortion: KL divergence of each point alone, in nats; interpolated where not measured.
        benefit: Saving of each point beyond the first: MACs, or time.
    """

    name: str
    points: tuple[OperatingPoint, ...]
    distortion: tuple[float, ...]
    benefit: tuple[int, ...]


def interpolate(lost: float, points: Sequence[tuple[float, float]]) -> float:
    """Distortion for a lost signal: linear between measured points and beyond the last."""
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if lost <= x1 or (x1, y1) == points[-1]:
            return y0 + (y1 - y0) * (lost - x0) / (x1 - x0) if x1 > x0 else y1
    return lost


def rising(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Measured points by increasing loss, starting from none, with distortion made monotonic."""
    found = [(0.0, 0.0)]
    for lost, distortion in sorted(points):
        found.append((lost, max(distortion, found[-1][1])))
    return found


def make_layer(
    name: str, points: Sequence[OperatingPoint], distortion: Sequence[float], benefit: Sequence[int]
) -> Layer:
    """Keeps the first point, and those that save more than every cheaper point."""
    order = sorted(range(1, len(points)), key=lambda i: (distortion[i], -benefit[i]))
    kept = [0]
    for i in order:
        if benefit[i] > benefit[kept[-1]]:
            kept.append(i)
    return Layer(
        name,
        tuple(points[i] for i in kept),
        tuple(distortion[i] for i in kept),
        tuple(benefit[i] for i in kept),
    )


class DistortionModel:
    """Estimates the distortion of plans as the sum of their layers' steps.

    A plan is the number of one operating point per layer.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        """Initialises the prior from the isolated costs."""
        steps = [np.diff(np.asarray(layer.distortion)) for layer in layers]
        self._first = np.concatenate([[0], np.cumsum([len(s) for s in steps])]).astype(np.int64)
        self._guess = np.concatenate(steps) if steps else np.zeros(0)
        self._mean = self._guess.copy()
        self._covariance = np.diag(np.square(_DOUBT * self._guess))

    def table(self, layer: int) -> NDArray[np.float64]:
        """The distortion of a layer's points, rising from 0: float64 [points], in nats."""
        chosen = slice(self._first[layer], self._first[layer + 1])
        steps = np.maximum(self._mean[chosen], _LEAST * self._guess[chosen])
        return np.concatenate([[0.0], np.cumsum(steps)])

    def total(self, plan: Sequence[int]) -> float:
        """The distortion of a plan."""
        return float(sum(self.table(layer)[point] for layer, point in enumerate(plan)))

    def learn(self, plan: Sequence[int], distortion: float) -> None:
        """Corrects the steps by a plan whose distortion was measured."""
        taken = np.zeros(len(self._mean))
        for layer, point in enumerate(plan):
            taken[self._first[layer] : self._first[layer] + point] = 1.0
        spread = self._covariance @ taken
        variance = float(taken @ spread) + (_INTERACTION * distortion) ** 2
        if variance > 0:
            gain = spread / variance
            self._mean = self._mean + gain * (distortion - float(taken @ self._mean))
            self._covariance = self._covariance - np.outer(gain, spread)


def lagrangian_plan(
    benefit: Sequence[NDArray[np.int64]],
    distortion: Sequence[NDArray[np.float64]],
    multiplier: float,
) -> tuple[int, ...]:
    """The plan that maximises benefit - multiplier * distortion; the lower points among equals."""
    return tuple(
        int(np.argmax(b - multiplier * d)) for b, d in zip(benefit, distortion, strict=True)
    )


def best_plan(
    benefit: Sequence[NDArray[np.int64]], distortion: Sequence[NDArray[np.float64]], limit: float
) -> tuple[int, ...]:
    """The plan of the largest benefit whose distortion is within a limit.

    A knapsack with one choice per layer, by dynamic programming over the distortion spent so far.
    A multiplier finds only the corners of the convex hull of plans; this also finds plans between
    them.

    Args:
        benefit: Benefit of the points of every layer.
        distortion: Their distortion, rising from 0.
        limit: The allowed distortion; if it is 0, every layer keeps its first point.
    """
    if limit <= 0:
        return tuple(0 for _ in benefit)
    most = np.zeros(_BINS + 1, np.int64)
    choices = []
    for own_benefit, own_distortion in zip(benefit, distortion, strict=True):
        with np.errstate(over="ignore"):
            costs = np.ceil(own_distortion / limit * _BINS - 1e-9)
        after = most.copy()
        choice = np.zeros(_BINS + 1, np.int64)
        for point in range(1, len(costs)):
            if costs[point] > _BINS:
                break
            cost = int(costs[point])
            value = most[: _BINS + 1 - cost] + own_benefit[point]
            better = value > after[cost:]
            after[cost:][better] = value[better]
            choice[cost:][better] = point
        most = after
        choices.append((choice, costs))
    plan = []
    left = int(np.argmax(most))
    for choice, costs in reversed(choices):
        point = int(choice[left])
        plan.append(point)
        left -= int(costs[point]) if point else 0
    return tuple(reversed(plan))
