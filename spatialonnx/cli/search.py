"""``spatialonnx search``: the masks that save the most MACs within an accuracy bound."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from spatialonnx.cli.options import (
    Baseline,
    BudgetOptions,
    CommonOptions,
    ConfidenceOptions,
    DataOptions,
    Metric,
    ModelArgument,
    Output,
    ScoreOptions,
    SearchEps,
    SearchLatencyTable,
    SearchPatchSize,
    SplitOptions,
    StudyFile,
    command,
)

if TYPE_CHECKING:
    from spatialonnx.searching.api import SearchOptions


@dataclass(frozen=True)
class MaskOptions:
    """Masks that are tried."""

    mode: Annotated[
        str | None,
        typer.Option(
            "--mode",
            help="Granularity: uniform-layer, uniform-filter, uniform-patch or max-granularity.",
            show_default="uniform-layer; uniform-patch with --goal latency",
        ),
    ] = None
    strategy: Annotated[
        str | None,
        typer.Option(
            "--strategy",
            help="joint (weighs layers against each other by the KL divergence that they cost), "
            "greedy (the report's) or exhaustive.",
            show_default="joint; greedy with options that joint lacks",
        ),
    ] = None
    patch_size: SearchPatchSize = "2"
    ones_range: Annotated[
        str | None,
        typer.Option("--ones-range", help="Probes in a pattern: 1:3.", show_default="1 to p*p - 1"),
    ] = None
    patterns: Annotated[
        str | None,
        typer.Option("--patterns", help="Only these patterns: 1001,0110.", show_default="all"),
    ] = None
    thresholds: Annotated[
        str | None,
        typer.Option(
            "--thresholds",
            help="Values up to which probes count as zero, as multiples of a channel's mean "
            "positive activation, for example 0,0.1,0.2 (0 = only zeros).",
            show_default="joint: 0,0.1,0.2,0.35,0.5,0.7; else 0",
        ),
    ] = None
    max_patterns: Annotated[
        int | None,
        typer.Option(
            "--max-patterns",
            help="Patterns that the channels of a site share, beside off.",
            min=1,
            show_default="no limit; 3 with --goal latency",
        ),
    ] = None
    max_clusters: Annotated[
        int,
        typer.Option(
            "--max-clusters",
            help="max-granularity: merge the patches of a channel into at most this many squares "
            "(0 = every patch by itself).",
            min=0,
        ),
    ] = 0
    top: Annotated[
        int | None,
        typer.Option(
            "--top", help="Keep this many options, the best ones.", min=1, show_default="all"
        ),
    ] = None
    couple: Annotated[
        str,
        typer.Option(
            "--couple",
            help="Sites optimised jointly: none, block, stage or a JSON file of lists of names.",
        ),
    ] = "none"
    goal: Annotated[
        str,
        typer.Option(
            "--goal",
            help="What accuracy is weighed against: macs, or latency (time saved by SpatialConv or "
            "SpatialQConv, measured on this machine with these --threads).",
        ),
    ] = "macs"


@command
def search(
    common: CommonOptions,
    model: ModelArgument = None,
    output: Output = None,
    eps: SearchEps = "0.01",
    limits: ConfidenceOptions = ConfidenceOptions(),
    data: DataOptions = DataOptions(),
    score: ScoreOptions = ScoreOptions(),
    masks: MaskOptions = MaskOptions(),
    metric: Metric = None,
    baseline: Baseline = None,
    parts: SplitOptions = SplitOptions(),
    study: StudyFile = None,
    latency_table: SearchLatencyTable = None,
    budget: BudgetOptions = BudgetOptions(),
    cluster: Annotated[
        str | None,
        typer.Option(
            "--cluster",
            help="Run trials on Ray: auto, local:N (N worker processes here) or the address of a "
            "cluster. Each worker has --threads threads, one unless given.",
            show_default="in this process",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print trials, hours and the most that could be saved, per mode; search nothing.",
        ),
    ] = False,
    list_study: Annotated[
        Path | None,
        typer.Option(
            "--list",
            help="Print the Pareto front of a study, with --verbose all records; search nothing.",
        ),
    ] = None,
) -> None:
    """Search masks that save the most MACs while the metric falls by at most eps.

    Trials run on one part of the data, the choice among the best is made on a second, and the
    bound is checked on a third that no choice used. Every trial is journalled: the same command
    continues after Ctrl-C or a crash. Exit code 3: the bound does not hold (*.missed.onnx).

    Example: spatialonnx search model.spatial.onnx --eps 0.01 --data folder:images/val
    """
    from spatialonnx.cli import search_tables as tables
    from spatialonnx.cli.console import show, warn
    from spatialonnx.cli.inputs import data_options, read_model
    from spatialonnx.cli.progress import show_progress
    from spatialonnx.cli.quantities import parse_minutes
    from spatialonnx.errors import BoundMissedError, InterruptedSearchError
    from spatialonnx.searching.api import open_search
    from spatialonnx.searching.identity import name_study
    from spatialonnx.searching.job import SearchFiles
    from spatialonnx.searching.run import dry_run as estimate_search
    from spatialonnx.searching.run import search_masks

    if list_study is not None:
        show(common, *tables.study_tables(list_study, records=common.verbose))
        return
    limited = {
        "time_budget": parse_minutes("--time-budget", budget.time_budget),
        "max_trials": budget.max_trials,
    }
    source = read_model(model, "spatial", "masked")
    named = {
        "metric": metric,
        "baseline": baseline,
        "cluster": cluster,
        **data_options(data, score),
    }
    groups = (common.running(), vars(parts), vars(limits), vars(masks), limited, named)
    options = cast("SearchOptions", {k: v for group in groups for k, v in group.items()})
    written = output or default_output(source.path)
    files = SearchFiles(study or Path(), written, common.force, latency_table)
    job = open_search(source, data.data, eps, files, options)
    if dry_run:
        with show_progress(common) as progress:
            estimate = estimate_search(job, progress)
        show(common, estimate.to_json(), tables.estimate_lines(estimate))
        return
    if study is None:
        job, others = name_study(job)
        if others:
            warn(common, f"other options than in {', '.join(others)}: starting a study of its own")
    try:
        with show_progress(common) as progress:
            report = search_masks(job, progress)
    except InterruptedSearchError as stopped:
        show(common, stopped.result, [])
        raise
    for note in report.notes:
        warn(common, note)
    if any(not result.plan for result in report.results):
        warn(common, "nothing feasible was found: the plan is off everywhere")
    show(common, report.to_json(), tables.result_lines(report, limits.confidence))
    if (missed := next((r for r in report.results if not r.bound_met), None)) is not None:
        raise BoundMissedError(
            f"the bound of {missed.bound} does not hold on verify (drop "
            f"{100 * float(missed.verify.drop):.2f} points): kept as {missed.path}; try more "
            "--search-samples, or a smaller --eps for the search"
        )


def default_output(model: Path) -> Path:
    """Beside the model: ``m.masked.onnx``, or ``m.again.masked.onnx`` where that is the model."""
    from spatialonnx.model.stages import stage_path

    path = stage_path(model, "masked")
    return path if path != model else stage_path(path, "again.masked")
