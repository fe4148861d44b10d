"""The protocol of simulators: what a search may ask about plans.

A plan names the sites that predict; the others are off.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from spatialonnx.graph.sites import Site
from spatialonnx.plan.outcome import Outcome
from spatialonnx.plan.plan import PlanLike


class Simulator(Protocol):
    """Answers a search's questions about a network on its samples."""

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

    @property
    def seconds_per_pass(self) -> float:
        """Time that the dense network took on all samples."""
        ...

    @property
    def counting_bytes(self) -> int:
        """Memory that code histograms may take."""
        ...

    def check(self) -> None:
        """Ends the work, by an error, where its time is over: called between steps."""
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
            One outcome per plan.
        """
        ...

    def codes(
        self, site: str, patch_size: int, threshold: NDArray[np.float32] | None = None
    ) -> Iterator[NDArray[np.uint16]]:
        """Zero codes of a site's patches, [b, C, nH, nW], block by block of samples.

        The sites before it are off, or as they are initially; the site itself is off.

        Args:
            site: The site.
            patch_size: Side of a patch.
            threshold: Values up to it count as zero, [1] or [C]; None = only zeros.
        """
        ...

    def ofmaps(self, site: str) -> Iterator[NDArray[np.float32]]:
        """A site's ofmap, in the same way: [b, C, H, W] in the order of ``codes``.

        The arrays are the simulator's own: they must not be changed.
        """
        ...

    def share_behind(self, site: str) -> float:
        """Share of the network's MACs that a trial of this site alone has to run again."""
        ...
