"""Ranks the trials that a final plan may be chosen from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from spatialonnx.searching.study import Record

_EQUAL = 0.005
"""Savings with a smaller relative difference count as equal: the smaller divergence decides."""


@dataclass(frozen=True)
class Contender:
    """A trial that may give the final plan.

    Attributes:
        saved: MACs, or another quantity to rank by.
        drop: Drop on the search samples; None if it was not run on them.
        key: Key of its plan.
        kl: Divergence on the search samples; None without logits.
    """

    saved: int
    drop: Fraction | None
    key: str
    kl: float | None


def feasible_trials(
    records: Iterable[Record], baseline: Fraction, eps: Fraction
) -> list[Contender]:
    """Trials whose drop is within a bound, each plan once, without those that save nothing.

    Args:
        records: Records of the trials.
        baseline: The dense network's score on the search samples.
        eps: The largest allowed drop.
    """
    found: dict[str, Contender] = {}
    for record in records:
        score, saved = record.outcome.score, record.outcome.saved
        if score is None or not saved or baseline - score > eps:
            continue
        contender = Contender(saved, baseline - score, record.plan_key, record.outcome.kl)
        found.setdefault(record.plan_key, contender)
    return list(found.values())


def prefer_saved(contenders: Sequence[Contender]) -> list[Contender]:
    """Sorts by saving, the largest first, then by drop, the smallest first."""
    return sorted(contenders, key=lambda c: (-c.saved, c.drop or 0))


def prefer_safe(contenders: Sequence[Contender]) -> list[Contender]:
    """Sorts by saving, the largest first; among nearly equal savings, by divergence."""
    rest = prefer_saved(contenders)
    order = []
    while rest:
        near = [c for c in rest if c.saved >= rest[0].saved * (1 - _EQUAL)]
        chosen = min(near, key=lambda c: math.inf if c.kl is None else c.kl)
        order.append(chosen)
        rest.remove(chosen)
    return order
