"""The exhaustive search of the uniform-layer mode (report, section 5.2.2.2): all plans."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from fractions import Fraction

from spatialonnx.searching.modes import Groups, group_target
from spatialonnx.searching.settings import EXHAUSTIVE
from spatialonnx.searching.targets import Piece
from spatialonnx.searching.task import Task
from spatialonnx.searching.thresholds import find_means, first_choices
from spatialonnx.searching.trials import Candidate


def count_plans(choices: Sequence[object], groups: Groups) -> int:
    """Number of plans: every choice or off, for every layer."""
    return int((len(choices) + 1) ** len(groups))


def exhaustive_search(task: Task) -> dict[Fraction, frozenset[str]]:
    """Tries all products of all choices and off; the all-off plan is recorded, not run.

    Args:
        task: The task, for one patch size; each group of coupled sites is one layer.

    Returns:
        By bound, the keys of all plans.
    """
    trials, layout = task.trials, task.layout
    targets = [group_target(group) for group in task.groups]
    choices = first_choices(task.patterns, layout.patch_size, task.multiples)
    means = find_means(trials.simulator, task.multiples)
    nothing = ",".join("off" for _ in targets)
    combinations = itertools.product((*choices, None), repeat=len(targets))

    def candidates() -> Iterator[Candidate]:
        for combination in combinations:
            pieces: list[Piece] = []
            for target, choice in zip(targets, combination, strict=True):
                if choice is not None:
                    pieces += choice.pieces(target, means)
            label = ",".join("off" if choice is None else choice.label for choice in combination)
            if pieces:
                yield Candidate("network", label, layout.plan(pieces))

    expected = count_plans(choices, task.groups) - 1
    keys = frozenset(t.key for t in trials.run(EXHAUSTIVE, candidates(), expected))
    trials.record_off(EXHAUSTIVE, "network", nothing)
    return dict.fromkeys(task.bounds, keys)
