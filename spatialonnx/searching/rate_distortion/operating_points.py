"""Levels: what a layer may be set to, from its start to the most that its targets can save.

For every target of a layer and every pattern, the census gives the MACs saved and the *lost signal*
(the sum of squares of the values that become false zeros). ``saved - price * lost`` is separable,
so for a price the best pattern of every target is a point of that target's upper convex hull, and
one pass over all hulls gives the layer's whole family of masks. A level is one mask of the family.

A layer starts off, or, in a network that was tuned, with the masks that it was tuned with. From
those, patterns of fewer probes alone are levels, none of them blind at a border where the start is
not: they predict what the start predicts and more, so the signal that they lose beyond it, which
the network was not tuned to do without, is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spatialonnx.errors import UsageError
from spatialonnx.plan.masks import SiteMask
from spatialonnx.plan.patterns import full_pattern
from spatialonnx.plan.plan import PlanLike
from spatialonnx.searching.modes import Groups, Mode
from spatialonnx.searching.targets import Layout, Piece, Region
from spatialonnx.simulate.code_histogram import CodeHistogram
from spatialonnx.simulate.segmented import SegmentSimulator

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
        saved: MACs it saves on the search samples, every other layer at its start.
        lost: Sum of squares of the values that it, but not its start, sets to zero, likewise.
    """

    label: str
    patch_size: int
    pieces: tuple[Piece, ...]
    saved: int
    lost: float


OFF = Level("off", 2, (), 0, 0.0)


@dataclass(frozen=True, eq=False)
class _Hull:
    """A target's upper convex hull, of what its patterns give beyond its start.

    Attributes:
        regions: The target's part of every site.
        start: The pattern it starts with; full = off.
        start_saved: MACs that this saves.
        patterns: By increasing saving, int64 [k].
        saved: MACs saved beyond the start, int64 [k].
        lost: Signal lost beyond the start, float64 [k].
        price: The price up to which each step to a pattern pays, decreasing, float64 [k].
    """

    regions: tuple[Region, ...]
    start: int
    start_saved: int
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
    start: PlanLike | None = None,
) -> list[Level]:
    """The levels of one layer, or of coupled layers that share their patterns, for a patch size.

    Args:
        simulator: Gives the activations, the masks of ``start`` in front of every site.
        sites: The layer, or the coupled ones.
        mode: What a target is.
        layout: How maps are cut.
        patterns: What may be used.
        start: Masks that sites start with; the others are off.

    Returns:
        The start and, by increasing saving, at most ``MOST_LEVELS`` more.

    Raises:
        UsageError: The start is not what ``check_start`` lets pass.
    """
    own = {name: mask for name, mask in (start or {}).items() if name in sites}
    hulls = _hulls(simulator, sites, mode, layout, np.asarray(patterns, np.int64), own)
    size = layout.patch_size
    levels = [_level(f"p{size} start", size, hulls, None) if own else OFF]
    prices = np.unique(np.concatenate([h.price for h in hulls] or [np.zeros(0)]))[::-1]
    if not len(prices):
        return levels
    totals = _totals(hulls, prices)
    # Levels at about equal steps of saving: neighbours of the family differ in single targets.
    wanted = np.linspace(0, totals[-1], MOST_LEVELS + 1)[1:]
    chosen = np.unique(np.minimum(np.searchsorted(totals, wanted), len(prices) - 1))
    for rank, price in enumerate(prices[chosen].tolist(), start=1):
        levels.append(_level(f"p{size} level {rank}", size, hulls, price))
    return levels


def _level(label: str, size: int, hulls: Sequence[_Hull], price: float | None) -> Level:
    """The mask that a price gives; None = the start."""
    pieces: list[Piece] = []
    saved, lost = 0, 0.0
    for hull in hulls:
        steps = 0 if price is None else int(np.count_nonzero(hull.price >= price))
        pattern = int(hull.patterns[steps - 1]) if steps else hull.start
        saved += hull.start_saved
        if steps:
            saved += int(hull.saved[steps - 1])
            lost += float(hull.lost[steps - 1])
        if pattern != full_pattern(size):
            pieces += [Piece(region, pattern) for region in hull.regions]
    return Level(label, size, tuple(pieces), saved, lost)


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
    start: PlanLike,
) -> list[_Hull]:
    starts = _starts(sites, mode, layout, start)
    tables = [_census(simulator, name, mode, layout) for name in sites]
    per_output = [layout.site(name).macs_per_output for name in sites]
    hulls = []
    for first in range(0, tables[0].targets, _TARGETS_AT_ONCE):
        last = min(first + _TARGETS_AT_ONCE, tables[0].targets)
        saved = sum(t.skipped(first, last) * m for t, m in zip(tables, per_output, strict=True))
        lost = sum(t.lost(first, last) for t in tables)
        assert isinstance(saved, np.ndarray) and isinstance(lost, np.ndarray)
        for target, own in enumerate(starts[first:last].tolist()):
            fewer = patterns[_go_on(patterns, own, tables)]
            more = saved[target, fewer] - saved[target, own]
            costs = np.maximum(lost[target, fewer] - lost[target, own], 0.0)
            regions = tuple(_region(name, first + target, mode, layout) for name in sites)
            points = upper_hull(more, costs)
            if len(points) or own != full_pattern(layout.patch_size):
                saved_so_far = int(saved[target, own])
                hulls.append(_hull(regions, own, saved_so_far, fewer, more, costs, points))
    return hulls


