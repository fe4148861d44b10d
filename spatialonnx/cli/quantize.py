"""``spatialonnx quantize``: an 8-bit model by ONNX Runtime's quantiser, the plan kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spatialonnx.cli.options import (
    Baseline,
    CommonOptions,
    DataOptions,
    Metric,
    ModelArgument,
    Output,
    ScoreOptions,
    SplitOptions,
    command,
)

if TYPE_CHECKING:
    from rich.table import Table

    from spatialonnx.deployment.quantize import Quantization


@command
def quantize(
    common: CommonOptions,
    model: ModelArgument = None,
    output: Output = None,
    data: DataOptions = DataOptions(),
    score: ScoreOptions = ScoreOptions(),
    calibration_samples: Annotated[
        int,
        typer.Option("--calibration-samples", help="Images that ranges are calibrated on.", min=1),
    ] = 1000,
    method: Annotated[
        str, typer.Option("--method", help="Calibration: minmax, entropy or percentile.")
    ] = "minmax",
    reduce_range: Annotated[
        bool | None,
        typer.Option(
            "--reduce-range/--no-reduce-range",
            help="Weights of 7 bits, with which ONNX Runtime's kernels cannot saturate. Unless "
            "given: on processors without 8-bit dot products (VNNI).",
            show_default=False,
        ),
    ] = None,
    baseline: Baseline = None,
    metric: Metric = None,
    parts: SplitOptions = SplitOptions(),
) -> None:
    """Quantise a model to 8 bit, its plan kept, and certify it against the float original.

    ONNX Runtime's own static quantiser writes QuantizeLinear and DequantizeLinear with uint8
    activations and int8 weights per channel. Ranges are calibrated with the plan on, on images
    that certify nothing. Writes model.int8.onnx, or model.int8.masked.onnx where there is a plan;
    then [bold]deploy[/bold] makes it fast. Exit code 3: the plan's bound no longer holds.

    Example: spatialonnx quantize model.tuned.masked.onnx --baseline model.onnx
    """
    from spatialonnx.cli.console import points, show, warn
    from spatialonnx.cli.inputs import data_options
    from spatialonnx.cli.progress import show_progress
    from spatialonnx.deployment.quantize import quantize as quantize_model
    from spatialonnx.errors import BoundMissedError
    from spatialonnx.model.model_file import load_model
    from spatialonnx.model.stages import check_replaceable, find_model, int8_path

    source = load_model(model or find_model(Path(), ("masked", "spatial", "original")))
    path = output or int8_path(source.path)
    check_replaceable(path, source, force=common.force, may_miss=True)
    with show_progress(common) as progress:
        result = quantize_model(
            source,
            data.data,
            calibration_samples=calibration_samples,
            method=method,
            reduce_range=reduce_range,
            progress=progress,
            metric=metric,
            baseline=baseline,
            provider="cpu" if common.provider == "auto" else common.provider,
            threads=common.threads,
            **data_options(data, score),
            **parts.sizes(),
        )
    for note in result.notes:
        warn(common, note)
    written = result.save(path)
    show(common, {**result.to_json(), "output": str(written)}, result_lines(result, written))
    if result.bound_met is False:
        raise BoundMissedError(
            f"the bound of the plan does not hold in 8 bit (drop "
            f"{points(float(result.verify.drop))}): kept as {written}; try --method entropy or "
            "percentile, or search the quantised model itself"
        )


def result_lines(result: Quantization, written: Path) -> list[str | Table]:
    """Prints a quantisation as tables."""
    from spatialonnx.cli.console import dense_line, percent, points, table

    verify = result.verify
    low, high = verify.interval
    met = {True: ", bound met", False: ", bound MISSED", None: ""}[result.bound_met]
    left = [[conv.conv, conv.reason] for conv in result.left]
    return [
        dense_line(verify, result.experiment.metric.name),
        *([table("Sites that lost their predictions", ["Conv", "reason"], left)] if left else []),
        f"8 bit: drop {points(float(verify.drop))} (95 % {100 * low:+.2f} to {100 * high:+.2f}) "
        f"on {verify.samples} verify samples, MACs saved {percent(verify.saved_fraction)}{met}",
        f"calibrated on {result.samples} images ({result.method})"
        + (", weights of 7 bits (--reduce-range)" if result.reduce_range else ""),
        f"wrote {written}",
    ]
