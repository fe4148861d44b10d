"""What a search asks about plans, and what it is told: the interface of all simulators.

A plan names the sites that predict; the others are off.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Protocol

from spatialonnx.graph.sites import Site
from spatialonnx.plan.outcome import Outcome
from spatialonnx.plan.plan import PlanLike


class Simulator(Protocol):
    """What a search needs to know about a network on its samples."""

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites, in graph order, with fixed shapes."""
        ...

    @property
    def samples(self) -> int:
        """Number of samples."""
        ...

    @property
    def conv_total(self) -> int:
        """MACs of all Conv nodes on these samples."""
        ...

    @property
    def baseline(self) -> Fraction:
        """The dense network's score."""
        ...

    def simulate(
        self, plans: Iterable[PlanLike], reject_above: Fraction | None = None
    ) -> Iterator[Outcome]:
        """Simulates plans, in order.

        Args:
            plans: Masks of the sites that predict.
            reject_above: A trial whose drop must exceed this may be stopped and rejected;
                None = every trial is run to its end.

        Yields:
            One outcome a plan.
        """
        ...
