"""The family of a layer whose targets share few patterns.

The kernels work through the channels of a site pattern by pattern, so many patterns cost time. For
a Lagrange multiplier every target takes the best of the shared patterns and thresholds, or stays
as it is. Which patterns are shared is a facility location problem: they are added greedily, then
exchanged one by one as long as that gains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
from spatialonnx.searching.rate_distortion.hull import spaced
from spatialonnx.searching.rate_distortion.initial import extends, initial_patterns
from spatialonnx.searching.rate_distortion.operating_points import (
    MOST_POINTS,
    MOST_UNDER_THRESHOLDS,
    OFF,
    OperatingPoint,
)
from spatialonnx.searching.targets import Grain, Layout, Piece, Region
from spatialonnx.simulate.simulator import Simulator

_MULTIPLIERS, _RANGE = 64, 8.0
"""Multipliers that are tried, and how far they go beyond those of whole layers."""
_CANDIDATES = 32
"""Patterns that are considered for sharing; of 3 x 3 and larger patches there are many more."""
_EXCHANGES = 4
"""Rounds in which every shared pattern may be exchanged."""


@dataclass(frozen=True, eq=False)
class _Targets:
    """What every target of a layer may take.

    Attributes:
        levels: The threshold levels.
        patch_size: Side of a patch.
        patterns: The patterns, int64 [k].
        initial: The pattern that every target begins with, int64 [targets].
        saved_before: MACs that the initial patterns save.
        gain: MACs saved beyond that, int64 [levels, targets, k]; 0 where it is not allowed.
        loss: Signal lost beyond that, float64 [levels, targets, k]; inf where it is not allowed.
    """

    levels: Sequence[ThresholdLevel]
    patch_size: int
    patterns: NDArray[np.int64]
    initial: NDArray[np.int64]
    saved_before: int
    gain: NDArray[np.int64]
    loss: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Level:
    """The choice of every target for one multiplier.

    Attributes:
        saved: MACs saved beyond the initial patterns.
        lost: Signal lost beyond them.
        level: The threshold level of every target, int64 [targets].
        pattern: The pattern of every target, a position in ``patterns``; -1 = as it begins.
    """

    saved: int
    lost: float
    level: NDArray[np.int64]
    pattern: NDArray[np.int64]


def find_few_pattern_points(
    simulator: Simulator,
    sites: Sequence[str],
    grain: Grain,
    layout: Layout,
    choices: Choices,
    initial: PlanLike,
) -> list[OperatingPoint]:
    """The operating points of layers whose targets share ``choices.most_patterns`` patterns.

    Arguments and result are those of ``find_operating_points``. Patterns that a network was tuned
    with count among the shared ones.
    """
    assert choices.most_patterns is not None
    size = layout.patch_size
    found = _find_targets(simulator, sites, grain, layout, choices, initial)
    regions = [
        [layout.region(layout.site(name), grain, target) for name in sites]
        for target in range(len(found.initial))
    ]
    begun = OFF
    if initial:
        pieces = _pieces(found, None, regions, size)
        begun = OperatingPoint(f"p{size} start", size, pieces, found.saved_before, 0.0)
    chosen = [
        _choose(found, multiplier, choices.most_patterns) for multiplier in _multipliers(found)
    ]
    saved = np.array([level.saved for level in chosen], np.int64)
    lost = np.array([level.lost for level in chosen])
    most = MOST_UNDER_THRESHOLDS if choices.thresholds else MOST_POINTS
    points = [begun]
    for rank, k in enumerate(spaced(saved, lost, most).tolist(), start=1):
        pieces = _pieces(found, chosen[k], regions, size)
        total = found.saved_before + chosen[k].saved
        points.append(OperatingPoint(f"p{size} level {rank}", size, pieces, total, chosen[k].lost))
    return points


def _find_targets(
    simulator: Simulator,
    sites: Sequence[str],
    grain: Grain,
    layout: Layout,
    choices: Choices,
    initial: PlanLike,
) -> _Targets:
    begun = initial_patterns(sites, grain, layout, initial)
    size = layout.patch_size
    few, _ = choices.thin(size)
    counted = CodeTables(simulator, sites, grain, layout, choices, initial)
    own = begun[begun != full_pattern(layout.patch_size)]
    patterns = _candidates(counted, few, np.unique(own))
    levels = [replace(level, patterns=patterns) for level in counted.levels]
    shape = len(levels), len(begun), len(patterns)
    gain, loss = np.zeros(shape, np.int64), np.full(shape, np.inf)
    saved_before = 0
    for found in counted:
        first, last = found.first, found.last
        # Off saves and loses nothing: a full pattern is never blind and predicts nothing.
        before = found.of(0, begun[first:last])
        already = [table.diagonal() for table in before]
        saved_before += int(already[0].sum())
        tables = [found.of(rank, patterns) for rank in range(len(levels))]
        for target in range(last - first):
            regions = [layout.region(layout.site(name), grain, first + target) for name in sites]
            fits = extends(patterns, int(begun[first + target]), counted.borders, size)
            for rank, (level, (saved, lost)) in enumerate(zip(levels, tables, strict=True)):
                if not is_as_high(level, levels[0], regions):
                    continue
                gain[rank, first + target, fits] = saved[target, fits] - already[0][target]
                more = np.maximum(lost[target, fits] - already[1][target], 0.0)
                loss[rank, first + target, fits] = more
    return _Targets(levels, size, patterns, begun, saved_before, gain, loss)


def _candidates(
    counted: CodeTables, patterns: NDArray[np.int64], own: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The patterns that are worth sharing: those of the largest benefit for some multiplier."""
    if len(patterns) <= _CANDIDATES:
        return np.union1d(patterns, own)
    ranks = range(len(counted.levels))
    totals = [next(iter(counted)).of(rank, patterns) for rank in ranks]
    scale = _scale(np.stack([s for s, _ in totals]), np.stack([x for _, x in totals]))
    if scale is None:
        return np.union1d(patterns[:_CANDIDATES], own)
    multipliers = np.geomspace(scale[1], scale[0], 6)
    benefit = np.zeros((len(multipliers), len(patterns)))
    for found in counted:
        tables = [found.of(rank, patterns) for rank in ranks]
        for rank, multiplier in enumerate(multipliers):
            best = np.maximum.reduce([saved - multiplier * lost for saved, lost in tables])
            benefit[rank] += np.maximum(best, 0.0).sum(axis=0)
    share = benefit / np.maximum(benefit.max(axis=1, keepdims=True), 1e-300)
    kept = np.sort(np.argsort(-share.max(axis=0), kind="stable")[:_CANDIDATES])
    return np.union1d(patterns[kept], own)


