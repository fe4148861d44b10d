"""The family of a layer whose targets choose for themselves.

For every target of a layer, every pattern and every threshold, a code histogram gives the MACs
saved and the *lost signal* (the sum of squares of the values that become false zeros). ``saved -
multiplier * lost`` is separable, so for a Lagrange multiplier the best choice of every target is
a point of that target's upper convex hull, and one pass over all hulls gives the layer's whole
family of masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spatialonnx.plan.patterns import full_pattern
from spatialonnx.plan.plan import PlanLike
from spatialonnx.searching.rate_distortion.code_tables import (
    Choices,
    CodeTables,
    ThresholdLevel,
    is_as_high,
    pieces_of,
)
from spatialonnx.searching.rate_distortion.few_patterns import find_few_pattern_points
from spatialonnx.searching.rate_distortion.hull import upper_hull
from spatialonnx.searching.rate_distortion.initial import extends, initial_patterns
from spatialonnx.searching.rate_distortion.operating_points import (
    MOST_POINTS,
    MOST_UNDER_THRESHOLDS,
    OFF,
    OperatingPoint,
)
from spatialonnx.searching.rate_distortion.shared_pattern import find_layer_points
from spatialonnx.searching.targets import Grain, Layout, Piece
from spatialonnx.simulate.simulator import Simulator


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
    if grain == Grain() and choices.thresholds and not own:
        return find_layer_points(simulator, sites, layout, choices)
    if choices.most_patterns and grain != Grain():
        return find_few_pattern_points(simulator, sites, grain, layout, choices, own)
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
    begun = initial_patterns(sites, grain, layout, initial)
    counted = CodeTables(simulator, sites, grain, layout, choices, initial)
    levels = counted.levels
    hulls = []
    for found in counted:
        first, last = found.first, found.last
        tables = [found.of(rank, level.patterns) for rank, level in enumerate(levels)]
        before = found.of(0, begun[first:last]) if initial else None
        for target, own in enumerate(begun[first:last].tolist()):
            saved_before = 0 if before is None else int(before[0][target, target])
            lost_before = 0.0 if before is None else float(before[1][target, target])
            regions = [layout.region(layout.site(name), grain, first + target) for name in sites]
            used: list[tuple[ThresholdLevel, NDArray[np.int64]]] = []
            more: list[NDArray[np.int64]] = []
            costs: list[NDArray[np.float64]] = []
            for level, (saved, lost) in zip(levels, tables, strict=True):
                if not is_as_high(level, levels[0], regions):
                    continue
                fewer = extends(level.patterns, own, counted.borders, layout.patch_size)
                used.append((level, level.patterns[fewer]))
                more.append(saved[target, fewer] - saved_before)
                costs.append(np.maximum(lost[target, fewer] - lost_before, 0.0))
            gains, prices = np.concatenate(more), np.concatenate(costs)
            corners = upper_hull(gains, prices)
            full = own == full_pattern(layout.patch_size)
            if len(corners) or not full:
                hulls.append(
                    _hull(
                        () if full else pieces_of(levels[0], own, regions),
                        saved_before,
                        [pieces_of(*_choice(used, int(corner)), regions) for corner in corners],
                        gains[corners],
                        prices[corners],
                    )
                )
    return hulls


def _choice(
    used: Sequence[tuple[ThresholdLevel, NDArray[np.int64]]], number: int
) -> tuple[ThresholdLevel, int]:
    """A choice of a target by its number: the patterns of all levels, one after another."""
    for level, patterns in used:
        if number < len(patterns):
            return level, int(patterns[number])
        number -= len(patterns)
    raise IndexError(number)


def _hull(
    initial: tuple[Piece, ...],
    initial_saved: int,
    choices: Sequence[tuple[Piece, ...]],
    saved: NDArray[np.int64],
    lost: NDArray[np.float64],
) -> _Hull:
    gain = np.diff(saved, prepend=0).astype(np.float64)
    cost = np.diff(lost, prepend=0.0)
    multiplier = np.divide(gain, cost, out=np.full(len(gain), np.inf), where=cost > 0)
    return _Hull(initial, initial_saved, choices, saved, lost, multiplier)
