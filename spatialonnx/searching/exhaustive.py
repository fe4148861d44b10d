"""The exact search of the uniform-layer mode (report, section 5.2.2.2): every plan there is."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from spatialonnx.plan.patterns import pattern_text
from spatialonnx.searching.modes import Groups, group_target
from spatialonnx.searching.targets import Layout, Piece, pattern_pieces
from spatialonnx.searching.trials import Candidate, Trial, Trials

EXHAUSTIVE = "exhaustive"


def count_plans(patterns: Sequence[int], groups: Groups) -> int:
    """Number of plans: every pattern or off, for every layer."""
    return int((len(patterns) + 1) ** len(groups))


def exhaustive_search(
    trials: Trials, layout: Layout, patterns: Sequence[int], groups: Groups
) -> Iterator[Trial]:
    """Tries all products of all patterns and off; the all-off plan is recorded, not run.

    Args:
        trials: Runs and journals candidates.
        layout: How maps are cut.
        patterns: Patterns of every layer.
        groups: Coupled sites, each group being one layer.

    Yields:
        Every plan's trial.
    """
    targets = [group_target(group) for group in groups]
    expected = count_plans(patterns, groups) - 1
    done = 0
    for choice in itertools.product((*patterns, None), repeat=len(targets)):
        pieces: list[Piece] = []
        for target, pattern in zip(targets, choice, strict=True):
            if pattern is not None:
                pieces += pattern_pieces(target, pattern)
        size = layout.patch_size
        label = ",".join("off" if p is None else pattern_text(p, size) for p in choice)
        if not pieces:
            trials.record_off(EXHAUSTIVE, "network", label)
            continue
        candidate = Candidate("network", label, layout.plan(pieces))
        yield from trials.run(EXHAUSTIVE, [candidate], expected, done)
        done += 1
