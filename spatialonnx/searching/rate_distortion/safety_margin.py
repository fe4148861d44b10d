"""The margin: what a plan will probably lose on verify, told from select.

The drop that verify shows is the plan's true drop and the luck of verify's images. The first is
estimated on select, from the networks' own confidence where they have one; the second follows
from how many samples the plan changes. Both errors together are the margin.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from scipy.stats import norm

from spatialonnx.measure.certify import Measured
from spatialonnx.plan.masks import SiteMask
from spatialonnx.plan.plan import plan_key

SURENESS = 0.9
"""Probability with which a chosen plan should meet its bound on verify."""
_FARTHEST = 4.0
"""The divergence may be scaled by this much at once, up or down, before it is measured again."""
_SLACK = 1.05
"""Part of the bound up to which the likely drop of a plan is still accepted."""
_EQUAL = 0.005
"""Savings that differ by less than this part count as equal: the smaller divergence decides."""
_INTERVAL = float(norm.ppf(0.975))

Measure = Callable[[Mapping[str, SiteMask]], Measured]


@dataclass(frozen=True)
class Forecast:
    """What a plan will show on verify.

    Attributes:
        drop: Its expected drop.
        spread: The standard deviation of what verify shows about it, the luck of a tuned
            network's start left out.
    """

    drop: float
    spread: float

    @property
    def likely(self) -> float:
        """The drop that is not exceeded with probability ``SURENESS``."""
        return self.drop + float(norm.ppf(SURENESS)) * self.spread


def estimate_drop(measured: Measured, verify_samples: int) -> Forecast:
    """What a plan measured on select will show on so many verify samples.

    A tuned network's start is given, not chosen: its drop is taken as select shows it, and only
    what a plan changes since is doubted.
    """
    n = max(measured.samples, 1)
    moved = measured.moved or measured.discordant
    if moved is not None:
        net = (moved.lost - moved.gained) / n
        variance = max((moved.lost + moved.gained) / n - net**2, 0.0)
    else:
        width = measured.interval[1] - measured.interval[0]
        variance = (width / (2 * _INTERVAL)) ** 2 * n
    drop, error = float(measured.drop), math.sqrt(variance / n)
    if measured.expected is not None and measured.expected_error is not None:
        drop, error = measured.expected, measured.expected_error
    return Forecast(drop, math.sqrt(error**2 + variance / max(verify_samples, 1)))


def scale_damage(forecast: Forecast, start: Forecast, eps: float) -> float:
    """By what the damage of a plan may be multiplied so that its likely drop is ``eps``.

    The expected drop grows in proportion to the damage, its spread with the root of it.

    Args:
        forecast: Of the plan.
        start: Of what the search began with: nothing, unless the model was tuned.
        eps: The bound.
    """
    drop, room = forecast.drop - start.drop, eps - start.likely
    margin = max(forecast.likely - forecast.drop - (start.likely - start.drop), 1e-9)
    if room <= 0:
        return 1 / _FARTHEST
    if drop <= 1e-9:
        root = room / margin
    else:
        root = (math.sqrt(margin**2 + 4 * drop * room) - margin) / (2 * drop)
    return min(max(root**2, 1 / _FARTHEST), _FARTHEST)


@dataclass(eq=False)
class HeldOut:
    """Plans on select, each measured once.

    Attributes:
        measure: Measures a plan on select.
        verify_samples: Size of verify.
    """

    measure: Measure
    verify_samples: int
    known: dict[str, Measured] = field(default_factory=dict)

    def find(self, plan: Mapping[str, SiteMask]) -> Measured:
        """What a plan gives on select."""
        key = plan_key(plan)
        if key not in self.known:
            self.known[key] = self.measure(plan)
        return self.known[key]

    def forecast(self, plan: Mapping[str, SiteMask]) -> Forecast:
        """What a plan will show on verify."""
        return estimate_drop(self.find(plan), self.verify_samples)

    def accepts(self, plan: Mapping[str, SiteMask], eps: Fraction) -> bool:
        """Whether the bound holds on select and will likely be met on verify."""
        return self.find(plan).holds(eps) and self.forecast(plan).likely <= _SLACK * float(eps)

    def scale(self, plan: Mapping[str, SiteMask], start: Forecast, eps: Fraction) -> float:
        """By what the damage of a plan may be multiplied so that it is accepted.

        Args:
            plan: The plan.
            start: What the search began with will show.
            eps: The bound.
        """
        scale = scale_damage(self.forecast(plan), start, float(eps))
        measured = self.find(plan)
        if measured.holds(eps):
            return scale
        shown = float(measured.drop) if measured.upper is None else measured.upper
        return min(scale, max(float(eps) / shown, 1 / _FARTHEST))


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


def prefer_safe(contenders: Sequence[Contender]) -> list[Contender]:
    """The largest saving first; among nearly equal savings, the smaller divergence first."""
    rest = sorted(contenders, key=lambda c: (-c.saved, c.drop or 0))
    order = []
    while rest:
        near = [c for c in rest if c.saved >= rest[0].saved * (1 - _EQUAL)]
        chosen = min(near, key=lambda c: math.inf if c.kl is None else c.kl)
        order.append(chosen)
        rest.remove(chosen)
    return order
