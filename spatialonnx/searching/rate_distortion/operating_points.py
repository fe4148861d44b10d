"""Operating points: what a layer may be set to, from its initial masks to the most it can save.

For every target of a layer and every pattern, the code histogram gives the MACs saved and the
*lost signal* (the sum of squares of the values that become false zeros). ``saved - multiplier *
lost`` is separable, so for a Lagrange multiplier the best pattern of every target is a point of
that target's upper convex hull, and one pass over all hulls gives the layer's whole family of
masks. An operating point is one mask of the family.

A layer is off initially, or, in a network that was tuned, has the masks that it was tuned with.
From those, only patterns of fewer probes are used, none of them blind at a border where the
initial one is not: they predict what the initial masks predict and more, so the signal that they
lose beyond it, which the network was not tuned to do without, is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spatialonnx.errors import UsageError
from spatialonnx.plan.masks import full_mask
from spatialonnx.plan.patterns import full_pattern
from spatialonnx.plan.plan import PlanLike
from spatialonnx.searching.modes import Groups
from spatialonnx.searching.rate_distortion.hull import upper_hull
from spatialonnx.searching.targets import Grain, Layout, Piece, Region
from spatialonnx.simulate.code_histogram import CodeHistogram
from spatialonnx.simulate.simulator import Simulator

MOST_POINTS = 16
_TARGETS_AT_ONCE = 64
"""Targets whose tables of all patterns are held at once: 65,536 patterns each for p = 4."""


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


@dataclass(frozen=True, eq=False)
class _Hull:
    """A target's upper convex hull, of what its patterns give beyond its initial one.

    Attributes:
        regions: The target's part of every site.
        initial: The pattern it begins with; full = off.
        initial_saved: MACs that this saves.
        patterns: By increasing saving, int64 [k].
        saved: MACs saved beyond the initial pattern, int64 [k].
        lost: Signal lost beyond it, float64 [k].
        multiplier: The multiplier up to which each step to a pattern pays, decreasing,
            float64 [k].
    """

    regions: tuple[Region, ...]
    initial: int
    initial_saved: int
    patterns: NDArray[np.int64]
    saved: NDArray[np.int64]
    lost: NDArray[np.float64]
    multiplier: NDArray[np.float64]


def find_operating_points(
    simulator: Simulator,
    sites: Sequence[str],
    grain: Grain,
    layout: Layout,
    patterns: Sequence[int],
    initial: PlanLike | None = None,
) -> list[OperatingPoint]:
    """The operating points of one layer, or of coupled layers, for a patch size.

    Args:
        simulator: Gives the activations, the sites before having the masks of ``initial``.
        sites: The layer, or the coupled ones, which share their patterns.
        grain: What a target is.
        layout: How maps are cut.
        patterns: What may be used.
        initial: Masks that sites begin with; the others are off.

    Returns:
        The initial masks and, by increasing saving, at most ``MOST_POINTS`` more.

    Raises:
        UsageError: The initial masks are not what ``check_initial`` lets pass.
    """
    own = {name: mask for name, mask in (initial or {}).items() if name in sites}
    hulls = _hulls(simulator, sites, grain, layout, np.asarray(patterns, np.int64), own)
    size = layout.patch_size
    points = [_point(f"p{size} start", size, hulls, None) if own else OFF]
    multipliers = np.unique(np.concatenate([h.multiplier for h in hulls] or [np.zeros(0)]))[::-1]
    if not len(multipliers):
        return points
    totals = _totals(hulls, multipliers)
    # At about equal steps of saving: neighbours of the family differ in single targets.
    wanted = np.linspace(0, totals[-1], MOST_POINTS + 1)[1:]
    chosen = np.unique(np.minimum(np.searchsorted(totals, wanted), len(multipliers) - 1))
    for rank, multiplier in enumerate(multipliers[chosen].tolist(), start=1):
        points.append(_point(f"p{size} level {rank}", size, hulls, multiplier))
    return points


def _point(
    label: str, size: int, hulls: Sequence[_Hull], multiplier: float | None
) -> OperatingPoint:
    """The mask that a multiplier gives; None = the initial one."""
    pieces: list[Piece] = []
    saved, lost = 0, 0.0
    for hull in hulls:
        steps = 0 if multiplier is None else int(np.count_nonzero(hull.multiplier >= multiplier))
        pattern = int(hull.patterns[steps - 1]) if steps else hull.initial
        saved += hull.initial_saved
        if steps:
            saved += int(hull.saved[steps - 1])
            lost += float(hull.lost[steps - 1])
        if pattern != full_pattern(size):
            pieces += [Piece(region, pattern) for region in hull.regions]
    return OperatingPoint(label, size, tuple(pieces), saved, lost)


def _totals(hulls: Sequence[_Hull], multipliers: NDArray[np.float64]) -> NDArray[np.int64]:
    """MACs saved at every multiplier (decreasing)."""
    total = np.zeros(len(multipliers), np.int64)
    for hull in hulls:
        steps = np.searchsorted(-hull.multiplier, -multipliers, side="right")
        total += np.concatenate([[0], hull.saved])[steps]
    return total


def _hulls(
    simulator: Simulator,
    sites: Sequence[str],
    grain: Grain,
    layout: Layout,
    patterns: NDArray[np.int64],
    initial: PlanLike,
) -> list[_Hull]:
    begun = _initial_patterns(sites, grain, layout, initial)
    histograms = [_count_codes(simulator, name, grain, layout) for name in sites]
    macs = [layout.site(name).macs_per_output for name in sites]
    hulls = []
    for first in range(0, histograms[0].targets, _TARGETS_AT_ONCE):
        last = min(first + _TARGETS_AT_ONCE, histograms[0].targets)
        saved = np.sum(
            [h.skipped(first, last) * m for h, m in zip(histograms, macs, strict=True)], axis=0
        )
        lost = np.sum([h.lost(first, last) for h in histograms], axis=0)
        for target, own in enumerate(begun[first:last].tolist()):
            fewer = patterns[_extends(patterns, own, histograms)]
            more = saved[target, fewer] - saved[target, own]
            costs = np.maximum(lost[target, fewer] - lost[target, own], 0.0)
            regions = tuple(
                layout.region(layout.site(name), grain, first + target) for name in sites
            )
            corners = upper_hull(more, costs)
            if len(corners) or own != full_pattern(layout.patch_size):
                saved_so_far = int(saved[target, own])
                hulls.append(_hull(regions, own, saved_so_far, fewer, more, costs, corners))
    return hulls


def _extends(
    patterns: NDArray[np.int64], initial: int, histograms: Sequence[CodeHistogram]
) -> NDArray[np.bool_]:
    """Patterns whose predictions include those of a target's initial pattern."""
    found: NDArray[np.bool_] = (patterns & initial) == patterns
    if initial == full_pattern(histograms[0].patch_size):  # it predicts nothing
        return found
    for inside in {int(inside) for histogram in histograms for inside in histogram.borders}:
        if initial & inside:
            found &= (patterns & inside) != 0
    return found


