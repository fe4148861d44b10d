"""``spatialonnx evaluate``: accuracy, MACs saved and counts per site, on any stage of model."""

from __future__ import annotations

from typing import Annotated

import typer

from spatialonnx.cli.app import app
from spatialonnx.cli.options import (
    Baseline,
    Common,
    Data,
    ImageSize,
    Mean,
    Metric,
    ModelArgument,
    Resize,
    SearchSamples,
    Seed,
    SelectSamples,
    Std,
    VerifySamples,
    command,
)


@command(app, "evaluate")
def evaluate(
    common: Common,
    model: ModelArgument = None,
    data: Data = None,
    split: Annotated[
        str,
        typer.Option("--split", help="Part of the data: search, select, verify or all."),
    ] = "all",
    samples: Annotated[
        int | None, typer.Option("--samples", help="Only so many samples of it.", min=1)
    ] = None,
    seed: Seed = 0,
    metric: Metric = "top1",
    baseline: Baseline = None,
    search_samples: SearchSamples = None,
    select_samples: SelectSamples = None,
    verify_samples: VerifySamples = None,
    mean: Mean = None,
    std: Std = None,
    image_size: ImageSize = None,
    resize: Resize = None,
) -> None:
    """Measure a model: top-1, top-5, MACs saved, and what happens at every site.

    Example: spatialonnx evaluate model.masked.onnx --data fashion-mnist --split verify
    """
    import numpy as np

    from spatialonnx.cli.console import percent, progress_bar, show, site_table
    from spatialonnx.cli.inputs import Pixels, SplitSizes, cut, read_data, read_model
    from spatialonnx.errors import UsageError
    from spatialonnx.measure.evaluate import evaluate_model
    from spatialonnx.measure.metrics import find_metric
    from spatialonnx.measure.samples import Samples
    from spatialonnx.model.model_file import load_model

    if split not in ("search", "select", "verify", "all"):
        raise UsageError(f"--split {split}: use search, select, verify or all")
    source = read_model(model, "deploy", "masked", "spatial", "original")
    dataset = read_data(source, data, Pixels(mean, std, image_size, resize))
    if split == "all":
        indices = np.arange(len(dataset), dtype=np.int64)
        if samples is not None:
            # At random, as parts are drawn: the first images of a set may all be of one class.
            indices = np.sort(np.random.default_rng(seed).permutation(indices)[:samples])
    else:
        sizes = SplitSizes(seed, search_samples, select_samples, verify_samples)
        indices = getattr(cut(dataset, sizes), split)
    with progress_bar(common, "evaluating") as (bar, task):
        result = evaluate_model(
            source.proto,
            Samples(dataset, indices[:samples]),
            runtime=common.runtime(),
            metric=find_metric(metric),
            baseline=None if baseline is None else load_model(baseline).proto,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    lines = [f"{source.path.name} on {result.samples} samples of {dataset.name} ({split})"]
    if result.top1 is not None:
        lines.append(f"top-1 {percent(result.top1 / result.samples)}")
    if result.top5 is not None:
        lines.append(f"top-5 {percent(result.top5 / result.samples)}")
    if metric != "top1":
        lines.append(f"{metric} {float(result.score):.4f}")
    lines.append(
        f"MACs saved {percent(result.saved_fraction)} ({result.saved:,} of {result.conv_total:,})"
    )
    sites = [site_table(result.sites, result.conv_total)] if result.sites else []
    show(common, result.to_json(), [*lines, *sites])
