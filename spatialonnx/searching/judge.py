"""Judges plans on select: each is measured once, and accepted by the strategy's rule."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from spatialonnx.measure.measured import Measured
from spatialonnx.plan.plan import PlanLike, plan_key

Accept = Callable[[Measured, Fraction, int], bool]
"""The rule that accepts a plan measured on select, for a bound and a size of verify."""


def bound_holds(measured: Measured, eps: Fraction, verify_samples: int) -> bool:
    """Whether the bound holds on select."""
    del verify_samples
    return measured.holds(eps)


class SelectJudge:
    """Measures and judges plans on the select samples."""

    def __init__(
        self, measure: Callable[[PlanLike], Measured], accept: Accept, verify_samples: int
    ) -> None:
        """Stores how to measure and accept; nothing is measured.

        Args:
            measure: Measures a plan on select.
            accept: The strategy's rule.
            verify_samples: Size of verify.
        """
        self.verify_samples = verify_samples
        self.known: dict[str, Measured] = {}
        """The measurements, by key of the plan."""
        self._measure = measure
        self._accept = accept

    def find(self, plan: PlanLike) -> Measured:
        """The figures of a plan on select."""
        key = plan_key(plan)
        if key not in self.known:
            self.known[key] = self._measure(plan)
        return self.known[key]

    def accepts(self, plan: PlanLike, eps: Fraction) -> bool:
        """Whether a plan is accepted for a bound."""
        return self._accept(self.find(plan), eps, self.verify_samples)
