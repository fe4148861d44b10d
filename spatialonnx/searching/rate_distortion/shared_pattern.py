"""The family of a layer whose channels share one pattern, each with a threshold of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from spatialonnx.searching.rate_distortion.code_tables import (
    TARGETS_AT_ONCE,
    Choices,
    ThresholdLevel,
    count_codes,
)
from spatialonnx.searching.rate_distortion.hull import spaced
from spatialonnx.searching.rate_distortion.operating_points import (
    MOST_UNDER_THRESHOLDS,
    OFF,
    OperatingPoint,
)
from spatialonnx.searching.targets import Grain, Layout, Piece, Region
from spatialonnx.simulate.simulator import Simulator

_MULTIPLIERS, _RANGE = 96, 8.0
"""Multipliers that are tried, and how far they go beyond those of whole choices."""


def find_layer_points(
    simulator: Simulator, sites: Sequence[str], layout: Layout, choices: Choices
) -> list[OperatingPoint]:
    """The operating points of layers that share one pattern, every channel having a threshold.

    For a multiplier the best thresholds of a pattern are found channel by channel, and the best
    pattern is that of the largest sum. Arguments and result are those of
    ``find_operating_points``, every site being off initially.
    """
    size = layout.patch_size
    levels = count_codes(simulator, sites, Grain(by_channel=True), layout, choices, {})
    few, _ = choices.thin(size)
    levels = [replace(level, patterns=few) for level in levels]
    tables = [_by_channel(layout, sites, level) for level in levels]
    saved, lost = np.stack([s for s, _ in tables]), np.stack([x for _, x in tables])
    totals = saved.sum(axis=1), lost.sum(axis=1)
    ratios = (totals[0] / np.maximum(totals[1], 1e-300))[(totals[0] > 0) & (totals[1] > 0)]
    if not len(ratios):
        return [OFF]
    found: dict[int, tuple[float, int, NDArray[np.int64]]] = {}
    for multiplier in np.geomspace(_RANGE * ratios.max(), ratios.min() / _RANGE, _MULTIPLIERS):
        value = saved - multiplier * lost
        best = value.argmax(axis=0)
        chosen = int(np.take_along_axis(value, best[None], axis=0)[0].sum(axis=0).argmax())
        ranks = best[:, chosen]
        channels = np.arange(len(ranks))
        total = int(saved[ranks, channels, chosen].sum())
        found.setdefault(total, (float(lost[ranks, channels, chosen].sum()), chosen, ranks))
    totals_found = np.array(sorted(found), np.int64)
    costs = np.array([found[total][0] for total in totals_found.tolist()])
    chosen_levels = spaced(totals_found, costs, MOST_UNDER_THRESHOLDS).tolist()
    points = [OFF]
    for rank, k in enumerate(chosen_levels, start=1):
        total = int(totals_found[k])
        cost, chosen, ranks = found[total]
        pieces = _layer_pieces(levels, sites, int(few[chosen]), ranks)
        points.append(OperatingPoint(f"p{size} level {rank}", size, pieces, total, cost))
    return points


def _by_channel(
    layout: Layout, sites: Sequence[str], level: ThresholdLevel
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """MACs saved and signal lost by every channel of some sites, [channels, patterns]."""
    saved, lost = [], []
    for name, histogram in zip(sites, level.histograms, strict=True):
        macs = layout.site(name).macs_per_output
        for first in range(0, histogram.targets, TARGETS_AT_ONCE):
            part = first, min(first + TARGETS_AT_ONCE, histogram.targets), level.patterns
            saved.append(histogram.skipped(*part) * macs)
            lost.append(histogram.lost(*part))
    return np.concatenate(saved), np.concatenate(lost)


def _layer_pieces(
    levels: Sequence[ThresholdLevel], sites: Sequence[str], pattern: int, ranks: NDArray[np.int64]
) -> tuple[Piece, ...]:
    """One pattern in some sites, and for every channel the threshold of a level's rank."""
    pieces = []
    first = 0
    for k, name in enumerate(sites):
        count = levels[0].histograms[k].targets
        values = np.zeros(count, np.float32)
        for channel, rank in enumerate(ranks[first : first + count].tolist()):
            own = levels[rank].thresholds[k]
            if own is not None:
                values[channel] = own[channel]
        pieces.append(Piece(Region(name), pattern, tuple(values.tolist()) if values.any() else ()))
        first += count
    return tuple(pieces)
