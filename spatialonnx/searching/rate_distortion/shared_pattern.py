"""The family of a layer whose channels share one pattern, each with a threshold of its own."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from spatialonnx.searching.rate_distortion.code_tables import (
    Choices,
    CodeTables,
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
    few, _ = choices.thin(size)
    grain = Grain(by_channel=True)
    counted = [CodeTables(simulator, [name], grain, layout, choices, {}) for name in sites]
    counts = [tables.targets for tables in counted]
    saved = np.zeros((len(counted[0].levels), sum(counts), len(few)), np.int64)
    lost = np.zeros(saved.shape)
    for at, tables in zip(itertools.accumulate(counts, initial=0), counted, strict=False):
        for part in tables:
            own = slice(at + part.first, at + part.last)
            for rank in range(len(tables.levels)):
                saved[rank, own], lost[rank, own] = part.of(rank, few)
        tables.clear()
    totals = saved.sum(axis=1), lost.sum(axis=1)
    ratios = (totals[0] / np.maximum(totals[1], 1e-300))[(totals[0] > 0) & (totals[1] > 0)]
    if not len(ratios):
        return [OFF]
    found: dict[int, tuple[float, int, NDArray[np.int64]]] = {}
    for multiplier in np.geomspace(_RANGE * ratios.max(), ratios.min() / _RANGE, _MULTIPLIERS):
        simulator.check()
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
        pieces = _layer_pieces(counted, sites, int(few[chosen]), ranks)
        points.append(OperatingPoint(f"p{size} level {rank}", size, pieces, total, cost))
    return points


def _layer_pieces(
    counted: Sequence[CodeTables], sites: Sequence[str], pattern: int, ranks: NDArray[np.int64]
) -> tuple[Piece, ...]:
    """One pattern in some sites, and for every channel the threshold of a level's rank."""
    pieces = []
    first = 0
    for name, tables in zip(sites, counted, strict=True):
        count = tables.targets
        values = np.zeros(count, np.float32)
        for channel, rank in enumerate(ranks[first : first + count].tolist()):
            (own,) = tables.levels[rank].thresholds
            if own is not None:
                values[channel] = own[channel]
        pieces.append(Piece(Region(name), pattern, tuple(values.tolist()) if values.any() else ()))
        first += count
    return tuple(pieces)
