"""Levels: what a layer may be set to, from off to the most that its targets can save.

For every target of a layer and every pattern, the census gives the MACs saved and the *lost signal*
(the sum of squares of the values that become false zeros). ``saved - price * lost`` is separable,
so for a price the best pattern of every target is a point of that target's upper convex hull, and
one pass over all hulls gives the layer's whole family of masks. A level is one mask of the family.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spatialonnx.census import Census
from spatialonnx.search.modes import Mode
from spatialonnx.search.targets import Layout, Piece, Region
from spatialonnx.simulator import SegmentSimulator

MOST_LEVELS = 16
_TARGETS_AT_ONCE = 64
"""Targets whose tables of all patterns are held at once: 65,536 patterns each for p = 4."""


@dataclass(frozen=True)
class Level:
    """One mask of a layer (or of a group of coupled layers).

    Attributes:
        label: For records: patch size, and how many of the levels lie below.
        patch_size: Side of a patch.
        pieces: Where which pattern is; none = off.
        saved: MACs it saves on the search samples, every other layer off.
        lost: Sum of squares of the values that it sets to zero, likewise.
    """

    label: str
    patch_size: int
    pieces: tuple[Piece, ...]
    saved: int
    lost: float


@dataclass(frozen=True, eq=False)
class _Hull:
    """A target's upper convex hull.

    Attributes:
        regions: The target's part of every site.
        patterns: By increasing saving, int64 [k].
        saved: Outputs or MACs saved, int64 [k].
        lost: Lost signal, float64 [k].
        price: The price up to which each step to a pattern pays, decreasing, float64 [k].
    """

    regions: tuple[Region, ...]
    patterns: NDArray[np.int64]
    saved: NDArray[np.int64]
    lost: NDArray[np.float64]
    price: NDArray[np.float64]


def upper_hull(saved: NDArray[np.int64], lost: NDArray[np.float64]) -> NDArray[np.int64]:
    """Which points maximise ``saved - price * lost`` for some price >= 0, the origin included.

    From the two ends inwards (quickhull): between two corners, the point that lies farthest above
    their chord is a corner, and what lies below the chord is none. Of 65,534 patterns a target
    most are gone after the first chord, and nothing is sorted.

    Args:
        saved: int64 [n].
        lost: float64 [n], none negative.

    Returns:
        Indices by increasing saving (and increasing price of a further step), without those that
        save nothing.
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


def find_levels(
    simulator: SegmentSimulator,
    sites: Sequence[str],
    mode: Mode,
    layout: Layout,
    patterns: Sequence[int],
) -> list[Level]:
    """The levels of one layer, or of coupled layers that share their patterns, for a patch size.

    Args:
        simulator: Gives the dense network's activations.
        sites: The layer, or the coupled ones.
        mode: What a target is.
        layout: How maps are cut.
        patterns: What may be used.

    Returns:
        By increasing saving, "off" left out, at most ``MOST_LEVELS``.
    """
    hulls = _hulls(simulator, sites, mode, layout, np.asarray(patterns, np.int64))
    prices = np.unique(np.concatenate([h.price for h in hulls] or [np.zeros(0)]))[::-1]
    if not len(prices):
        return []
    totals = _totals(hulls, prices)
    # Levels at about equal steps of saving: neighbours of the family differ in single targets.
    wanted = np.linspace(0, totals[-1], MOST_LEVELS + 1)[1:]
    chosen = np.unique(np.minimum(np.searchsorted(totals, wanted), len(prices) - 1))
    size = layout.patch_size
    levels = []
    for rank, price in enumerate(prices[chosen].tolist(), start=1):
        pieces: list[Piece] = []
        saved, lost = 0, 0.0
        for hull in hulls:
            step = int(np.count_nonzero(hull.price >= price)) - 1
            if step >= 0:
                pattern = int(hull.patterns[step])
                pieces += [Piece(region, pattern) for region in hull.regions]
                saved += int(hull.saved[step])
                lost += float(hull.lost[step])
        levels.append(Level(f"p{size} level {rank}", size, tuple(pieces), saved, lost))
    return levels


def _totals(hulls: Sequence[_Hull], prices: NDArray[np.float64]) -> NDArray[np.int64]:
    """MACs saved at every price (decreasing)."""
    total = np.zeros(len(prices), np.int64)
    for hull in hulls:
        steps = np.searchsorted(-hull.price, -prices, side="right")
        total += np.concatenate([[0], hull.saved])[steps]
    return total


def _hulls(
    simulator: SegmentSimulator,
    sites: Sequence[str],
    mode: Mode,
    layout: Layout,
    patterns: NDArray[np.int64],
) -> list[_Hull]:
    tables = [_census(simulator, name, mode, layout) for name in sites]
    per_output = [layout.site(name).macs_per_output for name in sites]
    hulls = []
    for first in range(0, tables[0].targets, _TARGETS_AT_ONCE):
        last = min(first + _TARGETS_AT_ONCE, tables[0].targets)
        saved = sum(
            t.skipped(first, last)[:, patterns] * m for t, m in zip(tables, per_output, strict=True)
        )
        lost = sum(t.lost(first, last)[:, patterns] for t in tables)
        assert isinstance(saved, np.ndarray) and isinstance(lost, np.ndarray)
        for target in range(last - first):
            points = upper_hull(saved[target], lost[target])
            if len(points):
                regions = tuple(_region(name, first + target, mode, layout) for name in sites)
                hulls.append(_hull(regions, patterns, saved[target], lost[target], points))
    return hulls


def _hull(
    regions: tuple[Region, ...],
    patterns: NDArray[np.int64],
    saved: NDArray[np.int64],
    lost: NDArray[np.float64],
    points: NDArray[np.int64],
) -> _Hull:
    gain = np.diff(saved[points], prepend=0).astype(np.float64)
    cost = np.diff(lost[points], prepend=0.0)
    with np.errstate(divide="ignore"):
        price = np.where(cost > 0, gain / np.maximum(cost, 1e-300), np.inf)
    return _Hull(regions, patterns[points], saved[points], lost[points], price)


def _census(simulator: SegmentSimulator, name: str, mode: Mode, layout: Layout) -> Census:
    site = layout.site(name)
    shape = tuple(d or 0 for d in site.shape)
    labels = layout.labels(site, by_channel=mode.by_channel, by_patch=mode.by_patch)
    census = Census(layout.patch_size, (shape[0], shape[1], shape[2]), labels, energy=True)
    codes = simulator.codes(name, layout.patch_size)
    for block, ofmap in zip(codes, simulator.ofmaps(name), strict=True):
        census.add(block, ofmap)
    return census


def _region(name: str, target: int, mode: Mode, layout: Layout) -> Region:
    """The region of a target's number, as ``Layout.labels`` numbers them."""
    clusters = layout.clusters(layout.site(name)) if mode.by_patch else 1
    channel, cluster = divmod(target, clusters)
    return Region(name, channel if mode.by_channel else None, cluster if mode.by_patch else None)
