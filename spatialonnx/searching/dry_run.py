"""Estimates what a search costs and what it can save at most, without running it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from spatialonnx.errors import UsageError
from spatialonnx.graph.sites import Site
from spatialonnx.plan.macs import fraction
from spatialonnx.searching.exhaustive import count_plans
from spatialonnx.searching.modes import COARSEST, FINEST, MODES, Groups, first_targets, merges_of
from spatialonnx.searching.rate_distortion.code_tables import Choices, CodeTables
from spatialonnx.searching.settings import EXHAUSTIVE, JOINT, Settings
from spatialonnx.searching.strategies import find_multiples
from spatialonnx.searching.targets import Layout, Target
from spatialonnx.simulate.simulator import Simulator

_PROFILED = 2
"""Trials of a joint search per layer and patch size."""
_CHOOSING = 100
"""Trials of the whole network by which it then chooses; mostly it takes fewer."""


@dataclass(frozen=True)
class ModeEstimate:
    """The estimated cost of one mode.

    Attributes:
        mode: Its name.
        targets: Targets of the first level.
        patterns: Patterns of each.
        trials: Trials of the strategy: of joint about as many, of the others the most.
        passes: Their cost in passes of the whole network, each trial starting at its first site.
        hours: What these passes take.
        space: Number of masks that the mode can express, as text.
        most_saved: MACs saved when each target takes the pattern that saves most, as a fraction, on
            the dense network's activations.
    """

    mode: str
    targets: int
    patterns: int
    trials: int
    passes: float
    hours: float
    space: str
    most_saved: float


@dataclass(frozen=True)
class SiteEstimate:
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
class Estimate:
    """Estimates of all modes that fit the network and the strategy.

    Attributes:
        strategy: The strategy.
        samples: Number of images used.
        modes: One per mode.
        sites: One per site.
    """

    strategy: str
    samples: int
    modes: tuple[ModeEstimate, ...]
    sites: tuple[SiteEstimate, ...]

    def to_json(self) -> dict[str, Any]:
        """The object that ``search --dry-run --json`` prints."""
        return {
            "strategy": self.strategy,
            "samples": self.samples,
            "modes": [vars(mode) for mode in self.modes],
            "sites": [vars(site) for site in self.sites],
        }


def estimate_search(
    simulator: Simulator, settings: Settings, groups: Groups, search_samples: int
) -> Estimate:
    """Estimates every mode.

    Args:
        simulator: A simulator on a few hundred images: the time of its pass and its activations are
            used.
        settings: The strategy, the patch sizes, the patterns of the first level, and the clusters
            of max-granularity; its mode is ignored.
        groups: Coupled sites.
        search_samples: Samples that the search would use.
    """
    patch_size, patterns = settings.patch_size, settings.patterns[settings.patch_size]
    seconds = simulator.seconds_per_pass * search_samples / simulator.samples
    layouts: dict[str, Layout] = {}
    for name, mode in MODES.items():
        if settings.strategy == EXHAUSTIVE and name != COARSEST:
            continue
        clusters = settings.max_clusters if name == FINEST else 0
        layout = Layout(simulator.sites, patch_size, clusters)
        try:
            for site in simulator.sites if mode.grain.by_patch else ():
                layout.grid(site)
        except UsageError:
            continue
        layouts[name] = layout
    sites = []
    for site in simulator.sites:
        sites.append(_estimate_site(simulator, site, layouts, patterns))
    estimates = []
    for name, layout in layouts.items():
        targets = first_targets(MODES[name], layout, groups)
        trials, passes = _count_trials(replace(settings, mode=name), targets, groups, simulator)
        estimates.append(
            ModeEstimate(
                mode=name,
                targets=len(targets),
                patterns=len(patterns),
                trials=trials,
                passes=passes,
                hours=passes * seconds / 3600,
                space=_space(len(patterns), len(targets)),
                most_saved=sum(site.most_saved[name] for site in sites),
            )
        )
    return Estimate(settings.strategy, simulator.samples, tuple(estimates), tuple(sites))


def _count_trials(
    settings: Settings, targets: Sequence[Target], groups: Groups, simulator: Simulator
) -> tuple[int, float]:
    """Trials of a strategy, and their cost in full passes."""
    behind = {site.name: simulator.share_behind(site.name) for site in simulator.sites}
    if settings.strategy == JOINT:
        profiled = _PROFILED * len(settings.patterns)
        trials = profiled * len(groups) + _CHOOSING
        return trials, profiled * sum(behind[group[0]] for group in groups) + _CHOOSING
    mode = MODES[settings.mode]
    patterns = len(settings.patterns[settings.patch_size]) * (1 + len(find_multiples(settings)))
    if settings.strategy == EXHAUSTIVE:
        trials = count_plans(range(patterns), groups) - 1
        return trials, float(trials)
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


def _estimate_site(
    simulator: Simulator,
    site: Site,
    layouts: dict[str, Layout],
    patterns: Sequence[int],
) -> SiteEstimate:
    size = next(iter(layouts.values())).patch_size
    zeros = outputs = 0
    for codes in simulator.codes(site.name, size):
        zeros += int(np.bitwise_count(codes).sum(dtype=np.int64))
        outputs += len(codes) * math.prod(d or 0 for d in site.shape)
    choices = Choices(patterns)
    most = {
        name: fraction(
            _most_saved(CodeTables(simulator, [site.name], MODES[name].grain, layout, choices, {})),
            simulator.conv_total,
        )
        for name, layout in layouts.items()
    }
    share = fraction(outputs * site.macs_per_output, simulator.conv_total)
    return SiteEstimate(site.name, share, fraction(zeros, outputs), most)


def _most_saved(tables: CodeTables) -> int:
    """MACs that the best pattern of every target saves, in total."""
    return sum(int(some.of(0, tables.levels[0].patterns)[0].max(axis=1).sum()) for some in tables)


def _space(patterns: int, targets: int) -> str:
    """Number of masks, "off" included: ``15^17 = 10^20``."""
    return f"{patterns + 1}^{targets} = 10^{targets * math.log10(patterns + 1):.0f}"
