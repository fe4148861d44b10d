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
    SplitOptions,
    command,
)


@command
def evaluate(
    common: CommonOptions,
    model: ModelArgument = None,
    data: DataOptions = DataOptions(),
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
    import numpy as np

    from spatialonnx.cli.console import percent, progress_bar, show, site_table
    from spatialonnx.cli.inputs import cut, read_data, read_model
    from spatialonnx.errors import UsageError
    from spatialonnx.measure.evaluate import evaluate_model
    from spatialonnx.measure.metrics import find_metric
    from spatialonnx.measure.samples import Samples
    from spatialonnx.model.model_file import load_model

    if split not in ("search", "select", "verify", "all"):
        raise UsageError(f"--split {split}: use search, select, verify or all")
    source = read_model(model, "deploy", "masked", "spatial", "original")
    dataset = read_data(source, data)
    if split == "all":
        indices = np.arange(len(dataset), dtype=np.int64)
        if samples is not None:
            # At random, as parts are drawn: the first images of a set may all be of one class.
            indices = np.sort(np.random.default_rng(parts.seed or 0).permutation(indices)[:samples])
    else:
        indices = getattr(cut(dataset, parts), split)
    with progress_bar(common, "evaluating") as (bar, task):
        result = evaluate_model(
            source.proto,
            Samples(dataset, indices[:samples]),
            runtime=common.runtime(),
            metric=find_metric(metric or "top1"),
            baseline=None if baseline is None else load_model(baseline).proto,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    lines = [f"{source.path.name} on {result.samples} samples of {dataset.name} ({split})"]
    if result.top1 is not None:
        lines.append(f"top-1 {percent(result.top1 / result.samples)}")
    if result.top5 is not None:
        lines.append(f"top-5 {percent(result.top5 / result.samples)}")
    if metric not in (None, "top1"):
        lines.append(f"{metric} {float(result.score):.4f}")
    lines.append(
        f"MACs saved {percent(result.saved_fraction)} ({result.saved:,} of {result.conv_total:,})"
    )
    sites = [site_table(result.sites, result.conv_total)] if result.sites else []
    show(common, result.to_json(), [*lines, *sites])