def _scale(saved: NDArray[np.int64], lost: NDArray[np.float64]) -> tuple[float, float] | None:
    """The smallest and the largest multiplier at which something may pay; None = nothing does."""
    counted = (saved > 0) & (lost > 0) & np.isfinite(lost)
    if not counted.any():
        return None
    ratios = saved[counted] / lost[counted]
    return float(ratios.min()) / _RANGE, float(ratios.max()) * _RANGE


def _multipliers(found: _Targets) -> NDArray[np.float64]:
    """The multipliers that are tried, decreasing: from nothing lost to everything saved."""
    scale = _scale(found.gain, found.loss)
    if scale is None:
        return np.ones(1) if (found.gain > 0).any() else np.zeros(0)
    return np.geomspace(scale[1], scale[0], _MULTIPLIERS)


def _choose(found: _Targets, multiplier: float, most: int) -> _Level:
    """The shared patterns of the largest benefit for a multiplier, and what every target takes."""
    value = found.gain - multiplier * found.loss  # [levels, targets, k]
    level = value.argmax(axis=0)
    best = np.take_along_axis(value, level[None], axis=0)[0]
    full = full_pattern(found.patch_size)
    kept = np.flatnonzero(np.isin(found.patterns, found.initial[found.initial != full]))
    shared = _share(best, kept.tolist(), max(most - len(kept), 0))
    targets = np.arange(len(best))
    if not shared:
        none = np.full(len(best), -1)
        return _Level(0, 0.0, np.zeros(len(best), np.int64), none)
    pattern = np.asarray(shared)[best[:, shared].argmax(axis=1)]
    pattern = np.where(best[targets, pattern] > 0, pattern, -1)
    moved = targets[pattern >= 0]
    at = level[moved, pattern[moved]], moved, pattern[moved]
    return _Level(
        int(found.gain[at].sum()), float(found.loss[at].sum()), level[targets, pattern], pattern
    )


def _share(best: NDArray[np.float64], kept: Sequence[int], more: int) -> list[int]:
    """Which columns to share, so that the sum of every row's best, at least 0, is largest.

    Args:
        best: Value of every pattern for every target, [targets, k].
        kept: Patterns that are shared anyway.
        more: How many others may be.
    """
    floor = np.maximum(best[:, kept].max(axis=1, initial=0.0), 0.0)
    added: list[int] = []

    def add(others: list[int]) -> int | None:
        """The pattern that adds most to some others."""
        so_far = np.maximum(floor, best[:, others].max(axis=1, initial=0.0))
        gains = np.maximum(best, so_far[:, None]).sum(axis=0) - so_far.sum()
        top = int(gains.argmax())
        return top if gains[top] > 0 else None

    while len(added) < more and (top := add(added)) is not None:
        added.append(top)
    for _ in range(_EXCHANGES):
        before = sorted(added)
        for position in range(len(added)):
            others = added[:position] + added[position + 1 :]
            top = add(others)
            if top is not None:
                added[position] = top
        if sorted(added) == before:
            break
    return [*kept, *added]


def _pieces(
    found: _Targets, chosen: _Level | None, regions: Sequence[Sequence[Region]], size: int
) -> tuple[Piece, ...]:
    pieces: list[Piece] = []
    for target, own in enumerate(found.initial.tolist()):
        column = -1 if chosen is None else int(chosen.pattern[target])
        if column >= 0:
            assert chosen is not None
            level = found.levels[int(chosen.level[target])]
            pieces += pieces_of(level, int(found.patterns[column]), regions[target])
        elif own != full_pattern(size):
            pieces += pieces_of(found.levels[0], own, regions[target])
    return tuple(pieces)
