"""``spatialonnx optimize``: every stage in a row, and one table at the end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spatialonnx.cli.options import (
    CommonOptions,
    Confidence,
    Crop,
    DataOptions,
    Epochs,
    Eps,
    Flip,
    Metric,
    Mix,
    ModelArgument,
    OptimizeTrainData,
    Runs,
    SavedGoal,
    ScoreOptions,
    SplitOptions,
    StageBudgetOptions,
    command,
)

if TYPE_CHECKING:
    from rich.table import Table

    from spatialonnx.optimizing.outcome import NetworkRow, Optimization
    from spatialonnx.optimizing.verdict import SiteVerdict, Verdict


@command
def optimize(
    common: CommonOptions,
    model: ModelArgument = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Folder for all files.",
            show_default="NAME.optimized beside the model",
        ),
    ] = None,
    eps: Eps = "0.01",
    data: DataOptions = DataOptions(),
    score: ScoreOptions = ScoreOptions(),
    train: OptimizeTrainData = None,
    tuned: Annotated[
        Path | None,
        typer.Option("--tuned", help="The same network as tune wrote it before: NAME.masked.onnx."),
    ] = None,
    precision: Annotated[
        str,
        typer.Option("--precision", help="float32, int8, or auto: the faster one of both."),
    ] = "auto",
    saved: SavedGoal = 0.5,
    epochs: Epochs = 4,
    flip: Flip = False,
    crop: Crop = 0,
    mix: Mix = 0.0,
    budget: StageBudgetOptions = StageBudgetOptions(),
    runs: Runs = 50,
    metric: Metric = None,
    confidence: Confidence = None,
    parts: SplitOptions = SplitOptions(),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Stop after the early verdict.")
    ] = False,
) -> None:
    """Make a network as fast as a bound on accuracy allows: every stage, and one table at the end.

    Runs insert, the early verdict, tune (with --train), quantize, search, deploy, bench and report,
    and ends with the fastest network that keeps the bound. That may be the plain 8-bit network,
    or the original; the output says so. All files go to one folder, and the same command
    continues after an interruption. Exit code 3: no network of the --precision keeps the bound.

    Example: spatialonnx optimize model.onnx --data folder:images --eps 0.005
    """
    from spatialonnx.cli.console import show, warn
    from spatialonnx.cli.inputs import data_options, read_model
    from spatialonnx.cli.progress import show_progress
    from spatialonnx.cli.quantities import parse_minutes
    from spatialonnx.errors import BoundMissedError, InterruptedSearchError
    from spatialonnx.optimizing.api import optimize as optimize_model

    with show_progress(common) as progress:
        try:
            result = optimize_model(
                read_model(model, "original"),
                data.data,
                eps=eps,
                train=train,
                tuned=tuned,
                precision=precision,
                folder=folder,
                dry_run=dry_run,
                force=common.force,
                progress=progress,
                saved=saved,
                epochs=epochs,
                flip=flip,
                crop=crop,
                mix=mix,
                time_budget=parse_minutes("--time-budget", budget.time_budget),
                max_trials=budget.max_trials,
                runs=runs,
                metric=metric,
                confidence=confidence,
                provider=common.provider,
                threads=common.threads,
                **data_options(data, score),
                **parts.sizes(),
            )
        except KeyboardInterrupt:
            raise InterruptedSearchError("stopped: the same command continues") from None
    for note in result.notes:
        warn(common, note)
    show(common, result.to_json(), result_lines(result))
    if result.rows and result.best is None:
        raise BoundMissedError(
            f"no network of precision {precision} keeps the bound of {result.bound} on verify: "
            "try a larger --eps, or --precision auto"
        )


def result_lines(result: Optimization) -> list[str | Table]:
    """Prints the result as tables: that of the verdict where nothing else was made."""
    from spatialonnx.cli.console import table
    from spatialonnx.measure.metrics import TOP1
    from spatialonnx.runtime.machine import describe_machine, instruction_set, versions

    if not result.rows:
        return _verdict_lines(result.verdict)
    rows = [_network_row(row, best=row == result.best) for row in result.rows]
    title = (
        f"On {result.samples} verify images, which no search, calibration or training read; bound "
        f"{result.bound}; latency of one run"
    )
    score = "accuracy" if result.metric == TOP1.name else result.metric
    columns = [
        *("network", score, "drop", "95 % interval", "MACs saved", "ms", "to float32", "to int8"),
        *("MB", "bound", ""),
    ]
    lines: list[str | Table] = [table(title, columns, rows)]
    known = versions()
    lines.append(
        f"{describe_machine()['processor']}, {instruction_set()}, 8 bit "
        f"{instruction_set('int8')}, onnxruntime {known['onnxruntime']}, spatialonnx "
        f"{known['spatialonnx']}"
    )
    if not result.complete:
        lines.append("a budget ended the search: the same command with a larger one continues")
    if result.report is not None:
        lines.append(f"the report: {result.report}")
    if result.best is not None:
        lines.append(f"the fastest that keeps the bound is {result.best.name}: {result.path}")
    return lines


def _network_row(row: NetworkRow, *, best: bool) -> list[object]:
    """One network of the table."""
    from spatialonnx.cli.console import percent, points

    low, high = row.interval
    return [
        row.name if row.name.endswith(row.precision) else f"{row.name}, {row.precision}",
        percent(row.score),
        points(row.drop),
        f"{100 * low:+.2f} to {100 * high:+.2f}",
        percent(row.saved),
        _number(row.median_ms),
        _number(row.ratio),
        _number(row.ratio_int8),
        "-" if row.size is None else f"{row.size / 1e6:.1f}",
        "met" if row.met else "MISSED",
        "<- result" if best else "",
    ]


def _verdict_lines(verdict: Verdict) -> list[str | Table]:
    """Prints the early verdict."""
    from spatialonnx.cli.console import table
    from spatialonnx.optimizing.verdict import describe_verdict

    columns = ["site", "share of MACs", "may save at most"]
    columns += [f"must save in {name}" for name in verdict.precisions]
    rows = [_site_row(site, verdict) for site in verdict.sites]
    return [
        table("Early verdict: shares of each site's own MACs, without training", columns, rows),
        f"from {verdict.samples} search images and a few timed runs, {verdict.seconds:.0f} s; "
        "sites marked * were not tried within the bound",
        describe_verdict(verdict),
    ]


def _site_row(site: SiteVerdict, verdict: Verdict) -> list[object]:
    from spatialonnx.cli.console import percent

    needed = [site.needed.get(name) for name in verdict.precisions]
    return [
        site.name,
        percent(site.share),
        percent(site.most) + ("" if site.tried else " *"),
        *(_needed(value) for value in needed),
    ]


def _needed(share: float | None) -> str:
    """What a site must save, in words where any share gains, and where none is enough."""
    from spatialonnx.cli.console import percent

    if share is None:
        return "cannot gain"
    return percent(share) if share else "any gains"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
