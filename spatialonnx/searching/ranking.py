"""Which trials a final plan may be, the most promising first."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from spatialonnx.searching.study import Record

_EQUAL = 0.005
"""Savings that differ by less than this part count as equal: the smaller divergence decides."""


@dataclass(frozen=True)
class Contender:
    """A trial that a final plan may be.

    Attributes:
        saved: MACs, or whatever it is ordered by.
        drop: On the search samples; None where it was not run on them.
        key: Of its plan.
        kl: Divergence on the search samples; None where there is none.
    """

    saved: int
    drop: Fraction | None
    key: str
    kl: float | None


def feasible_trials(
    records: Iterable[Record], baseline: Fraction, eps: Fraction
) -> list[Contender]:
    """Trials whose drop is within a bound, each plan once; those that save nothing left out.

    Args:
        records: Of the trials.
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
    """The largest saving first, then the smallest drop."""
    return sorted(contenders, key=lambda c: (-c.saved, c.drop or 0))


def prefer_safe(contenders: Sequence[Contender]) -> list[Contender]:
    """The largest saving first; among nearly equal savings, the smaller divergence first."""
    rest = prefer_saved(contenders)
    order = []
    while rest:
        near = [c for c in rest if c.saved >= rest[0].saved * (1 - _EQUAL)]
        chosen = min(near, key=lambda c: math.inf if c.kl is None else c.kl)
        order.append(chosen)
        rest.remove(chosen)
    return order
