"""``spatialonnx tune``: trains a network so that whole patches of its ofmaps are zero."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spatialonnx.cli.options import (
    Baseline,
    Batch,
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
    Output,
    Pattern,
    SavedGoal,
    ScoreOptions,
    SplitOptions,
    TrainData,
    TuneLatencyTable,
    TunePatchSize,
    TunePlan,
    command,
)

if TYPE_CHECKING:
    from rich.table import Table

    from spatialonnx.tuning.job import Tuned


@command
def tune(
    common: CommonOptions,
    model: ModelArgument = None,
    output: Output = None,
    saved: SavedGoal = 0.5,
    eps: Eps = "0.01",
    train: TrainData = None,
    data: DataOptions = DataOptions(),
    score: ScoreOptions = ScoreOptions(),
    pattern: Pattern = None,
    patch_size: TunePatchSize = None,
    plan: TunePlan = None,
    epochs: Epochs = 4,
    labels: Annotated[
        bool,
        typer.Option(
            "--labels/--no-labels",
            help="Learn the labels beside the original network's answers, or these alone.",
        ),
    ] = True,
    flip: Flip = False,
    crop: Crop = 0,
    mix: Mix = 0.0,
    learn_thresholds: Annotated[
        bool,
        typer.Option(
            "--learn-thresholds/--fixed-thresholds",
            help="Each channel learns up to which value a probe counts as zero.",
        ),
    ] = False,
    batch: Batch = 128,
    lr: Annotated[float, typer.Option("--lr", help="Peak learning rate.")] = 0.05,
    device: Annotated[
        str, typer.Option("--device", help="Where torch trains: auto, cpu or cuda.")
    ] = "auto",
    precision: Annotated[
        str,
        typer.Option(
            "--precision",
            help="Of the training's arithmetic: auto, float32 or bf16 (auto: bf16 where the "
            "processor multiplies it).",
        ),
    ] = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue a tuning that was broken off.")
    ] = False,
    goal: Annotated[
        str,
        typer.Option(
            "--goal",
            help="What the budget counts: macs, or latency (every site by what its outputs take "
            "on this machine in float32, the precision that is trained, with these --threads).",
        ),
    ] = "macs",
    latency_table: TuneLatencyTable = None,
    metric: Metric = None,
    baseline: Baseline = None,
    parts: SplitOptions = SplitOptions(),
    confidence: Confidence = None,
) -> None:
    """Train a network so that whole patches are zero and their MACs can be skipped.

    Starts from any ONNX CNN, with --pattern 1000 or --plan auto, or from the plan of a masked
    model. The result is the same graph with new weights and the plan inside, certified on verify
    against the original. Exit code 3: the bound does not hold (*.missed.onnx).

    Example: spatialonnx tune model.onnx --pattern 1000 --saved 0.5 --eps 0.01
    """
    from spatialonnx.cli.console import points, show, warn
    from spatialonnx.cli.inputs import data_options, read_model
    from spatialonnx.cli.progress import show_progress
    from spatialonnx.errors import BoundMissedError, InterruptedSearchError, UsageError
    from spatialonnx.model.stages import check_replaceable, stage_path
    from spatialonnx.plan.patterns import parse_pattern
    from spatialonnx.tuning.api import tune as tune_model
    from spatialonnx.tuning.journal import check_journal

    if plan is not None and (pattern is not None or patch_size is not None):
        raise UsageError("--plan, or --pattern and --patch-size: give one of them")
    if pattern is not None:
        parse_pattern(pattern)
    if patch_size is not None:
        pattern = _of_size(pattern, patch_size)
    source = read_model(model, "masked", "spatial", "original")
    path = output or stage_path(stage_path(source.path, "tuned"), "masked")
    check_replaceable(path, source, force=common.force, may_miss=True)
    journal = path.with_name(path.name + ".journal")
    if journal.exists() and not (resume or common.force):
        raise UsageError(
            f"{journal} is left of a tuning that was broken off: --resume continues it, --force "
            "starts again"
        )
    if resume:
        check_journal(journal)
    earlier = journal.stat().st_mtime_ns if journal.exists() and not resume else None
    try:
        with show_progress(common) as progress:
            result = tune_model(
                source,
                data.data,
                train=train,
                saved=saved,
                eps=eps,
                plan=pattern if plan is None else plan,
                device=device,
                precision=precision,
                journal=journal,
                resume=resume,
                goal=goal,
                latency_table=latency_table,
                progress=progress,
                epochs=epochs,
                batch=batch,
                rate=lr,
                labels=labels,
                flip=flip,
                crop=crop,
                mix=mix,
                learn_thresholds=learn_thresholds,
                metric=metric,
                baseline=baseline,
                confidence=confidence,
                provider=common.provider,
                threads=common.threads,
                **data_options(data, score),
                **parts.sizes(),
            )
    except KeyboardInterrupt:
        if not journal.exists() or journal.stat().st_mtime_ns == earlier:
            raise
        raise InterruptedSearchError(
            f"stopped: {journal} keeps the epochs that ended, and the same command with --resume "
            "continues"
        ) from None
    for note in result.notes:
        warn(common, note)
    written = result.save(path)
    show(common, {**result.to_json(), "output": str(written)}, _result_lines(result, written))
    if not result.bound_met:
        raise BoundMissedError(
            f"the bound of {result.job.experiment.bounds[0]} does not hold on verify (drop "
            f"{points(float(result.verify.drop))} at {100 * result.verify.saved_fraction:.1f} % of "
            f"MACs saved): kept as {written}; try more --epochs or {_less(result)}"
        )


def _less(result: Tuned) -> str:
    """What may lose less: a plan that saves more than was asked for is there from the start."""
    if 1 - result.start > result.job.recipe.saved:
        return "a plan that predicts less: --pattern with more probes, or one of a search"
    return "a smaller --saved"


def _of_size(pattern: str | None, patch_size: int) -> str:
    """A pattern of this patch size: the one given, or one probe."""
    from spatialonnx.errors import UsageError
    from spatialonnx.plan.patterns import PATCH_SIZES, parse_pattern, pattern_text

    if patch_size not in PATCH_SIZES:
        raise UsageError(f"--patch-size {patch_size}: use 2, 3 or 4")
    if pattern is None:
        return pattern_text(1, patch_size)
    if parse_pattern(pattern)[1] != patch_size:
        raise UsageError(
            f"--pattern {pattern} is not of --patch-size {patch_size}: give one of them"
        )
    return pattern


def _result_lines(result: Tuned, written: Path) -> list[str | Table]:
    """A tuning's result for a person."""
    from spatialonnx.cli.console import dense_line, percent, points, table

    verify = result.verify
    low, high = verify.interval
    rows = [
        [
            epoch.number,
            f"{epoch.loss:.4f}",
            percent(1 - epoch.kept),
            f"{100 * epoch.score:.2f} %",
            f"{epoch.seconds:.0f}",
            "kept" if epoch.number == result.best else "",
        ]
        for epoch in result.epochs
    ]
    bound = result.job.experiment.bounds[0]
    columns = ["epoch", "loss", "MACs saved", "held-out", "seconds", ""]
    return [
        dense_line(verify, result.job.experiment.metric.name),
        table("Epochs", columns, rows),
        f"before tuning the plan saved {percent(1 - result.start)}",
        f"MACs saved {percent(verify.saved_fraction)}, drop {points(float(verify.drop))} "
        f"(95 % {100 * low:+.2f} to {100 * high:+.2f}) on {verify.samples} verify samples, bound "
        f"{bound}: {'met' if result.bound_met else 'MISSED'}",
        f"wrote {written}",
    ]
