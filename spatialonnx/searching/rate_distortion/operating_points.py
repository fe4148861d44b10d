"""Operating points: what a layer may be set to, from its initial masks to the most it can save.

For every target of a layer, every pattern and every threshold, a code histogram gives the MACs
saved and the *lost signal* (the sum of squares of the values that become false zeros). ``saved -
multiplier * lost`` is separable, so for a Lagrange multiplier the best choice of every target is
a point of that target's upper convex hull, and one pass over all hulls gives the layer's whole
family of masks. An operating point is one mask of the family.

A threshold is a multiple of the mean positive activation of each channel.

A layer is off initially, or, in a network that was tuned, has the masks that it was tuned with.
From those, only patterns of fewer probes and thresholds as high are used, none of them blind at
a border where the initial one is not: they predict what the initial masks predict and more, so
the signal that they lose beyond it, which the network was not tuned to do without, is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from spatialonnx.errors import UsageError
from spatialonnx.plan.masks import full_mask
from spatialonnx.plan.patterns import PATCH_SIZES, full_pattern
from spatialonnx.plan.plan import PlanLike
from spatialonnx.searching.modes import Groups
from spatialonnx.searching.rate_distortion.hull import efficient, upper_hull
from spatialonnx.searching.targets import Grain, Layout, Piece, Region
from spatialonnx.searching.thresholds import mean_positive
from spatialonnx.simulate.code_histogram import CodeHistogram, patch_squares
from spatialonnx.simulate.simulator import Simulator

MOST_POINTS, MOST_UNDER_THRESHOLDS = 16, 32
"""Operating points of a layer and patch size without thresholds, and with them: these reach twice
as far."""
_TARGETS_AT_ONCE = 16
"""Targets whose tables of all patterns are held at once: 65,536 patterns each for p = 4."""
_MOST_PROBES = 4
"""Probes of the patterns that are tried with a threshold for p = 4."""


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


@dataclass(frozen=True)
class Choices:
    """What the targets of a layer may choose from, for one patch size.

    Attributes:
        patterns: Patterns without a threshold.
        thresholds: Multiples of a channel's mean positive activation beside 0, increasing.
    """

    patterns: Sequence[int]
    thresholds: Sequence[float] = ()

    def thin(self, patch_size: int) -> tuple[NDArray[np.int64], Sequence[float]]:
        """The patterns that are tried with a threshold, [n], and the thresholds.

        For p = 4 only patterns of few probes, and every other threshold.
        """
        patterns = np.asarray(self.patterns, np.int64)
        if patch_size < max(PATCH_SIZES):
            return patterns, self.thresholds
        few = patterns[np.bitwise_count(patterns) <= _MOST_PROBES]
        return few, self.thresholds[1::2] or self.thresholds


@dataclass(frozen=True, eq=False)
class _Level:
    """The code histograms of a layer under one threshold.

    Attributes:
        thresholds: Of every site, float32 [C]; None = only zeros.
        histograms: Of every site.
        patterns: What may be used with it.
    """

    thresholds: list[NDArray[np.float32] | None]
    histograms: list[CodeHistogram]
    patterns: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Hull:
    """A target's upper convex hull, of what its choices give beyond its initial one.

    Attributes:
        initial: The pieces it begins with; none = off.
        initial_saved: MACs that these save.
        choices: The pieces of every choice, by increasing saving, [k].
        saved: MACs saved beyond the initial pieces, int64 [k].
        lost: Signal lost beyond them, float64 [k].
        multiplier: The multiplier up to which each step to a choice pays, decreasing,
            float64 [k].
    """

    initial: tuple[Piece, ...]
    initial_saved: int
    choices: Sequence[tuple[Piece, ...]]
    saved: NDArray[np.int64]
    lost: NDArray[np.float64]
    multiplier: NDArray[np.float64]


def find_operating_points(
    simulator: Simulator,
    sites: Sequence[str],
    grain: Grain,
    layout: Layout,
    choices: Choices,
    initial: PlanLike | None = None,
) -> list[OperatingPoint]:
    """The operating points of one layer, or of coupled layers, for a patch size.

    Args:
        simulator: Gives the activations, the sites before having the masks of ``initial``.
        sites: The layer, or the coupled ones, which share their choices.
        grain: What a target is.
        layout: How maps are cut.
        choices: What may be used.
        initial: Masks that sites begin with; the others are off.

    Returns:
        The initial masks and, by increasing saving, some more.

    Raises:
        UsageError: The initial masks are not what ``check_initial`` lets pass.
    """
    own = {name: mask for name, mask in (initial or {}).items() if name in sites}
    hulls = _find_hulls(simulator, sites, grain, layout, choices, own)
    size = layout.patch_size
    points = [_point(f"p{size} start", size, hulls, None) if own else OFF]
    multipliers = np.unique(np.concatenate([h.multiplier for h in hulls] or [np.zeros(0)]))[::-1]
    if not len(multipliers):
        return points
    totals = _totals(hulls, multipliers)
    most = MOST_UNDER_THRESHOLDS if choices.thresholds else MOST_POINTS
    # At about equal steps of saving: neighbours of the family differ in single targets.
    wanted = np.linspace(0, totals[-1], most + 1)[1:]
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
        pieces += hull.choices[steps - 1] if steps else hull.initial
        saved += hull.initial_saved
        if steps:
            saved += int(hull.saved[steps - 1])
            lost += float(hull.lost[steps - 1])
    return OperatingPoint(label, size, tuple(pieces), saved, lost)


def _totals(hulls: Sequence[_Hull], multipliers: NDArray[np.float64]) -> NDArray[np.int64]:
    """MACs saved at every multiplier (decreasing)."""
    total = np.zeros(len(multipliers), np.int64)
    for hull in hulls:
        steps = np.searchsorted(-hull.multiplier, -multipliers, side="right")
        total += np.concatenate([[0], hull.saved])[steps]
    return total


def _find_hulls(
    simulator: Simulator,
    sites: Sequence[str],
    grain: Grain,
    layout: Layout,
    choices: Choices,
    initial: PlanLike,
) -> list[_Hull]:
    begun = _initial_patterns(sites, grain, layout, initial)
    levels = _count_codes(simulator, sites, grain, layout, choices, initial)
    macs = [layout.site(name).macs_per_output for name in sites]
    hulls = []
    for first in range(0, len(begun), _TARGETS_AT_ONCE):
        last = min(first + _TARGETS_AT_ONCE, len(begun))
        tables = [_tables(level, macs, first, last) for level in levels]
        before = _tables(replace(levels[0], patterns=begun[first:last]), macs, first, last)
        for target, own in enumerate(begun[first:last].tolist()):
            saved_before = int(before[0][target, target])
            lost_before = float(before[1][target, target])
            regions = [layout.region(layout.site(name), grain, first + target) for name in sites]
            used: list[tuple[_Level, int]] = []
            more: list[NDArray[np.int64]] = []
            costs: list[NDArray[np.float64]] = []
            for level, (saved, lost) in zip(levels, tables, strict=True):
                if not _is_as_high(level, levels[0], regions):
                    continue
                fewer = _extends(level.patterns, own, level.histograms)
                used += [(level, pattern) for pattern in level.patterns[fewer].tolist()]
                more.append(saved[target, fewer] - saved_before)
                costs.append(np.maximum(lost[target, fewer] - lost_before, 0.0))
            gains, prices = np.concatenate(more), np.concatenate(costs)
            # The family of one target alone has as many points as it has corners: few.
            alone = len(begun) == 1 and len(levels) > 1
            corners = efficient(gains, prices) if alone else upper_hull(gains, prices)
            full = own == full_pattern(layout.patch_size)
            if len(corners) or not full:
                hulls.append(
                    _hull(
                        () if full else _pieces(levels[0], own, regions),
                        saved_before,
                        [_pieces(*used[int(corner)], regions) for corner in corners],
                        gains[corners],
                        prices[corners],
                    )
                )
    return hulls


def _tables(
    level: _Level, macs: Sequence[int], first: int, last: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """MACs saved and signal lost by some targets and a level's patterns, [targets, patterns]."""
    saved = [
        h.skipped(first, last, level.patterns) * m
        for h, m in zip(level.histograms, macs, strict=True)
    ]
    lost = [h.lost(first, last, level.patterns) for h in level.histograms]
    return np.sum(saved, axis=0), np.sum(lost, axis=0)


