"""The exact search of the uniform-layer mode (report, section 5.2.2.2): every plan there is."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from fractions import Fraction

from spatialonnx.plan.patterns import pattern_text
from spatialonnx.searching.modes import Groups, group_target
from spatialonnx.searching.targets import Piece, pattern_pieces
from spatialonnx.searching.task import Task
from spatialonnx.searching.trials import Candidate

EXHAUSTIVE = "exhaustive"


def count_plans(patterns: Sequence[int], groups: Groups) -> int:
    """Number of plans: every pattern or off, for every layer."""
    return int((len(patterns) + 1) ** len(groups))


def exhaustive_search(task: Task) -> dict[Fraction, frozenset[str]]:
    """Tries all products of all patterns and off; the all-off plan is recorded, not run.

    Args:
        task: What is searched, for one patch size; each group of coupled sites is one layer.

    Returns:
        By bound, the keys of all plans.
    """
    trials, layout = task.trials, task.layout
    targets = [group_target(group) for group in task.groups]
    expected = count_plans(task.patterns, task.groups) - 1
    keys: list[str] = []
    for choice in itertools.product((*task.patterns, None), repeat=len(targets)):
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
        (trial,) = trials.run(EXHAUSTIVE, [candidate], expected, len(keys))
        keys.append(trial.key)
    return dict.fromkeys(task.bounds, frozenset(keys))