def check_initial(
    initial: PlanLike, groups: Groups, grain: Grain, layouts: Mapping[int, Layout]
) -> None:
    """Checks that a search can hold the masks that it is to begin with.

    Args:
        initial: The masks.
        groups: Coupled sites.
        grain: What a target is.
        layouts: How maps are cut, by patch size.

    Raises:
        UsageError: A patch size is not searched, the masks are finer than the mode, or coupled
            sites differ.
    """
    for group in groups:
        sizes = {initial[name].patch_size for name in group if name in initial}
        if len(sizes) > 1:
            raise UsageError(
                f"sites {', '.join(group)}: the model carries different patch sizes there: "
                "search without --couple"
            )
        for size in sizes:
            if size not in layouts:
                carried = sorted({mask.patch_size for mask in initial.values()})
                raise UsageError(
                    f"site {group[0]}: the model carries {size} x {size} patches: search with "
                    f"--patch-size {','.join(map(str, carried))}"
                )
            _initial_patterns(group, grain, layouts[size], initial)


def _initial_patterns(
    sites: Sequence[str], grain: Grain, layout: Layout, initial: PlanLike
) -> NDArray[np.int64]:
    """The pattern that every target begins with, int64 [targets]."""
    found = []
    for name in sites:
        mask = initial.get(name, full_mask(layout.patch_size))
        patterns = layout.patterns(layout.site(name), grain, mask)
        if patterns is None:
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
    initial: int,
    initial_saved: int,
    patterns: NDArray[np.int64],
    saved: NDArray[np.int64],
    lost: NDArray[np.float64],
    corners: NDArray[np.int64],
) -> _Hull:
    patterns, saved, lost = patterns[corners], saved[corners], lost[corners]
    gain = np.diff(saved, prepend=0).astype(np.float64)
    cost = np.diff(lost, prepend=0.0)
    multiplier = np.divide(gain, cost, out=np.full(len(gain), np.inf), where=cost > 0)
    return _Hull(regions, initial, initial_saved, patterns, saved, lost, multiplier)


def _count_codes(simulator: Simulator, name: str, grain: Grain, layout: Layout) -> CodeHistogram:
    site = layout.site(name)
    channels, height, width = (d or 0 for d in site.shape)
    labels = layout.labels(site, grain)
    histogram = CodeHistogram(layout.patch_size, (channels, height, width), labels, energy=True)
    codes = simulator.codes(name, layout.patch_size)
    for block, ofmap in zip(codes, simulator.ofmaps(name), strict=True):
        histogram.add(block, ofmap)
    return histogram
