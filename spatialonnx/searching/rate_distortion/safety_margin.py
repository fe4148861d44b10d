"""The safety margin: the drop that a plan will probably have on verify, estimated on select.

The drop on verify is the plan's true drop plus the sampling error of verify. The true drop is
estimated on select, from the networks' own confidence if they have one; the sampling error follows
from the number of samples that the plan changes. Both errors together make the margin.
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
"""Largest factor on the divergence, up or down, between two measurements."""
_SLACK = 1.05
"""Fraction of the bound up to which the likely drop of a plan is accepted."""
_INTERVAL = float(norm.ppf(0.975))


@dataclass(frozen=True)
class DropEstimate:
    """The predicted drop of a plan on verify.

    Attributes:
        drop: Its expected drop.
        spread: Standard deviation of the drop on verify about it, without that of a tuned
            network's initial plan.
    """

    drop: float
    spread: float

    @property
    def likely(self) -> float:
        """The drop that is not exceeded with probability ``SURENESS``."""
        return self.drop + float(norm.ppf(SURENESS)) * self.spread


def estimate_drop(measured: Measured, verify_samples: int) -> DropEstimate:
    """Predicts the drop on this many verify samples of a plan measured on select.

    A tuned network's initial plan is given, not chosen: its drop is taken as measured on select,
    and only the change from it has an error.
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
        estimate: Estimate of the plan.
        initial: Measurement of the initial plan, which is off unless the model was tuned.
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
        initial: The initial plan on select.
        eps: The bound.
        verify_samples: Size of verify.
    """
    scale = scale_distortion(estimate_drop(measured, verify_samples), initial, float(eps))
    if measured.holds(eps):
        return scale
    shown = float(measured.drop) if measured.upper is None else measured.upper
    return min(scale, max(float(eps) / shown, 1 / _FARTHEST))
