"""Damage: the KL divergence of the logits that the levels of every layer cost.

A few suffix runs a layer turn lost signal into damage. On a plan the damages of its layers add up,
roughly: every plan that is measured corrects what the steps from level to level are believed to
cost (Bayesian linear regression, one rank-one update a plan).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spatialonnx.searching.rate_distortion.operating_points import Level

_BINS = 4000
"""Parts of the damage allowed, to which costs are rounded up when the best plan is looked for."""
_DOUBT = 0.5
"""How far, as a part of itself, a step's damage may be from its guess."""
_INTERACTION = 0.05
"""The part of a plan's damage that no sum over layers explains."""
_LEAST = 0.05
"""A step never costs less than this part of its guess."""


@dataclass(frozen=True)
class Layer:
    """One layer, or coupled ones, with what it may be set to.

    Attributes:
        name: For records.
        levels: By increasing damage and worth; the first is the layer's start.
        damage: KL that each level alone costs, in nats, as far as it was measured.
        worth: What each level is worth beyond the start: MACs saved, or time.
    """

    name: str
    levels: tuple[Level, ...]
    damage: tuple[float, ...]
    worth: tuple[int, ...]


def interpolate(lost: float, points: Sequence[tuple[float, float]]) -> float:
    """Damage of a loss: linear between measured points, and along the last line beyond them."""
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if lost <= x1 or (x1, y1) == points[-1]:
            return y0 + (y1 - y0) * (lost - x0) / (x1 - x0) if x1 > x0 else y1
    return lost


def rising(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Measured points by increasing loss from none on, damage made to rise along them."""
    found = [(0.0, 0.0)]
    for lost, damage in sorted(points):
        found.append((lost, max(damage, found[-1][1])))
    return found


def make_layer(
    name: str, levels: Sequence[Level], damage: Sequence[float], worth: Sequence[int]
) -> Layer:
    """Keeps the start, which is the first, and what is worth more than all that costs no more."""
    order = sorted(range(1, len(levels)), key=lambda i: (damage[i], -worth[i]))
    kept = [0]
    for i in order:
        if worth[i] > worth[kept[-1]]:
            kept.append(i)
    return Layer(
        name,
        tuple(levels[i] for i in kept),
        tuple(damage[i] for i in kept),
        tuple(worth[i] for i in kept),
    )


class Damage:
    """What plans cost, as the sum of their layers' steps.

    A plan is a level a layer, as its number.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        """Believes what every level costs alone."""
        steps = [np.diff(np.asarray(layer.damage)) for layer in layers]
        self._first = np.concatenate([[0], np.cumsum([len(s) for s in steps])]).astype(np.int64)
        self._guess = np.concatenate(steps) if steps else np.zeros(0)
        self._mean = self._guess.copy()
        self._covariance = np.diag(np.square(_DOUBT * self._guess))

    def table(self, layer: int) -> NDArray[np.float64]:
        """The damage of a layer's levels, rising from 0: float64 [levels], in nats."""
        chosen = slice(self._first[layer], self._first[layer + 1])
        steps = np.maximum(self._mean[chosen], _LEAST * self._guess[chosen])
        return np.concatenate([[0.0], np.cumsum(steps)])

    def total(self, plan: Sequence[int]) -> float:
        """The damage of a plan."""
        return float(sum(self.table(layer)[level] for layer, level in enumerate(plan)))

    def learn(self, plan: Sequence[int], damage: float) -> None:
        """Corrects the steps by a plan whose damage was measured."""
        taken = np.zeros(len(self._mean))
        for layer, level in enumerate(plan):
            taken[self._first[layer] : self._first[layer] + level] = 1.0
        spread = self._covariance @ taken
        variance = float(taken @ spread) + (_INTERACTION * damage) ** 2
        if variance > 0:
            gain = spread / variance
            self._mean = self._mean + gain * (damage - float(taken @ self._mean))
            self._covariance = self._covariance - np.outer(gain, spread)


def price_plan(
    worth: Sequence[NDArray[np.int64]], damage: Sequence[NDArray[np.float64]], price: float
) -> tuple[int, ...]:
    """The plan that maximises worth - price * damage, layer by layer; the lower of equals."""
    return tuple(int(np.argmax(w - price * d)) for w, d in zip(worth, damage, strict=True))


def best_plan(
    worth: Sequence[NDArray[np.int64]], damage: Sequence[NDArray[np.float64]], limit: float
) -> tuple[int, ...]:
    """The plan of the largest worth whose damage is within a limit.

    A knapsack with one choice a layer, by dynamic programming over the damage spent so far. A
    price finds the corners of the family of plans only; this finds what lies between.

    Args:
        worth: Of the levels of every layer.
        damage: Likewise, rising from 0.
        limit: The damage allowed; where there is none, every layer stays at its start.
    """
    if limit <= 0:
        return tuple(0 for _ in worth)
    most = np.zeros(_BINS + 1, np.int64)
    choices = []
    for own_worth, own_damage in zip(worth, damage, strict=True):
        costs = np.ceil(own_damage * (_BINS / limit) - 1e-9)
        after = most.copy()
        choice = np.zeros(_BINS + 1, np.int64)
        for level in range(1, len(costs)):
            if costs[level] > _BINS:
                break
            cost = int(costs[level])
            value = most[: _BINS + 1 - cost] + own_worth[level]
            better = value > after[cost:]
            after[cost:][better] = value[better]
            choice[cost:][better] = level
        most = after
        choices.append((choice, costs))
    plan = []
    left = int(np.argmax(most))
    for choice, costs in reversed(choices):
        level = int(choice[left])
        plan.append(level)
        left -= int(costs[level]) if level else 0
    return tuple(reversed(plan))
