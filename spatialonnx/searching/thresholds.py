"""Thresholds of the first level: multiples of a channel's mean positive activation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spatialonnx.plan.patterns import pattern_text
from spatialonnx.searching.targets import Piece, Region, Target
from spatialonnx.simulate.simulator import Simulator

Means = Mapping[str, NDArray[np.float64]]
"""The mean positive activation of every channel, by site."""


@dataclass(frozen=True)
class Choice:
    """A pattern under a threshold.

    Attributes:
        label: For records.
        order: Breaks ties: the pattern's integer, then the threshold.
        pattern: The pattern.
        multiple: The threshold, a multiple of the mean positive activation; 0 = only zeros.
    """

    label: str
    order: int
    pattern: int
    multiple: float = 0.0

    def pieces(self, target: Target, means: Means) -> tuple[Piece, ...]:
        """The choice in all regions of a target."""
        return tuple(
            Piece(region, self.pattern, _threshold(region, self.multiple, means))
            for region in target.regions
        )


def first_choices(
    patterns: Sequence[int], patch_size: int, multiples: Sequence[float]
) -> list[Choice]:
    """What the first level tries for every target.

    Args:
        patterns: Patterns of the patch size.
        patch_size: Side of a patch.
        multiples: Thresholds beside 0.
    """
    return [
        Choice(
            pattern_text(pattern, patch_size) + (f"@{multiple:g}" if multiple else ""),
            pattern * (1 + len(multiples)) + rank,
            pattern,
            multiple,
        )
        for pattern in patterns
        for rank, multiple in enumerate((0.0, *multiples))
    ]


def find_means(simulator: Simulator, multiples: Sequence[float]) -> Means:
    """The mean positive activations of all sites; none where only zeros count."""
    if not multiples:
        return {}
    return {site.name: mean_positive(simulator.ofmaps(site.name)) for site in simulator.sites}


def mean_positive(ofmaps: Iterable[NDArray[np.float32]]) -> NDArray[np.float64]:
    """The mean of every channel's positive activations, float64 [C]; 0 where there is none.

    Infinite ones do not count.
    """
    total, count = 0.0, 0
    for ofmap in ofmaps:
        counted = (ofmap > 0) & np.isfinite(ofmap)
        total = total + ofmap.sum(axis=(0, 2, 3), dtype=np.float64, where=counted)
        count = count + np.count_nonzero(counted, axis=(0, 2, 3))
    means: NDArray[np.float64] = total / np.maximum(count, 1)
    return means


def _threshold(region: Region, multiple: float, means: Means) -> tuple[float, ...]:
    if not multiple:
        return ()
    values = (means[region.site] * multiple).astype(np.float32)
    return tuple((values if region.channel is None else values[[region.channel]]).tolist())
