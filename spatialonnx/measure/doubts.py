"""Reasons why the accuracy of a dense network means little: its answers, and chance."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.stats import binom

from spatialonnx.measure.metrics import TOP1, Metric, Outputs

NEARLY_ALL = 0.95
"""Share of the samples from which on one answer is said to be that of nearly all."""
_CHANCE = 0.01
"""Probability from which on chance explains an accuracy."""
_RENAMED = 0.2
"""Share of the samples by which another numbering of the classes must be better than this one, and
than it would be for answers that have nothing to do with the labels."""
_PER_CLASS = 10
"""Samples per class, on average, from which on chance rarely exceeds that by so much."""
_FEWEST = 10
"""Samples below which nothing is said."""


def doubts(
    metric: Metric, outputs: Outputs, labels: NDArray[np.int64] | None, *, folders: bool = False
) -> Iterator[str]:
    """Reasons why the accuracy of a dense network means little, one line each.

    Args:
        metric: What scores its outputs.
        outputs: Its outputs, batch first.
        labels: int64 [n], or None.
        folders: Whether their classes are folders, which ``--classes`` can number.
    """
    if not metric.counts or not metric.has_logits(outputs):
        return
    logits = metric.logits(outputs)
    if len(logits) < _FEWEST or logits.shape[1] < 2:
        return
    if (logits == logits[0]).all():
        yield "the outputs never change: check the preprocessing (--mean, --std) and --score-output"
        return
    answers = np.argmax(logits, axis=1)
    counts = np.bincount(answers)
    share = counts.max() / len(answers)
    if share >= NEARLY_ALL:
        yield (
            f"the network answers class {counts.argmax()} on {100 * share:.1f} % of the samples: "
            "a small drop says little"
        )
    if metric.name != TOP1.name or labels is None or labels.ndim != 1:
        return
    right = int(metric.right(outputs, labels).sum())
    renamed, unrelated = _renamed(answers, labels)
    if renamed - max(right, unrelated) > _RENAMED * len(answers):
        order = "the network's order with --classes" if folders else "labels in the network's order"
        yield (
            f"with the classes in another order {100 * renamed / len(answers):.1f} % of the "
            f"answers would be right instead of {100 * right / len(answers):.1f} %: give {order}"
        )
        return
    chance = float(np.mean([(labels == answer).mean() for answer in answers]))
    if binom.sf(right - 1, len(answers), chance) > _CHANCE:
        numbers = "--classes" if folders else "the order of the classes"
        yield (
            f"an accuracy of {100 * right / len(answers):.1f} % cannot be told from chance, "
            f"{100 * chance:.1f} %: check --mean and --std, {numbers} and --score-output"
        )


def _renamed(answers: NDArray[np.int64], labels: NDArray[np.int64]) -> tuple[int, float]:
    """The most answers that are right under any numbering of the classes, and that of chance.

    Returns:
        The answers, and how many the best numbering would expect of answers that are given as
        often, whatever the label is; 0 and 0 for few samples.
    """
    names, numbers = np.unique(labels, return_inverse=True)
    if len(labels) < _PER_CLASS * len(names):
        return 0, 0.0
    counts = np.zeros((len(names), int(answers.max()) + 1), np.int64)
    np.add.at(counts, (numbers, answers), 1)
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / len(labels)
    renamed, unrelated = (
        each[linear_sum_assignment(each, maximize=True)].sum() for each in (counts, expected)
    )
    return int(renamed), float(unrelated)
