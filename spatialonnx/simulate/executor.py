"""Executors: where trials run. A strategy hands over plans and takes outcomes as they arrive."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Protocol

from spatialonnx.plan.outcome import Outcome
from spatialonnx.plan.plan import PlanLike
from spatialonnx.simulate.simulator import Simulator

AT_ONCE = 1024
"""Plans that are handed over together: there may be millions, and a simulator shares work among
those that it sees together."""


class Executor(Protocol):
    """Runs plans, in this process or on workers.

    The outcome of a plan does not depend on the executor, nor on the plans beside it.
    """

    @property
    def at_once(self) -> int:
        """Number of plans that should be handed over together."""
        ...

    @property
    def status(self) -> str:
        """Workers and trials in flight, in words; empty if there are no workers."""
        ...

    def run(
        self,
        plans: Sequence[PlanLike],
        reject_above: Fraction | None,
        may_start: Callable[[PlanLike], bool],
    ) -> Iterator[tuple[int, Outcome]]:
        """Runs plans.

        Args:
            plans: Masks of the sites that predict.
            reject_above: A trial whose drop must exceed this may be stopped and rejected;
                None = every trial is run to its end.
            may_start: Asked before each plan is started; after the first False no other is.

        Yields:
            Positions among the plans with their outcomes, as they arrive.
        """
        ...


class LocalExecutor:
    """Runs plans in this process, one after another."""

    at_once = AT_ONCE
    status = ""

    def __init__(self, simulator: Simulator) -> None:
        """Stores what runs plans."""
        self._simulator = simulator

    def run(
        self,
        plans: Sequence[PlanLike],
        reject_above: Fraction | None,
        may_start: Callable[[PlanLike], bool],
    ) -> Iterator[tuple[int, Outcome]]:
        """Runs plans, in order; see ``Executor.run``."""

        def started() -> Iterator[PlanLike]:
            for plan in plans:
                if not may_start(plan):
                    return
                yield plan

        yield from enumerate(self._simulator.simulate(started(), reject_above))
