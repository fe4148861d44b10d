"""Operating points: what a layer may be set to.

A layer has a family of masks, from its initial ones to the most it can save; an operating point is
one of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from spatialonnx.searching.targets import Piece

MOST_POINTS, MOST_UNDER_THRESHOLDS = 16, 32
"""Operating points of a layer and patch size without thresholds, and with them: these reach twice
as far."""


@dataclass(frozen=True)
class OperatingPoint:
    """One mask of a layer (or of a group of coupled layers).

    Attributes:
        label: For records: patch size, and how many of the points lie below.
        patch_size: Side of a patch.
        pieces: Where which pattern is; none = off.
        saved: MACs it saves on the search samples, every other layer being as it is initially.
        lost: Sum of squares of the values that it, but not the initial masks, sets to zero.
    """

    label: str
    patch_size: int
    pieces: tuple[Piece, ...]
    saved: int
    lost: float


OFF = OperatingPoint("off", 2, (), 0, 0.0)
