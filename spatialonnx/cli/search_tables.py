"""Tables of ``search``: its result, a study, and an estimate."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spatialonnx.cli.console import dense_line, percent, points, table, verdict
from spatialonnx.plan.macs import fraction
from spatialonnx.searching.pareto import pareto_front
from spatialonnx.searching.settings import JOINT
from spatialonnx.searching.study import Record, Study

if TYPE_CHECKING:
    from rich.table import Table

    from spatialonnx.searching.dry_run import Estimate
    from spatialonnx.searching.report import SearchReport

_LITTLE = 0.02
"""Share of MACs below which a message says that the network gains little."""


def result_lines(report: SearchReport, confidence: float | None) -> list[str | Table]:
    """Prints a search as tables.

    Args:
        report: Its result.
        confidence: That of the upper limit that had to meet the bound; None = the drop itself.
    """
    rows = []
    for result in report.results:
        low, high = result.verify.interval
        rows.append(
            [
                str(result.bound),
                percent(result.verify.saved_fraction),
                points(float(result.verify.drop)),
                f"{100 * low:+.2f} to {100 * high:+.2f}",
                "yes" if result.bound_met else "NO",
                result.looked_at,
                "" if result.path is None else result.path.name,
            ]
        )
    samples = report.results[0].verify.samples
    columns = ["bound", "MACs saved", "drop", "95 % interval", "met", "plans on select", "file"]
    lines: list[str | Table] = [
        dense_line(report.results[-1].verify, report.metric),
        table(f"On verify, which no choice used ({samples} samples)", columns, rows),
    ]
    lines += [
        verdict(result.bound, result.bound_met, result.verify, confidence)
        for result in report.results
    ]
    state = "" if report.complete else " (a budget ended the search: the same command continues)"
    lines.append(
        f"{report.trials} trials, {report.forward_samples:,.0f} forward samples, "
        f"{report.seconds:.0f} s{state}"
    )
    return lines


def study_tables(path: Path, *, records: bool) -> tuple[dict[str, Any], list[Table]]:
    """The Pareto front of a study.

    Args:
        path: The study.
        records: Whether the records of all passes are wanted too, in the order of the search.

    Returns:
        The same as a JSON object and as tables.
    """
    with Study(path, readonly=True) as study:
        about = study.about()
        front = pareto_front(study)
        count = study.count()
        baseline, total = study.scale()
        everything = list(study.records()) if records else []
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
    if records:
        value["records"] = [_record(record, baseline, total) for record in everything]
        lines = [
            [r.pass_name, r.target, r.option, *_outcome(r, baseline, total)] for r in everything
        ]
        columns = ["pass", "target", "option", "MACs saved", "drop", "KL"]
        tables.append(table("All records", columns, lines))
    return value, tables


def _record(record: Record, baseline: Fraction, total: int) -> dict[str, object]:
    """One record as a JSON object, without drop and saved if the trial was rejected."""
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
    """The figures of one record as text."""
    outcome = record.outcome
    saved = "" if outcome.saved is None else percent(fraction(outcome.saved, total))
    if outcome.score is None:
        return [saved, f"more than {points(float(outcome.rejected_at or 0))}", ""]
    kl = "" if outcome.kl is None else f"{outcome.kl:.4f}"
    return [saved, points(float(baseline - outcome.score)), kl]


def estimate_lines(estimate: Estimate) -> list[str | Table]:
    """Prints the estimated cost and largest saving of every mode."""
    modes = [
        [
            mode.mode,
            f"{mode.targets:,}",
            f"{mode.patterns:,}",
            f"{mode.trials:,}",
            f"{mode.passes:,.0f}",
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
    columns = ["mode", "targets", "patterns", "trials", "passes", "hours", "masks", "most saved"]
    title = f"What a search with --strategy {estimate.strategy} would cost"
    lines: list[str | Table] = [
        table(title, columns, modes),
        table("The most that each site could save", ["site", "share", "zeros", *names], sites),
        f"from {estimate.samples} images, with the dense network's activations; a pass is the "
        "whole network on all search images, a trial only what lies behind its first site",
        "trials: two per layer and patch size, and mostly fewer than a hundred that choose a plan"
        if estimate.strategy == JOINT
        else "trials are upper limits: options that miss the bound are dropped on the way",
    ]
    if max((mode.most_saved for mode in estimate.modes), default=0.0) < _LITTLE:
        lines.append("this network has too few zeros in patches: it will hardly gain")
    return lines
