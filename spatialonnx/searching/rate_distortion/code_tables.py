"""Code tables: what every pattern saves and loses under every threshold, counted site by site."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spatialonnx.graph.sites import Site
from spatialonnx.plan.patterns import PATCH_SIZES
from spatialonnx.plan.plan import PlanLike
from spatialonnx.plan.rule import inside_bits
from spatialonnx.searching.targets import Grain, Layout, Piece, Region
from spatialonnx.searching.thresholds import mean_positive
from spatialonnx.simulate.code_histogram import BYTES_A_BIN, DENSE, CodeHistogram, patch_squares
from spatialonnx.simulate.simulator import Simulator

_TARGETS_AT_ONCE = 16
"""Targets, at most, whose tables of all patterns are held at once: 65,536 each for p = 4."""
_COPIES = 6
"""Arrays of all border classes and codes that such a table is made from, at a time."""
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
    """A threshold of a layer, and what may be used with it.

    Attributes:
        thresholds: Of every site, float32 [C]; None = only zeros.
        patterns: The patterns.
    """

    thresholds: list[NDArray[np.float32] | None]
    patterns: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TargetTables:
    """What some targets of a layer save and lose.

    Attributes:
        first: The first of them.
        last: The one behind the last.
        begun: The first target that the histograms know.
        macs: MACs of one output of every site.
        histograms: Of every level, of every site.
    """

    first: int
    last: int
    begun: int
    macs: Sequence[int]
    histograms: Sequence[Sequence[CodeHistogram]]

    def of(
        self, level: int, patterns: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """MACs saved and signal lost under a level's thresholds, [targets, patterns]."""
        part = self.first - self.begun, self.last - self.begun, patterns
        found = self.histograms[level]
        saved = [h.skipped(*part) * m for h, m in zip(found, self.macs, strict=True)]
        lost = [h.lost(*part) for h in found]
        return np.sum(saved, axis=0), np.sum(lost, axis=0)


class CodeTables:
    """The code histograms of a layer.

    As many targets are counted in one pass over the activations as there is memory for; where that
    is all of them, they are counted once.

    Attributes:
        levels: The threshold levels, the first that of the initial thresholds.
        targets: Number of targets.
        borders: The border classes of all sites: bits inside the ofmap, one integer a class.
    """

    def __init__(
        self,
        simulator: Simulator,
        sites: Sequence[str],
        grain: Grain,
        layout: Layout,
        choices: Choices,
        initial: PlanLike,
    ) -> None:
        """Finds the thresholds; nothing is counted yet.

        Args:
            simulator: Gives the activations.
            sites: The layer, or coupled ones, which share their targets.
            grain: What a target is.
            layout: How maps are cut.
            choices: What may be used.
            initial: Masks that sites begin with.
        """
        self.levels = _find_levels(simulator, sites, grain, layout.patch_size, choices, initial)
        self._simulator, self._size = simulator, layout.patch_size
        self._sites = [layout.site(name) for name in sites]
        self._labels = [layout.labels(site, grain) for site in self._sites]
        self.targets = 1 + max(int(labels.max()) for labels in self._labels)
        maps = {(site.shape[1] or 0, site.shape[2] or 0) for site in self._sites}
        every = [inside_bits(height, width, self._size).ravel() for height, width in maps]
        self.borders = {int(inside) for inside in np.concatenate(every)}
        row = len(self.borders) << self._size**2
        room = simulator.counting_bytes // 2  # the histograms, and the tables made from them
        self._share = room // (len(self.levels) * len(sites))
        self._at_once = min(max(room // (_COPIES * 8 * row), 1), _TARGETS_AT_ONCE)
        self._most = self.targets
        if self.targets * row <= DENSE:
            self._most = max(self._share // (BYTES_A_BIN * row), 1)
        self._begun = self._end = 0
        self._histograms: list[list[CodeHistogram]] = []

    def __iter__(self) -> Iterator[TargetTables]:
        """Some targets after another, all of them; counts those that are not known."""
        macs = [site.macs_per_output for site in self._sites]
        first = 0
        while first < self.targets:
            if not self._begun <= first < self._end:
                self._count(first)
            self._simulator.check()
            last = min(first + self._at_once, self._end)
            yield TargetTables(first, last, self._begun, macs, self._histograms)
            first = last

    def clear(self) -> None:
        """Drops what was counted."""
        self._histograms, self._begun, self._end = [], 0, 0

    def _count(self, first: int) -> None:
        """Counts the targets from one on, as many as there is memory for."""
        self.clear()  # before others take their place
        count = min(self._most, self.targets - first)
        parts = [_part(labels, first, first + count) for labels in self._labels]
        found = [
            [self._histogram(*each) for each in zip(self._sites, parts, strict=True)]
            for _ in self.levels
        ]
        for k, (site, (channels, _)) in enumerate(zip(self._sites, parts, strict=True)):
            codes = [
                self._simulator.codes(site.name, self._size, level.thresholds[k])
                for level in self.levels
            ]
            for ofmap, *blocks in zip(self._simulator.ofmaps(site.name), *codes, strict=True):
                cells = max(_CELLS, 8 * max(own[k].bins for own in found))
                rows = max(1, cells // max(ofmap[0].size, 1))
                for row in range(0, len(ofmap), rows):
                    self._simulator.check()
                    part = slice(row, row + rows), channels
                    self._add(found, k, ofmap[part], [block[part] for block in blocks], channels)
                    every = [histogram for own in found for histogram in own]
                    while count > 1 and any(histogram.is_full for histogram in every):
                        self._most = count = -(-count // 2)
                        for histogram in every:
                            histogram.keep(count)
        self._begun, self._end, self._histograms = first, first + count, found

    def _histogram(self, site: Site, part: tuple[slice, NDArray[np.int64]]) -> CodeHistogram:
        channels, height, width = (d or 0 for d in site.shape)
        shape = len(range(channels)[part[0]]), height, width
        return CodeHistogram(self._size, shape, part[1], energy=True, room=self._share)

    def _add(
        self,
        found: Sequence[Sequence[CodeHistogram]],
        k: int,
        ofmap: NDArray[np.float32],
        codes: Sequence[NDArray[np.uint16]],
        channels: slice,
    ) -> None:
        """Counts a few samples of site ``k`` under every threshold."""
        squares = patch_squares(ofmap, self._size)
        for level, own, block in zip(self.levels, found, codes, strict=True):
            threshold = level.thresholds[k]
            small = None
            if threshold is not None:
                limits = threshold[channels] if len(threshold) > 1 else threshold
                counted = np.where(ofmap <= limits[:, None, None], ofmap, np.float32(0))
                small = patch_squares(counted, self._size)
            own[k].add(block, squares, small)


def _find_levels(
    simulator: Simulator,
    sites: Sequence[str],
    grain: Grain,
    patch_size: int,
    choices: Choices,
    initial: PlanLike,
) -> list[ThresholdLevel]:
    few, multiples = choices.thin(patch_size)
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
    return [
        ThresholdLevel(
            values, few if any(v is not None for v in values) and values is not begun else every
        )
        for values in thresholds
    ]


def _part(labels: NDArray[np.int64], first: int, last: int) -> tuple[slice, NDArray[np.int64]]:
    """The channels of some targets, and the targets there, from 0; negative = another one."""
    channels = slice(None)
    if len(labels) > 1:
        lowest, highest = labels.min(axis=(1, 2)), labels.max(axis=(1, 2))
        own = np.flatnonzero((highest >= first) & (lowest < last))
        channels = slice(int(own[0]), int(own[-1]) + 1)
    part = labels[channels] - first
    return channels, np.where(part < last - first, part, -1)


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
