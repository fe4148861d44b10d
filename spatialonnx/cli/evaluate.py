"""``spatialonnx evaluate``: accuracy, MACs saved and counts per site, on any stage of model."""

from __future__ import annotations

from typing import Annotated

import typer

from spatialonnx.cli.options import (
    Baseline,
    CommonOptions,
    DataOptions,
    Metric,
    ModelArgument,
    SampleCount,
    ScoreOptions,
    SplitOptions,
    command,
)


@command
def evaluate(
    common: CommonOptions,
    model: ModelArgument = None,
    data: DataOptions = DataOptions(),
    score: ScoreOptions = ScoreOptions(),
    split: Annotated[
        str,
        typer.Option("--split", help="Part of the data: search, select, verify or all."),
    ] = "all",
    samples: SampleCount = None,
    metric: Metric = None,
    baseline: Baseline = None,
    parts: SplitOptions = SplitOptions(),
) -> None:
    """Measure a model: top-1, top-5, MACs saved, and what happens at every site.

    Example: spatialonnx evaluate model.masked.onnx --data fashion-mnist --split verify
    """
    from spatialonnx.cli.console import percent, show, site_table, warn
    from spatialonnx.cli.inputs import data_options, read_model
    from spatialonnx.cli.progress import show_progress
    from spatialonnx.measure.evaluate import evaluate as evaluate_model

    source = read_model(model, "deploy", "masked", "spatial", "original")
    with show_progress(common) as progress:
        result = evaluate_model(
            source,
            data.data,
            split=split,  # type: ignore[arg-type]  # checked there
            samples=samples,
            progress=progress,
            metric=metric,
            baseline=baseline,
            provider=common.provider,
            threads=common.threads,
            **data_options(data, score),
            **parts.sizes(),
        )
    for warning in result.warnings:
        warn(common, f"warning: {warning}")
    for note in result.notes:
        warn(common, note)
    dense = "" if result.dense is None else f" (dense {result.dense:.4f} on verify, as recorded)"
    lines = [f"{source.path.name}{dense} on {result.samples} samples of {result.data} ({split})"]
    if result.top1 is not None:
        lines.append(f"top-1 {percent(result.top1 / result.samples)}")
    if result.top5 is not None:
        lines.append(f"top-5 {percent(result.top5 / result.samples)}")
    if result.metric != "top1":
        lines.append(f"{result.metric} {float(result.score):.4f}")
    if result.conv_total:
        share = f"{percent(result.saved_fraction)} ({result.saved:,} of {result.conv_total:,})"
        lines.append(f"MACs saved {share}")
    else:
        lines.append("MACs cannot be counted: the network has no Conv whose size a run gives")
    sites = [site_table(result.sites, result.conv_total)] if result.sites else []
    show(common, result.to_json(), [*lines, *sites])
