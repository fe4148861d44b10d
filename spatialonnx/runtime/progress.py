"""Progress of long tasks: one value, one callback."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far a task is.

    Attributes:
        stage: What is being done, in words, such as ``verify`` or ``channel pass``.
        done: Steps done: samples, trials or runs.
        total: Total number of steps; None if they are not counted.
        best_saved: Of a search: the largest saving within the bound so far, as a fraction of the
            MACs of all Conv nodes.
        note: What else a waiting person asks, in words: of a search on a cluster its workers and
            trials in flight, of a tuning what it has reached.
        warning: Whether ``stage`` is a message that the user should see even without a bar.
    """

    stage: str
    done: int = 0
    total: int | None = None
    best_saved: float | None = None
    note: str = ""
    warning: bool = False


ProgressCallback = Callable[[Progress], None]
Steps = Callable[[int, int], None]
"""Called with how many steps of one stage are done, and how many there are."""


def report_stage(progress: ProgressCallback | None, stage: str, *, warning: bool = False) -> None:
    """Announces a stage whose steps are not counted, if there is a callback."""
    if progress is not None:
        progress(Progress(stage, warning=warning))


def count_steps(progress: ProgressCallback | None, stage: str) -> Steps | None:
    """Makes a callback that reports the steps of a stage; None without a callback to report to."""
    if progress is None:
        return None
    return lambda done, total: progress(Progress(stage, done, total))
