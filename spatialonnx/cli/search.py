"""``spatialonnx search``: the masks that save the most MACs within an accuracy bound."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spatialonnx.cli.options import (
    Baseline,
    CommonOptions,
    ConfidenceOptions,
    DataOptions,
    Eps,
    Metric,
    ModelArgument,
    Output,
    PatchSize,
    SplitOptions,
    StudyFile,
    command,
)

if TYPE_CHECKING:
    from rich.table import Table

    from spatialonnx.searching.report import SearchReport


@command
def search(
    common: CommonOptions,
    model: ModelArgument = None,
    output: Output = None,
    eps: Eps = "0.01",
    limits: ConfidenceOptions = ConfidenceOptions(),
    data: DataOptions = DataOptions(),
    mode: Annotated[
        str,
        typer.Option(
            "--mode",
            help="Granularity: uniform-layer, uniform-filter, uniform-patch or max-granularity.",
        ),
    ] = "uniform-layer",
    strategy: Annotated[
        str | None,
        typer.Option(
            "--strategy",
            help="joint (weighs layers against each other by the KL divergence that they cost), "
            "greedy (the report's) or exhaustive.",
            show_default="joint; greedy with options that joint lacks",
        ),
    ] = None,
    patch_size: PatchSize = "2",
    ones_range: Annotated[
        str | None,
        typer.Option(
            "--ones-range", help="Probes in a pattern, as 1:3.", show_default="1 to p*p - 1"
        ),
    ] = None,
    patterns: Annotated[
        str | None,
        typer.Option("--patterns", help="Only these patterns, as 1001,0110.", show_default="all"),
    ] = None,
    max_clusters: Annotated[
        int,
        typer.Option(
            "--max-clusters",
            help="max-granularity: merge the patches of a channel into at most so many squares "
            "(0 = every patch by itself).",
            min=0,
        ),
    ] = 0,
    top: Annotated[
        int | None,
        typer.Option("--top", help="Keep the best so many options.", min=1, show_default="all"),
    ] = None,
    couple: Annotated[
        str,
        typer.Option(
            "--couple",
            help="Sites optimised jointly: none, block, stage or a JSON file of lists of names.",
        ),
    ] = "none",
    goal: Annotated[
        str,
        typer.Option(
            "--goal",
            help="What accuracy is weighed against: macs, or latency (time saved by SpatialConv, "
            "measured on this machine with these --threads).",
        ),
    ] = "macs",
    metric: Metric = None,
    baseline: Baseline = None,
    parts: SplitOptions = SplitOptions(),
    study: StudyFile = None,
    time_budget: Annotated[
        float | None, typer.Option("--time-budget", help="Minutes of trials.", min=0)
    ] = None,
    max_trials: Annotated[
        int | None, typer.Option("--max-trials", help="Trials to run now.", min=0)
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory",
            help="Memory for stored activations, as 4G.",
            show_default="half of what is free",
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
    bound is checked on a third that chose nothing. Every trial is journalled: the same command
    continues after Ctrl-C or a crash. Exit code 3: the bound does not hold (*.missed.onnx).

    Example: spatialonnx search model.spatial.onnx --eps 0.01 --data folder:images/val
    """
    from spatialonnx.cli.console import show
    from spatialonnx.cli.inputs import cut, read_data, read_model
    from spatialonnx.cli.searching import (
        default_study,
        list_front,
        memory_bytes,
        show_estimate,
        watching,
    )
    from spatialonnx.errors import BoundMissedError, InterruptedSearchError
    from spatialonnx.measure.experiment import Experiment
    from spatialonnx.measure.metrics import find_metric
    from spatialonnx.model.model_file import load_model
    from spatialonnx.plan.bounds import parse_bounds
    from spatialonnx.plan.patterns import parse_ones_range, patch_sizes
    from spatialonnx.searching.job import Budget, SearchFiles, SearchJob
    from spatialonnx.searching.run import search_masks
    from spatialonnx.searching.settings import JOINT, Settings, choose_patterns
    from spatialonnx.searching.strategies import default_strategy

    if list_study is not None:
        list_front(common, list_study)
        return
    source = read_model(model, "spatial", "masked")
    dataset = read_data(source, data)
    ones = parse_ones_range(ones_range) if ones_range else None
    texts = tuple(part.strip() for part in patterns.split(",")) if patterns else ()
    sizes = patch_sizes(patch_size)
    settings = Settings(
        mode=mode,
        strategy=strategy or JOINT,
        patterns=choose_patterns(sizes, ones, texts),
        max_clusters=max_clusters,
        top=top,
        couple=couple,
        goal=goal,
    )
    notes: tuple[str, ...] = ()
    if strategy is None:
        settings, why = default_strategy(settings, source.proto)
        notes = (why,) if why else ()
    job = SearchJob(
        experiment=Experiment(
            model=source,
            dataset=dataset,
            split=cut(dataset, parts),
            runtime=common.runtime(),
            metric=find_metric(metric or "top1"),
            bounds=parse_bounds(eps),
            baseline=None if baseline is None else load_model(baseline),
            confidence=limits.confidence,
        ),
        settings=settings,
        files=SearchFiles(
            study=study or Path(),
            output=output or default_output(source.path),
            force=common.force,
        ),
        budget=Budget(
            seconds=None if time_budget is None else 60 * time_budget,
            trials=max_trials,
            memory=memory_bytes(memory),
        ),
        select_confidence=limits.select_confidence,
        notes=notes,
    )
    if dry_run:
        show_estimate(common, job)
        return
    if study is None:
        job = default_study(common, job)
    try:
        with watching(common) as progress:
            report = search_masks(job, progress)
    except InterruptedSearchError as stopped:
        show(common, stopped.result, [])
        raise
    show(common, report.to_json(), result_lines(report, common.quiet))
    missed = [result for result in report.results if not result.bound_met]
    if missed:
        first = missed[0]
        raise BoundMissedError(
            f"the bound of {first.bound} does not hold on verify (drop "
            f"{100 * float(first.verify.drop):.2f} points): kept as {first.path}; try more "
            "--search-samples, or a smaller --eps for the search"
        )


def default_output(model: Path) -> Path:
    """Beside the model: ``m.masked.onnx``, or ``m.again.masked.onnx`` where that is the model."""
    from spatialonnx.model.stages import stage_path

    path = stage_path(model, "masked")
    return path if path != model else stage_path(path, "again.masked")


def result_lines(report: SearchReport, quiet: bool) -> list[str | Table]:
    """A search's result for a person."""
    from spatialonnx.cli.console import percent, points, table, warn
    from spatialonnx.cli.options import CommonOptions

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
    for note in report.notes:
        warn(CommonOptions(quiet=quiet), note)
    if any(not result.plan for result in report.results):
        warn(CommonOptions(quiet=quiet), "nothing feasible was found: the plan is off everywhere")
    state = "" if report.complete else " (a budget ended the search: the same command continues)"
    columns = ["bound", "MACs saved", "drop", "95 % interval", "met", "plans on select", "file"]
    return [
        table(
            f"On verify, which chose nothing ({report.results[0].verify.samples} samples)",
            columns,
            rows,
        ),
        f"{report.trials} trials, {report.forward_samples:,.0f} forward samples, "
        f"{report.seconds:.0f} s{state}",
    ]
