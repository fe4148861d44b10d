"""Code tables: what every pattern saves and loses under every threshold, counted once per site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spatialonnx.plan.patterns import PATCH_SIZES
from spatialonnx.plan.plan import PlanLike
from spatialonnx.searching.targets import Grain, Layout, Piece, Region
from spatialonnx.searching.thresholds import mean_positive
from spatialonnx.simulate.code_histogram import CodeHistogram, patch_squares
from spatialonnx.simulate.simulator import Simulator

TARGETS_AT_ONCE = 16
"""Targets whose tables of all patterns are held at once: 65,536 patterns each for p = 4."""
_CELLS = 1 << 19
"""Outputs that are counted at a time: what is made of them stays in the processor's cache."""
_MOST_PROBES = 4
"""Probes of the patterns that are tried with a threshold for p = 4."""


@dataclass(frozen=True)
class Choices:
    """What the targets of a layer may choose from, for one patch size.

    Attributes:
        patterns: Patterns without a threshold.
        thresholds: Multiples of a channel's mean positive activation beside 0, increasing.
        most_patterns: Patterns that the targets may share, beside off; None = no limit.
    """

    patterns: Sequence[int]
    thresholds: Sequence[float] = ()
    most_patterns: int | None = None

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
class ThresholdLevel:
    """The code histograms of a layer under one threshold.

    Attributes:
        thresholds: Of every site, float32 [C]; None = only zeros.
        histograms: Of every site.
        patterns: What may be used with it.
    """

    thresholds: list[NDArray[np.float32] | None]
    histograms: list[CodeHistogram]
    patterns: NDArray[np.int64]


def count_codes(
    simulator: Simulator,
    sites: Sequence[str],
    grain: Grain,
    layout: Layout,
    choices: Choices,
    initial: PlanLike,
) -> list[ThresholdLevel]:
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
        ThresholdLevel(
            values,
            [_histogram(layout, name, grain) for name in sites],
            few if any(v is not None for v in values) and values is not begun else every,
        )
        for values in thresholds
    ]
    for k, name in enumerate(sites):
        codes = [simulator.codes(name, size, level.thresholds[k]) for level in levels]
        for ofmap, *blocks in zip(simulator.ofmaps(name), *codes, strict=True):
            cells = max(_CELLS, 8 * max(level.histograms[k].bins for level in levels))
            rows = max(1, cells // max(ofmap[0].size, 1))
            for first in range(0, len(ofmap), rows):
                part = slice(first, first + rows)
                _count(levels, k, size, ofmap[part], [block[part] for block in blocks])
    return levels


def _count(
    levels: Sequence[ThresholdLevel],
    k: int,
    size: int,
    ofmap: NDArray[np.float32],
    codes: Sequence[NDArray[np.uint16]],
) -> None:
    """Counts a few samples of site ``k`` under every threshold."""
    squares = patch_squares(ofmap, size)
    for level, block in zip(levels, codes, strict=True):
        threshold = level.thresholds[k]
        small = None
        if threshold is not None:
            counted = np.where(ofmap <= threshold[:, None, None], ofmap, np.float32(0))
            small = patch_squares(counted, size)
        level.histograms[k].add(block, squares, small)


def _histogram(layout: Layout, name: str, grain: Grain) -> CodeHistogram:
    site = layout.site(name)
    channels, height, width = (d or 0 for d in site.shape)
    labels = layout.labels(site, grain)
    return CodeHistogram(layout.patch_size, (channels, height, width), labels, energy=True)


def tables_of(
    level: ThresholdLevel, macs: Sequence[int], first: int, last: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """MACs saved and signal lost by some targets and a level's patterns, [targets, patterns]."""
    saved = [
        h.skipped(first, last, level.patterns) * m
        for h, m in zip(level.histograms, macs, strict=True)
    ]
    lost = [h.lost(first, last, level.patterns) for h in level.histograms]
    return np.sum(saved, axis=0), np.sum(lost, axis=0)


def pieces_of(level: ThresholdLevel, pattern: int, regions: Sequence[Region]) -> tuple[Piece, ...]:
    """A pattern under a threshold in all regions of a target."""
    found = []
    for region, values in zip(regions, level.thresholds, strict=True):
        chosen = (
            slice(None) if region.channel is None else slice(region.channel, region.channel + 1)
        )
        threshold = () if values is None else tuple(values[chosen].tolist())
        found.append(Piece(region, pattern, threshold))
    return tuple(found)


def is_as_high(level: ThresholdLevel, begun: ThresholdLevel, regions: Sequence[Region]) -> bool:
    """Whether a level's thresholds are at least the initial ones in all regions."""
    for region, own, least in zip(regions, level.thresholds, begun.thresholds, strict=True):
        if least is not None and (own is None or _lower(own, least, region.channel)):
            return False
    return True


def _lower(own: NDArray[np.float32], least: NDArray[np.float32], channel: int | None) -> bool:
    chosen = slice(None) if channel is None else channel
    return bool((own[chosen] < least[chosen]).any())
