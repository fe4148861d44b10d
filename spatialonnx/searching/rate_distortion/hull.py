"""The best of what patterns save against what they lose: upper convex hull, efficient points."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def upper_hull(saved: NDArray[np.int64], lost: NDArray[np.float64]) -> NDArray[np.int64]:
    """Points, the origin included, that maximise saved - multiplier * lost for some multiplier.

    From the two ends inwards (quickhull): between two corners, the point farthest above their chord
    is a corner, and points below the chord are not. Of 65,534 patterns per target most are
    discarded by the first chord, and nothing is sorted.

    Args:
        saved: int64 [n].
        lost: float64 [n], none negative.

    Returns:
        Indices by increasing saving (and rising lost signal per MAC), without those
        that save nothing.
    """
    free = np.flatnonzero(lost == 0)
    first = int(free[np.argmax(saved[free])]) if len(free) else None
    start = (int(saved[first]), 0.0) if first is not None else (0, 0.0)
    if start[0] <= 0:
        first, start = None, (0, 0.0)
    most = int(saved.max(initial=0))
    hull = [] if first is None else [first]
    if most > start[0]:
        ends = np.flatnonzero(saved == most)
        last = int(ends[np.argmin(lost[ends])])
        rest = np.flatnonzero((saved > start[0]) & (lost < lost[last]))
        hull += [*_between(saved, lost, rest, start, (most, float(lost[last]))), last]
    return np.asarray(hull, np.int64)


def efficient(saved: NDArray[np.int64], lost: NDArray[np.float64]) -> NDArray[np.int64]:
    """Which points save more than all points that lose no more.

    Args:
        saved: int64 [n].
        lost: float64 [n], none negative.

    Returns:
        Indices by increasing saving and loss, without those that save nothing.
    """
    order = np.lexsort((-saved, lost))
    best = np.maximum.accumulate(np.concatenate([[0], saved[order]]))
    return order[saved[order] > best[:-1]]


def spaced(saved: NDArray[np.int64], lost: NDArray[np.float64], most: int) -> NDArray[np.int64]:
    """The efficient points nearest to equal steps of saving.

    Args:
        saved: int64 [n].
        lost: float64 [n], none negative.
        most: Number of steps.

    Returns:
        Indices by increasing saving, at most ``most``.
    """
    kept = efficient(saved, lost)
    if not len(kept):
        return kept
    wanted = np.linspace(0, saved[kept[-1]], most + 1)[1:]
    return kept[np.unique(np.searchsorted(saved[kept], wanted))]


def _between(
    saved: NDArray[np.int64],
    lost: NDArray[np.float64],
    points: NDArray[np.int64],
    low: tuple[int, float],
    high: tuple[int, float],
) -> list[int]:
    """The corners between two corners, by increasing saving."""
    gain, cost = high[0] - low[0], high[1] - low[1]
    above = (saved[points] - low[0]) * cost - (lost[points] - low[1]) * gain
    points, above = points[above > 0], above[above > 0]
    if not len(points):
        return []
    ties = points[above == above.max()]
    top = int(ties[np.argmax(saved[ties])])
    corner = (int(saved[top]), float(lost[top]))
    before = points[(saved[points] < corner[0]) & (lost[points] < corner[1])]
    behind = points[(saved[points] > corner[0]) & (lost[points] > corner[1])]
    return [
        *_between(saved, lost, before, low, corner),
        top,
        *_between(saved, lost, behind, corner, high),
    ]
