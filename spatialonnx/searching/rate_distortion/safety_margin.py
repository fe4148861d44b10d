"""The safety margin: what a plan will probably lose on verify, told from select.

The drop that verify shows is the plan's true drop and the luck of verify's images. The first is
estimated on select, from the networks' own confidence where they have one; the second follows
from how many samples the plan changes. Both errors together are the margin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from scipy.stats import norm

from spatialonnx.measure.measured import Measured

SURENESS = 0.9
"""Probability with which a chosen plan should meet its bound on verify."""
_FARTHEST = 4.0
"""The divergence may be scaled by this much at once, up or down, before it is measured again."""
_SLACK = 1.05
"""Part of the bound up to which the likely drop of a plan is still accepted."""
_INTERVAL = float(norm.ppf(0.975))


@dataclass(frozen=True)
class DropEstimate:
    """What a plan will show on verify.

    Attributes:
        drop: Its expected drop.
        spread: The standard deviation of what verify shows about it, that of a tuned network's
            initial plan left out.
    """

    drop: float
    spread: float

    @property
    def likely(self) -> float:
        """The drop that is not exceeded with probability ``SURENESS``."""
        return self.drop + float(norm.ppf(SURENESS)) * self.spread


def estimate_drop(measured: Measured, verify_samples: int) -> DropEstimate:
    """What a plan measured on select will show on so many verify samples.

    A tuned network's initial plan is given, not chosen: its drop is taken as select shows it, and
    only what a plan changes beyond it is doubted.
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
    return DropEstimate(drop, math.sqrt(error**2 + variance / max(verify_samples, 1)))


def scale_distortion(estimate: DropEstimate, initial: DropEstimate, eps: float) -> float:
    """Factor by which distortion may grow before the likely drop reaches ``eps``.

    The expected drop grows in proportion to the distortion, its spread with the root of it.

    Args:
        estimate: Of the plan.
        initial: Of the initial plan, which is off unless the model was tuned.
        eps: The bound.
    """
    drop, room = estimate.drop - initial.drop, eps - initial.likely
    margin = max(estimate.likely - estimate.drop - (initial.likely - initial.drop), 1e-9)
    if room <= 0:
        return 1 / _FARTHEST
    if drop <= 1e-9:
        root = room / margin
    else:
        root = (math.sqrt(margin**2 + 4 * drop * room) - margin) / (2 * drop)
    return min(max(root**2, 1 / _FARTHEST), _FARTHEST)


def likely_holds(measured: Measured, eps: Fraction, verify_samples: int) -> bool:
    """Whether the bound holds on select and will likely be met on verify."""
    likely = estimate_drop(measured, verify_samples).likely
    return measured.holds(eps) and likely <= _SLACK * float(eps)


def scale_to_bound(
    measured: Measured, initial: DropEstimate, eps: Fraction, verify_samples: int
) -> float:
    """Factor by which the distortion of a plan may grow, or must shrink, to be accepted.

    Args:
        measured: The plan on select.
        initial: Of the initial plan.
        eps: The bound.
        verify_samples: Size of verify.
    """
    scale = scale_distortion(estimate_drop(measured, verify_samples), initial, float(eps))
    if measured.holds(eps):
        return scale
    shown = float(measured.drop) if measured.upper is None else measured.upper
    return min(scale, max(float(eps) / shown, 1 / _FARTHEST))
