"""What a search asks about plans, and what it is told: the interface of all simulators.

A plan names the sites that predict; the others are off.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from spatialonnx.graph.sites import Site
from spatialonnx.plan.masks import Plan


@dataclass(frozen=True)
class Outcome:
    """What one trial gave.

    Attributes:
        score: The metric's value, exact; None where the trial was rejected.
        saved: MACs of predicted outputs over all samples; None where the trial was rejected
            and they are not known.
        kl: Mean over the samples of KL(dense || masked) of the logits, in nats; None without
            logits or where the trial was rejected.
        forward_samples: Work done, in samples through the whole network (a run of a part counts
            by its share of the MACs).
        seconds: Time it took.
        rejected_at: The bound on the drop that this trial must miss, whatever the samples that
            were not run give; None where all were run.
    """

    score: Fraction | None
    saved: int | None
    kl: float | None
    forward_samples: float
    seconds: float
    rejected_at: Fraction | None = None


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
        self, plans: Iterable[Plan], reject_above: Fraction | None = None
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
