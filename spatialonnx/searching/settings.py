"""What a search is asked to do, and what it found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spatialonnx.errors import UsageError
from spatialonnx.measure.certify import Measured
from spatialonnx.plan.bounds import Bound
from spatialonnx.plan.patterns import check_patch_size, parse_patterns, patterns_with_ones
from spatialonnx.plan.plan import Plan
from spatialonnx.searching.modes import MODES

STRATEGIES = ("greedy", "exhaustive", "joint")
GOALS = ("macs", "latency")


@dataclass(frozen=True)
class Settings:
    """Options of a search that decide its trials.

    Attributes:
        mode: A row of the table of modes.
        strategy: A row of the table of strategies.
        patch_size: Side of a patch.
        patterns: Patterns of the first level.
        max_clusters: Largest number of clusters of a channel's map; 0 = one patch each.
        top: Options kept per target; None = all.
        couple: ``none``, ``block``, ``stage`` or a file.
        goal: ``macs`` or ``latency``: what the walk and the final choice weigh accuracy against.
        others: Further patch sizes that a layer may take, with their patterns; joint alone.
    """

    mode: str = "uniform-layer"
    strategy: str = "greedy"
    patch_size: int = 2
    patterns: tuple[int, ...] = ()
    max_clusters: int = 0
    top: int | None = None
    couple: str = "none"
    goal: str = "macs"
    others: tuple[tuple[int, tuple[int, ...]], ...] = ()

    def __post_init__(self) -> None:
        """Fills in all patterns; refuses what does not fit together.

        Raises:
            UsageError: An option is unknown or two do not fit together.
        """
        if self.mode not in MODES:
            raise UsageError(f"--mode {self.mode}: use {', '.join(MODES)}")
        if self.strategy not in STRATEGIES:
            raise UsageError(f"--strategy {self.strategy}: use {', '.join(STRATEGIES)}")
        if self.goal not in GOALS:
            raise UsageError(f"--goal {self.goal}: use {' or '.join(GOALS)}")
        if self.strategy == "exhaustive" and self.mode != "uniform-layer":
            raise UsageError("--strategy exhaustive goes with --mode uniform-layer alone")
        if self.others and self.goal == "latency":
            raise UsageError("--goal latency times one patch size: give one with --patch-size")
        if self.strategy == "joint" and self.couple != "none" and self.mode != "uniform-layer":
            raise UsageError("--couple goes with --strategy joint in --mode uniform-layer alone")
        if self.others and self.strategy != "joint":
            raise UsageError("several patch sizes go with --strategy joint alone")
        check_patch_size(self.patch_size)
        if self.max_clusters < 0 or (self.top is not None and self.top < 1):
            raise UsageError("--max-clusters takes 0 or more, --top 1 or more")
        if self.max_clusters and self.mode != "max-granularity":
            raise UsageError("--max-clusters goes with --mode max-granularity alone")
        if not self.patterns:
            most = self.patch_size**2 - 1
            object.__setattr__(self, "patterns", patterns_with_ones(self.patch_size, 1, most))


def choose_patterns(
    patch_size: int, ones: tuple[int, int] | None, texts: tuple[str, ...]
) -> tuple[int, ...]:
    """The patterns of ``--ones-range`` or ``--patterns``; all where neither is given.

    Raises:
        UsageError: Both are given.
    """
    if ones and texts:
        raise UsageError("give either --ones-range or --patterns, not both")
    if texts:
        return parse_patterns(texts, patch_size)
    low, high = ones or (1, patch_size**2 - 1)
    return patterns_with_ones(patch_size, low, high)


def choose_all_patterns(
    sizes: Sequence[int], ones: tuple[int, int] | None, texts: tuple[str, ...]
) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """The same for several patch sizes; a range is cut to what a size has.

    Raises:
        UsageError: Explicit patterns with several patch sizes.
    """
    if len(sizes) > 1 and texts:
        raise UsageError("--patterns goes with one patch size: use --ones-range")
    table = []
    for size in sizes:
        own = ones
        if ones and len(sizes) > 1:
            most = size**2 - 1
            own = (min(ones[0], most), min(ones[1], most))
        table.append((size, choose_patterns(size, own, texts)))
    return tuple(table)


@dataclass(frozen=True, eq=False)
class SearchResult:
    """The answer for one bound.

    Attributes:
        bound: What was asked.
        eps: The largest allowed drop, absolute.
        plan: The plan; where nothing feasible was found it is empty, or what a tuned network
            carries.
        search: How its trial did on the search samples: drop, saved_fraction, samples; the first
            two None where it was not run.
        select: How it did on the select samples.
        verify: How it did on the verify samples.
        bound_met: Whether the bound holds on verify.
        looked_at: How many of the best trials were measured on select.
        path: The file that was written; None before it is.
    """

    bound: Bound
    eps: float
    plan: Plan
    search: dict[str, Any]
    select: Measured
    verify: Measured
    bound_met: bool
    looked_at: int
    path: Path | None = None


@dataclass(frozen=True, eq=False)
class SearchReport:
    """What a whole search gave.

    Attributes:
        model: The model that was searched.
        settings: What it was asked.
        results: One a bound.
        complete: Whether it ran to its end (no budget ended it).
        trials: Trials in the study, those of earlier runs included.
        forward_samples: Their work, in samples through the whole network.
        trial_seconds: Time of all these trials.
        seconds: Time of this run.
        select_plans: Plans that were measured on select in this run.
        verify_reads: How often verify was read in this study.
        notes: Warnings for the user, one line each.
    """

    model: Path
    settings: Settings
    results: tuple[SearchResult, ...]
    complete: bool
    trials: int
    forward_samples: float
    trial_seconds: float
    seconds: float
    select_plans: int
    verify_reads: int
    notes: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """The object that ``search --json`` prints."""
        common: dict[str, Any] = {
            "model": str(self.model),
            "mode": self.settings.mode,
            "strategy": self.settings.strategy,
            "goal": self.settings.goal,
            "complete": self.complete,
            "trials": self.trials,
            "forward_samples": self.forward_samples,
            "trial_seconds": self.trial_seconds,
            "seconds": self.seconds,
            "select_plans": self.select_plans,
            "verify_reads": self.verify_reads,
            "notes": list(self.notes),
        }
        answers = [_answer(result) for result in self.results]
        if len(answers) == 1:
            return {**common, **answers[0]}
        return {**common, "results": answers}


def _answer(result: SearchResult) -> dict[str, Any]:
    return {
        "eps": result.eps,
        "baseline": {"top1": float(result.verify.baseline)},
        "search": result.search,
        "select": {**result.select.to_json(), "looked_at": result.looked_at},
        "verify": result.verify.to_json(),
        "bound_met": result.bound_met,
        "output": None if result.path is None else str(result.path),
    }
