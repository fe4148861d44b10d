"""Settings: the options of a search that determine its trials."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from spatialonnx.errors import UsageError
from spatialonnx.plan.patterns import check_patch_size, parse_patterns, patterns_with_ones
from spatialonnx.searching.modes import BY_CHANNEL, COARSEST, MODES

LATENCY = "latency"
GOALS = ("macs", LATENCY)
JOINT, GREEDY, EXHAUSTIVE = "joint", "greedy", "exhaustive"
LATENCY_PATTERNS = 3
"""Patterns that a site's channels share, beside off, where latency is the goal: the kernels work
through the channels pattern by pattern."""


def all_patterns(patch_size: int) -> tuple[int, ...]:
    """Every pattern of a patch size but full."""
    return patterns_with_ones(patch_size, 1, check_patch_size(patch_size) ** 2 - 1)


@dataclass(frozen=True)
class Settings:
    """Options of a search that determine its trials.

    Attributes:
        mode: A row of the table of modes.
        strategy: A row of the table of strategies.
        patterns: Patterns of the first level by patch size. A strategy that takes several sizes
            chooses one per layer.
        max_clusters: Largest number of clusters per channel; 0 = one per patch.
        top: Options kept per target; None = all.
        couple: ``none``, ``block``, ``stage`` or a file.
        goal: ``macs`` or ``latency``: what accuracy is weighed against.
        thresholds: Values up to which probes count as zero, as multiples of the mean positive
            activation of their channel, increasing; always includes 0, only zeros. None =
            those of the strategy's row, where the mode can have any.
        max_patterns: Patterns that the channels or patches of a site share, beside off; None =
            no limit, or ``LATENCY_PATTERNS`` where latency is the goal.
    """

    mode: str = COARSEST
    strategy: str = JOINT
    patterns: Mapping[int, tuple[int, ...]] = field(default_factory=lambda: {2: all_patterns(2)})
    max_clusters: int = 0
    top: int | None = None
    couple: str = "none"
    goal: str = "macs"
    thresholds: tuple[float, ...] | None = None
    max_patterns: int | None = None

    def __post_init__(self) -> None:
        """Refuses options that do not fit together under any strategy.

        Raises:
            UsageError: An option is unknown or two do not fit together.
            PlanError: A patch size is not supported.
        """
        if self.mode not in MODES:
            raise UsageError(f"--mode {self.mode}: use {', '.join(MODES)}")
        if self.goal not in GOALS:
            raise UsageError(f"--goal {self.goal}: use {' or '.join(GOALS)}")
        for size in self.patterns:
            check_patch_size(size)
        asked = self.thresholds or ()
        if any(not 0 <= multiple < math.inf for multiple in asked):
            raise UsageError("--thresholds takes numbers of 0 or more")
        if any(asked) and MODES[self.mode].grain.by_patch:
            raise UsageError(
                "--thresholds are per site or per channel: use --mode uniform-layer or "
                "uniform-patch"
            )
        if self.max_patterns is not None and self.max_patterns < 1:
            raise UsageError("--max-patterns takes 1 or more")
        if self.max_clusters < 0 or (self.top is not None and self.top < 1):
            raise UsageError("--max-clusters takes 0 or more, --top 1 or more")
        if self.max_clusters and self.mode != "max-granularity":
            raise UsageError("--max-clusters goes with --mode max-granularity alone")

    @property
    def patch_size(self) -> int:
        """The patch size; the first if there are several."""
        return next(iter(self.patterns))

    @property
    def pattern_limit(self) -> int | None:
        """The most patterns of a site beside off; None = no limit."""
        if self.max_patterns is None and self.by_time and self.strategy == JOINT:
            return LATENCY_PATTERNS
        return self.max_patterns

    @property
    def by_time(self) -> bool:
        """Whether measured time is the goal."""
        return self.goal == LATENCY


def default_mode(goal: str, strategy: str | None) -> str:
    """The mode of a search that names none: the joint one by latency chooses by channel."""
    return BY_CHANNEL if goal == LATENCY and strategy in (None, JOINT) else COARSEST


def choose_patterns(
    sizes: Sequence[int], ones: tuple[int, int] | None, texts: Sequence[str]
) -> dict[int, tuple[int, ...]]:
    """The patterns of ``--ones-range`` or ``--patterns`` by patch size; default: all.

    With several patch sizes a range is cut to that of each size.

    Raises:
        UsageError: Both are given, or explicit patterns with several patch sizes.
    """
    if ones and texts:
        raise UsageError("give either --ones-range or --patterns, not both")
    if len(sizes) > 1 and texts:
        raise UsageError("--patterns goes with one patch size: use --ones-range")
    table = {}
    for size in sizes:
        most = check_patch_size(size) ** 2 - 1
        low, high = ones or (1, most)
        if len(sizes) > 1:
            low, high = min(low, most), min(high, most)
        table[size] = parse_patterns(texts, size) if texts else patterns_with_ones(size, low, high)
    return table


def parse_thresholds(value: str | Sequence[float] | None) -> tuple[float, ...] | None:
    """Reads ``0,0.1,0.2``; increasing, each once, with 0; None stays None.

    Raises:
        UsageError: One is not a number.
    """
    if value is None:
        return None
    parts = value.split(",") if isinstance(value, str) else value
    try:
        return tuple(sorted({0.0, *map(float, parts)}))
    except ValueError:
        raise UsageError(f"--thresholds {value!r}: give numbers, for example 0,0.1,0.2") from None
