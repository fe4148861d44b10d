"""What a search would cost and the most it could save, before it is run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spatialonnx.errors import UsageError
from spatialonnx.graph.sites import Site
from spatialonnx.plan.macs import fraction
from spatialonnx.searching.modes import MODES, Groups, Mode, first_targets, merges_of
from spatialonnx.searching.targets import Layout, Target
from spatialonnx.simulate.code_histogram import CodeHistogram
from spatialonnx.simulate.segmented import SegmentSimulator

_TARGETS_AT_ONCE = 64
"""Targets whose tables of all patterns are held at once: 65,536 patterns each for p = 4."""


@dataclass(frozen=True)
class Forecast:
    """What one mode would cost.

    Attributes:
        mode: Its name.
        targets: Targets of the first level.
        patterns: Patterns of each.
        trials: Trials of all passes, if no option were dropped.
        passes: Their work in full passes, each trial starting in front of its first site.
        literal_hours: With one full pass a trial.
        hours: With ``passes``.
        space: Number of masks that the mode can express, as text.
        most_saved: Most MACs that any of its plans could save where each target takes the
            pattern that saves most, as a fraction, on the dense network's activations.
    """

    mode: str
    targets: int
    patterns: int
    trials: int
    passes: float
    literal_hours: float
    hours: float
    space: str
    most_saved: float


@dataclass(frozen=True)
class SiteForecast:
    """The most that one site could save.

    Attributes:
        site: Its name.
        share: Its MACs as a fraction of all Convs'.
        zeros: Zeros of its ofmap, as a fraction.
        most_saved: By mode, as a fraction of the MACs of all Convs.
    """

    site: str
    share: float
    zeros: float
    most_saved: dict[str, float]


@dataclass(frozen=True)
class LookAhead:
    """Forecasts of all modes that fit the network.

    Attributes:
        samples: Images that were looked at.
        modes: One row a mode.
        sites: One row a site.
    """

    samples: int
    modes: tuple[Forecast, ...]
    sites: tuple[SiteForecast, ...]

    def to_json(self) -> dict[str, Any]:
        """The object that ``search --dry-run --json`` prints."""
        return {
            "samples": self.samples,
            "modes": [vars(mode) for mode in self.modes],
            "sites": [vars(site) for site in self.sites],
        }


def look_ahead(
    simulator: SegmentSimulator,
    *,
    patch_size: int,
    patterns: Sequence[int],
    max_clusters: int,
    groups: Groups,
    search_samples: int,
) -> LookAhead:
    """Forecasts every mode.

    Args:
        simulator: On some hundred images: its measured pass and its activations are used.
        patch_size: Side of a patch.
        patterns: Patterns of the first level.
        max_clusters: Largest number of clusters of a channel's map, for max-granularity.
        groups: Coupled sites.
        search_samples: Samples that the search would use.
    """
    seconds = simulator.seconds_per_pass * search_samples / simulator.samples
    layouts: dict[str, Layout] = {}
    for name, mode in MODES.items():
        clusters = max_clusters if mode.by_channel and mode.by_patch else 0
        layout = Layout(simulator.sites, patch_size, clusters)
        try:
            for site in simulator.sites if mode.by_patch else ():
                layout.grid(site)
        except UsageError:
            continue
        layouts[name] = layout
    sites = []
    for site in simulator.sites:
        sites.append(_look_at_site(simulator, site, layouts, patterns))
    forecasts = []
    for name, layout in layouts.items():
        targets = first_targets(MODES[name], layout, groups)
        trials, passes = _count_trials(MODES[name], targets, groups, len(patterns), simulator)
        forecasts.append(
            Forecast(
                mode=name,
                targets=len(targets),
                patterns=len(patterns),
                trials=trials,
                passes=passes,
                literal_hours=trials * seconds / 3600,
                hours=passes * seconds / 3600,
                space=_space(len(patterns), len(targets)),
                most_saved=sum(site.most_saved[name] for site in sites),
            )
        )
    return LookAhead(simulator.samples, tuple(forecasts), tuple(sites))


def _count_trials(
    mode: Mode,
    targets: Sequence[Target],
    groups: Groups,
    patterns: int,
    simulator: SegmentSimulator,
) -> tuple[int, float]:
    """Trials of all passes, and their work in full passes."""
    behind = {site.name: simulator.share_behind(site.name) for site in simulator.sites}
    trials, passes = 0, 0.0
    level = list(targets)
    for step in range(len(merges_of(mode, groups)) + 1):
        trials += patterns * len(level)
        passes += patterns * sum(behind[t.regions[0].site] for t in level)
        if step < len(merges_of(mode, groups)):
            merge = merges_of(mode, groups)[step]
            level = list(dict.fromkeys(merge.parent(target) for target in level))
    # The layer pass: every step of every layer, from the layer that it changes on.
    trials += patterns * len(level)
    passes += patterns * sum(behind[t.regions[0].site] for t in level)
    return trials, passes


def _look_at_site(
    simulator: SegmentSimulator,
    site: Site,
    layouts: dict[str, Layout],
    patterns: Sequence[int],
) -> SiteForecast:
    shape = tuple(d or 0 for d in site.shape)
    size = next(iter(layouts.values())).patch_size
    censuses = {
        name: CodeHistogram(
            size,
            (shape[0], shape[1], shape[2]),
            layout.labels(site, by_channel=MODES[name].by_channel, by_patch=MODES[name].by_patch),
        )
        for name, layout in layouts.items()
    }
    zeros = outputs = 0
    for codes in simulator.codes(site.name, size):
        for census in censuses.values():
            census.add(codes)
        zeros += int(np.bitwise_count(codes).sum(dtype=np.int64))
        outputs += len(codes) * shape[0] * shape[1] * shape[2]
    chosen = np.asarray(patterns)
    most = {
        name: fraction(
            _most_skipped(census, chosen) * site.macs_per_output,
            simulator.conv_total,
        )
        for name, census in censuses.items()
    }
    share = fraction(outputs * site.macs_per_output, simulator.conv_total)
    return SiteForecast(site.name, share, fraction(zeros, outputs), most)


def _most_skipped(census: CodeHistogram, patterns: NDArray[np.int64]) -> int:
    """Outputs that the best pattern of every target predicts, in all."""
    most = 0
    for first in range(0, census.targets, _TARGETS_AT_ONCE):
        last = min(first + _TARGETS_AT_ONCE, census.targets)
        most += int(census.skipped(first, last)[:, patterns].max(axis=1).sum())
    return most


def _space(patterns: int, targets: int) -> str:
    """Number of masks, "off" included: ``15^17 = 10^20``."""
    return f"{patterns + 1}^{targets} = 10^{targets * math.log10(patterns + 1):.0f}"
