"""What ``search`` prints and asks beside searching: progress, study names, listings."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from spatialonnx.cli.console import percent, points, progress_bar, show, table, warn
from spatialonnx.cli.options import CommonOptions
from spatialonnx.errors import UsageError
from spatialonnx.plan.macs import fraction
from spatialonnx.runtime.progress import Progress, ProgressCallback
from spatialonnx.searching.identity import study_key
from spatialonnx.searching.job import SearchJob
from spatialonnx.searching.pareto import pareto_front
from spatialonnx.searching.run import dry_run
from spatialonnx.searching.study import Record, Study

if TYPE_CHECKING:
    from rich.table import Table

_LITTLE = 0.02
"""Share of MACs below which a network is said to gain hardly."""


@contextlib.contextmanager
def watching(common: CommonOptions) -> Iterator[ProgressCallback]:
    """A progress bar that follows a task."""
    with progress_bar(common, "preparing") as (bar, task):

        def update(progress: Progress) -> None:
            if progress.warning:
                warn(common, progress.stage)
            bar.update(
                task, description=progress.stage, completed=progress.done, total=progress.total
            )
            if progress.best_saved is not None:
                bar.update(task, best=f"best {percent(progress.best_saved)} saved")

        yield update


def default_study(common: CommonOptions, job: SearchJob) -> SearchJob:
    """The job with a study that is named after what decides its trials."""
    assert job.files.output is not None
    folder = job.files.output.parent
    stem = job.experiment.model.path.name.removesuffix(".onnx")
    stem = stem.removesuffix(".spatial").removesuffix(".masked")
    path = folder / f"{stem}.{job.settings.mode}.{study_key(job)[:8]}.study.db"
    others = sorted(p.name for p in folder.glob(f"{stem}.*.study.db") if p != path)
    if others and not path.exists():
        warn(common, f"other options than in {', '.join(others)}: starting {path.name}")
    return replace(job, files=replace(job.files, study=path))


def list_front(common: CommonOptions, path: Path) -> None:
    """Prints the trials of a study that no other beats in both saving and drop.

    With ``--verbose`` the records of all passes are printed too, in the order of the search.
    """
    with Study(path, readonly=True) as study:
        about = study.about()
        front = pareto_front(study)
        count = study.count()
        baseline, total = study.scale()
        records = list(study.records()) if common.verbose else []
    rows = [
        [percent(saved), points(drop), f"{record.pass_name}: {record.target}", record.option[:60]]
        for saved, drop, record in front
    ]
    value = {
        "study": str(path),
        "about": about,
        "trials": count,
        "front": [
            {
                "saved_fraction": saved,
                "drop": drop,
                "pass": record.pass_name,
                "target": record.target,
                "option": record.option,
            }
            for saved, drop, record in front
        ],
    }
    title = f"Pareto front of {count} trials, on search samples ({about.get('mode', '?')})"
    tables = [table(title, ["MACs saved", "drop", "trial", "option"], rows)]
    if common.verbose:
        value["records"] = [_record(record, baseline, total) for record in records]
        lines = [[r.pass_name, r.target, r.option, *_outcome(r, baseline, total)] for r in records]
        columns = ["pass", "target", "option", "MACs saved", "drop", "KL"]
        tables.append(table("All records", columns, lines))
    show(common, value, tables)


def _record(record: Record, baseline: Fraction, total: int) -> dict[str, object]:
    """One record for a program; drop and saved are missing where the trial was rejected."""
    outcome = record.outcome
    return {
        "pass": record.pass_name,
        "target": record.target,
        "option": record.option,
        "plan": record.plan_key,
        "saved_fraction": None if outcome.saved is None else fraction(outcome.saved, total),
        "drop": None if outcome.score is None else float(baseline - outcome.score),
        "kl": outcome.kl,
        "rejected_at": None if outcome.rejected_at is None else float(outcome.rejected_at),
        "seconds": outcome.seconds,
    }


def _outcome(record: Record, baseline: Fraction, total: int) -> list[str]:
    """The figures of one record for a person."""
    outcome = record.outcome
    saved = "" if outcome.saved is None else percent(fraction(outcome.saved, total))
    if outcome.score is None:
        return [saved, f"more than {points(float(outcome.rejected_at or 0))}", ""]
    kl = "" if outcome.kl is None else f"{outcome.kl:.4f}"
    return [saved, points(float(baseline - outcome.score)), kl]


def memory_bytes(text: str | None) -> int | None:
    """Reads ``4G``, ``500M`` or a number of bytes.

    Raises:
        UsageError: The text is something else.
    """
    if text is None:
        return None
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    unit = units.get(text[-1:].upper(), 1)
    digits = text[:-1] if text[-1:].upper() in units else text
    try:
        value = int(float(digits) * unit)
    except (ValueError, OverflowError):
        value = 0
    if value <= 0:
        raise UsageError(f"--memory {text!r}: give bytes, as 4G or 500M")
    return value


def show_estimate(common: CommonOptions, job: SearchJob) -> None:
    """Prints what every mode would cost, and the most it could save."""
    with progress_bar(common, "looking at some images"):
        estimate = dry_run(job)
    modes = [
        [
            mode.mode,
            f"{mode.targets:,}",
            f"{mode.patterns:,}",
            f"{mode.trials:,}",
            f"{mode.passes:,.0f}",
            f"{mode.literal_hours:.2f}",
            f"{mode.hours:.2f}",
            mode.space,
            percent(mode.most_saved),
        ]
        for mode in estimate.modes
    ]
    names = [mode.mode for mode in estimate.modes]
    sites = [
        [site.site, percent(site.share), percent(site.zeros)]
        + [percent(site.most_saved[name]) for name in names]
        for site in estimate.sites
    ]
    columns = ["mode", "targets", "patterns", "trials", "passes", "literal h", "expected h"]
    lines: list[str | Table] = [
        table("What a search would cost", [*columns, "masks", "most saved"], modes),
        table("The most that each site could save", ["site", "share", "zeros", *names], sites),
        f"from {estimate.samples} images, with the dense network's activations; trials and passes "
        "are upper limits: options that miss the bound are dropped on the way",
    ]
    if job.settings.strategy == "joint":
        lines.append(
            "trials and hours are those of the greedy passes: --strategy joint runs two trials a "
            "layer and patch size, and mostly fewer than a hundred more"
        )
    if max((mode.most_saved for mode in estimate.modes), default=0.0) < _LITTLE:
        lines.append("this network has too few zeros in patches: it will hardly gain")
    show(common, estimate.to_json(), lines)
