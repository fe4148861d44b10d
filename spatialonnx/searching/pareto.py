"""The Pareto front of a study."""

from __future__ import annotations

from fractions import Fraction

from spatialonnx.plan.macs import fraction
from spatialonnx.searching.study import Record, Study


def pareto_front(study: Study) -> list[tuple[float, float, Record]]:
    """The trials that no other beats in both saving and drop.

    Args:
        study: The journal.

    Returns:
        Saved fraction, drop and record, by increasing saving.

    Raises:
        StudyError: The study is empty or damaged.
    """
    baseline, total = study.scale()
    points = [
        (record.outcome.saved, baseline - record.outcome.score, record)
        for record in study.records()
        if record.outcome.saved is not None and record.outcome.score is not None
    ]
    points.sort(key=lambda point: (-point[0], point[1]))
    front: list[tuple[float, float, Record]] = []
    least: Fraction | None = None
    for saved, drop, record in points:
        if least is None or drop < least:
            least = drop
            front.append((fraction(saved, total), float(drop), record))
    return front[::-1]