def _pieces(level: _Level, pattern: int, regions: Sequence[Region]) -> tuple[Piece, ...]:
    """A pattern under a threshold in all regions of a target."""
    found = []
    for region, values in zip(regions, level.thresholds, strict=True):
        chosen = (
            slice(None) if region.channel is None else slice(region.channel, region.channel + 1)
        )
        threshold = () if values is None else tuple(values[chosen].tolist())
        found.append(Piece(region, pattern, threshold))
    return tuple(found)


def _is_as_high(level: _Level, begun: _Level, regions: Sequence[Region]) -> bool:
    """Whether a level's thresholds are at least the initial ones in all regions."""
    for region, own, least in zip(regions, level.thresholds, begun.thresholds, strict=True):
        if least is not None and (own is None or _lower(own, least, region.channel)):
            return False
    return True


def _lower(own: NDArray[np.float32], least: NDArray[np.float32], channel: int | None) -> bool:
    chosen = slice(None) if channel is None else channel
    return bool((own[chosen] < least[chosen]).any())


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
    initial: tuple[Piece, ...],
    initial_saved: int,
    choices: Sequence[tuple[Piece, ...]],
    saved: NDArray[np.int64],
    lost: NDArray[np.float64],
) -> _Hull:
    gain = np.diff(saved, prepend=0).astype(np.float64)
    cost = np.diff(lost, prepend=0.0)
    with np.errstate(over="ignore"):  # a cost of next to nothing
        multiplier = np.divide(gain, cost, out=np.full(len(gain), np.inf), where=cost > 0)
    if (multiplier[1:] > multiplier[:-1]).any():
        # Not all are corners, so no multiplier reaches them: their order takes its place.
        multiplier = np.arange(len(multiplier), 0, -1).astype(np.float64)
    return _Hull(initial, initial_saved, choices, saved, lost, multiplier)


