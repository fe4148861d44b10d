"""Shows the progress of a command: a bar on a terminal, elsewhere a line from time to time."""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from spatialonnx.cli.console import err, percent, warn
from spatialonnx.cli.options import CommonOptions

if TYPE_CHECKING:
    from spatialonnx.runtime.progress import Progress, ProgressCallback

_SECONDS = 30.0
"""Seconds between two lines if standard error is not a terminal."""


@contextlib.contextmanager
def show_progress(common: CommonOptions) -> Iterator[ProgressCallback]:
    """Shows the progress of a task on standard error.

    Yields:
        The callback for the task.
    """
    if common.quiet:
        yield lambda progress: warn(common, progress.stage) if progress.warning else None
    elif err.is_terminal:
        with _bar() as follow:
            yield follow
    else:
        yield _lines(common)


@contextlib.contextmanager
def _bar() -> Iterator[ProgressCallback]:
    """A bar that is removed when the task is done; warnings stay above it."""
    bar = Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[notes]}", markup=False),
        TimeRemainingColumn(),
        console=err,
        transient=True,
    )

    def follow(progress: Progress) -> None:
        if progress.warning:
            warn(CommonOptions(), progress.stage)
        bar.update(
            task,
            description=progress.stage,
            completed=progress.done,
            total=progress.total,
            notes=_notes(progress),
        )

    with bar:
        task = bar.add_task("preparing", total=None, notes="")
        yield follow


def _lines(common: CommonOptions) -> ProgressCallback:
    """One line every 30 seconds, for logs."""
    last = time.monotonic()
    stage, begun, at_first = "", last, 0

    def follow(progress: Progress) -> None:
        nonlocal last, stage, begun, at_first
        if progress.stage != stage:
            stage, begun, at_first = progress.stage, time.monotonic(), progress.done
        if progress.warning:
            warn(common, progress.stage)
        elif time.monotonic() - last >= _SECONDS:
            last = time.monotonic()
            count = "" if progress.total is None else f": {progress.done} of {progress.total}"
            left = _left(progress, progress.done - at_first, time.monotonic() - begun)
            warn(
                common,
                ", ".join(filter(None, [f"{progress.stage}{count}", _notes(progress), left])),
            )

    return follow


def _notes(progress: Progress) -> str:
    """The best saving so far, and what else there is to say."""
    best = progress.best_saved
    saved = "" if best is None else f"best {percent(best)} saved"
    return ", ".join(filter(None, [saved, progress.note]))


def _left(progress: Progress, steps: int, seconds: float) -> str:
    """The time left of a stage, from the steps that it made in some time."""
    if progress.total is None or steps < 1:
        return ""
    left = datetime.timedelta(seconds=round((progress.total - progress.done) * seconds / steps))
    return f"{left} left"
