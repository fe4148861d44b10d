"""``spatialonnx insert``: finds sites and puts a SpatialPredict op behind each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from spatialonnx.cli.options import (
    CommonOptions,
    ModelArgument,
    ModelBatch,
    Output,
    PatchSize,
    Pattern,
    PlanSource,
    command,
)

if TYPE_CHECKING:
    from rich.table import Table

    from spatialonnx.graph.insert import Insertion


@command
def insert(
    common: CommonOptions,
    model: ModelArgument = None,
    output: Output = None,
    include: Annotated[
        str | None, typer.Option("--include", help="Only sites whose name matches this regex.")
    ] = None,
    exclude: Annotated[
        str | None, typer.Option("--exclude", help="No sites whose name matches this regex.")
    ] = None,
    patch_size: PatchSize = "2",
    pattern: Pattern = None,
    threshold: Annotated[
        float,
        typer.Option(
            "--threshold",
            help="With --pattern: probes count as zero up to this value of the maps.",
            min=0,
        ),
    ] = 0.0,
    plan: PlanSource = None,
    model_batch: ModelBatch = None,
    simplify: Annotated[
        bool, typer.Option("--simplify/--no-simplify", help="Simplify the graph first.")
    ] = True,
) -> None:
    """Put a [bold]SpatialPredict[/bold] op after every Conv + ReLU, every mask full.

    The result computes what the original computes; [bold]search[/bold] then chooses masks.
    Prints each site, and each Conv that is none with the reason.

    Example: spatialonnx insert model.onnx
    """
    from spatialonnx.cli.console import show
    from spatialonnx.cli.inputs import read_model
    from spatialonnx.graph.insert import insert as insert_ops
    from spatialonnx.model.stages import check_replaceable, stage_path
    from spatialonnx.plan.patterns import parse_patch_size

    source = read_model(model, "original")
    path = output or stage_path(source.path, "masked" if pattern or plan else "spatial")
    check_replaceable(path, source, force=common.force)
    result = insert_ops(
        source,
        include=include,
        exclude=exclude,
        patch_size=parse_patch_size(patch_size),
        pattern=pattern,
        threshold=threshold,
        plan=plan,
        model_batch=model_batch,
        simplify=simplify,
        threads=common.runtime().threads,
    )
    result.save(path)
    lines = [*result_lines(result), f"wrote {path}"]
    show(common, {"output": str(path), **result.to_json()}, lines)


def result_lines(result: Insertion) -> list[str | Table]:
    """The sites and the other Convs for a person."""
    from spatialonnx.cli.console import table

    rows = [
        [
            site.name,
            site.conv,
            " x ".join("?" if d is None else str(d) for d in site.shape),
            site.macs_per_output,
            site.note,
        ]
        for site in result.sites
    ]
    skipped = [[conv.conv, conv.reason] for conv in result.skipped]
    total = result.conv_macs
    macs = f", {total / 1e6:.1f} million MACs per sample in all Convs" if total else ""
    return [
        table("Sites", ["site", "Conv", "ofmap (C x H x W)", "MACs/output", "note"], rows),
        *([table("Convs that are no site", ["Conv", "reason"], skipped)] if skipped else []),
        f"{len(rows)} sites, {len(skipped)} Convs skipped{macs}",
        *result.notes,
    ]