def _count_codes(
    simulator: Simulator,
    sites: Sequence[str],
    grain: Grain,
    layout: Layout,
    choices: Choices,
    initial: PlanLike,
) -> list[_Level]:
    """The histograms of a layer: the first level is that of the initial thresholds."""
    size = layout.patch_size
    few, multiples = choices.thin(size)
    if grain.by_patch:
        multiples = ()
    begun = [initial[name].threshold if name in initial else None for name in sites]
    thresholds: list[list[NDArray[np.float32] | None]] = [begun]
    if any(values is not None for values in begun):
        thresholds.append([None for _ in sites])
    if multiples:
        means = [mean_positive(simulator.ofmaps(name)) for name in sites]
        thresholds += [[(m * t).astype(np.float32) for m in means] for t in multiples]
    every = np.asarray(choices.patterns, np.int64)
    levels = [
        _Level(
            values,
            [_histogram(layout, name, grain) for name in sites],
            few if any(v is not None for v in values) and values is not begun else every,
        )
        for values in thresholds
    ]
    for k, name in enumerate(sites):
        codes = [simulator.codes(name, size, level.thresholds[k]) for level in levels]
        for ofmap, *blocks in zip(simulator.ofmaps(name), *codes, strict=True):
            squares = patch_squares(ofmap, size)
            for level, block in zip(levels, blocks, strict=True):
                threshold = level.thresholds[k]
                small = None
                if threshold is not None:
                    counted = np.where(ofmap <= threshold[:, None, None], ofmap, 0)
                    small = patch_squares(counted, size)
                level.histograms[k].add(block, squares, small)
    return levels


def _histogram(layout: Layout, name: str, grain: Grain) -> CodeHistogram:
    site = layout.site(name)
    channels, height, width = (d or 0 for d in site.shape)
    labels = layout.labels(site, grain)
    return CodeHistogram(layout.patch_size, (channels, height, width), labels, energy=True)
