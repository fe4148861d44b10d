"""What select says of plans: each is measured once, and accepted by the strategy's rule."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from spatialonnx.measure.measured import Measured
from spatialonnx.plan.plan import PlanLike, plan_key

Accept = Callable[[Measured, Fraction, int], bool]
"""Whether a plan measured on select is accepted for a bound, given the size of verify."""


def bound_holds(measured: Measured, eps: Fraction, verify_samples: int) -> bool:
    """Whether the bound holds on select."""
    del verify_samples
    return measured.holds(eps)


class SelectJudge:
    """Plans on the select samples."""

    def __init__(
        self, measure: Callable[[PlanLike], Measured], accept: Accept, verify_samples: int
    ) -> None:
        """Measures nothing yet.

        Args:
            measure: Measures a plan on select.
            accept: The strategy's rule.
            verify_samples: Size of verify.
        """
        self.verify_samples = verify_samples
        self.known: dict[str, Measured] = {}
        """What was measured, by key of the plan."""
        self._measure = measure
        self._accept = accept

    def find(self, plan: PlanLike) -> Measured:
        """What a plan gives on select."""
        key = plan_key(plan)
        if key not in self.known:
            self.known[key] = self._measure(plan)
        return self.known[key]

    def accepts(self, plan: PlanLike, eps: Fraction) -> bool:
        """Whether a plan is accepted for a bound."""
        return self._accept(self.find(plan), eps, self.verify_samples)