def _go_on(
    patterns: NDArray[np.int64], start: int, tables: Sequence[CodeHistogram]
) -> NDArray[np.bool_]:
    """Which patterns predict what a target's start predicts, and perhaps more."""
    found: NDArray[np.bool_] = (patterns & start) == patterns
    if start == full_pattern(tables[0].patch_size):  # it predicts nothing
        return found
    for inside in {int(inside) for table in tables for inside in table.borders}:
        if start & inside:
            found &= (patterns & inside) != 0
    return found


def check_start(start: PlanLike, groups: Groups, mode: Mode, layouts: Mapping[int, Layout]) -> None:
    """Checks that a search can hold the masks that it is to begin with.

    Args:
        start: The masks.
        groups: Coupled sites.
        mode: What a target is.
        layouts: How maps are cut, by patch size.

    Raises:
        UsageError: A patch size is not searched, the masks are finer than the mode, or coupled
            sites differ.
    """
    for group in groups:
        sizes = {start[name].patch_size for name in group if name in start}
        if len(sizes) > 1:
            raise UsageError(
                f"sites {', '.join(group)}: the model carries different patch sizes there: "
                "search without --couple"
            )
        for size in sizes:
            if size not in layouts:
                carried = sorted({mask.patch_size for mask in start.values()})
                raise UsageError(
                    f"site {group[0]}: the model carries {size} x {size} patches: search with "
                    f"--patch-size {','.join(map(str, carried))}"
                )
            _starts(group, mode, layouts[size], start)


def _starts(sites: Sequence[str], mode: Mode, layout: Layout, start: PlanLike) -> NDArray[np.int64]:
    """The pattern that every target starts with, int64 [targets]."""
    full = SiteMask(layout.patch_size, np.full((1, 1, 1), full_pattern(layout.patch_size), "u2"))
    found = []
    for name in sites:
        site = layout.site(name)
        labels = layout.labels(site, by_channel=mode.by_channel, by_patch=mode.by_patch)
        labels, mask = np.broadcast_arrays(labels, start.get(name, full).patterns)
        patterns = np.zeros(int(labels.max()) + 1, np.int64)
        patterns[labels] = mask
        if (patterns[labels] != mask).any():
            raise UsageError(
                f"site {name}: the model carries finer masks than this --mode can: search with "
                "a finer one, or with the --max-clusters it was searched with"
            )
        found.append(patterns)
    if any((patterns != found[0]).any() for patterns in found):
        raise UsageError(
            f"sites {', '.join(sites)}: the model carries different masks there: "
            "search without --couple"
        )
    return found[0]


def _hull(
    regions: tuple[Region, ...],
    start: int,
    start_saved: int,
    patterns: NDArray[np.int64],
    saved: NDArray[np.int64],
    lost: NDArray[np.float64],
    points: NDArray[np.int64],
) -> _Hull:
    gain = np.diff(saved[points], prepend=0).astype(np.float64)
    cost = np.diff(lost[points], prepend=0.0)
    with np.errstate(divide="ignore"):
        price = np.where(cost > 0, gain / np.maximum(cost, 1e-300), np.inf)
    return _Hull(regions, start, start_saved, patterns[points], saved[points], lost[points], price)


def _census(simulator: SegmentSimulator, name: str, mode: Mode, layout: Layout) -> CodeHistogram:
    site = layout.site(name)
    shape = tuple(d or 0 for d in site.shape)
    labels = layout.labels(site, by_channel=mode.by_channel, by_patch=mode.by_patch)
    census = CodeHistogram(layout.patch_size, (shape[0], shape[1], shape[2]), labels, energy=True)
    codes = simulator.codes(name, layout.patch_size)
    for block, ofmap in zip(codes, simulator.ofmaps(name), strict=True):
        census.add(block, ofmap)
    return census


def _region(name: str, target: int, mode: Mode, layout: Layout) -> Region:
    """The region of a target's number, as ``Layout.labels`` numbers them."""
    clusters = layout.clusters(layout.site(name)) if mode.by_patch else 1
    channel, cluster = divmod(target, clusters)
    return Region(name, channel if mode.by_channel else None, cluster if mode.by_patch else None)
