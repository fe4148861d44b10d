"""``spatialonnx bench``: latencies of models, timed in alternation on real images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spatialonnx.cli.options import (
    BenchBaseline,
    BenchBatch,
    Cold,
    CommonOptions,
    ImageOptions,
    Runs,
    command,
)

if TYPE_CHECKING:
    from rich.table import Table

    from spatialonnx.runtime.bench import Benchmark, Contestant

_TOP_NODES = 15


@command
def bench(
    common: CommonOptions,
    models: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="ONNX files of any stage. None: the folder's original and deployed model.",
            show_default=False,
        ),
    ] = None,
    baseline: BenchBaseline = None,
    data: ImageOptions = ImageOptions(),
    batch: BenchBatch = None,
    runs: Runs = 50,
    cold: Cold = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Also print the time per node (ORT's profiler).")
    ] = False,
) -> None:
    """Time models in alternation on the same images: median, spread, peak memory and their ratio.

    What a masked model skips depends on the data: give real images with --data. It may be left out
    where the model names a built-in set; otherwise noise is used, and the output says so. A run
    takes one image, or as many as a model takes at once.
    """
    from spatialonnx.cli.console import show, warn
    from spatialonnx.cli.inputs import preprocessing_changes
    from spatialonnx.cli.progress import show_progress
    from spatialonnx.measure.bench import bench as bench_models
    from spatialonnx.model.model_file import load_model
    from spatialonnx.model.stages import find_model

    paths = models or [find_model(Path(), ("original",)), find_model(Path(), ("deploy",))]
    sources = [load_model(path) for path in paths]
    with show_progress(common) as progress:
        result = bench_models(
            sources,
            data.data,
            baseline=baseline,
            batch=batch,
            runs=runs,
            cold=cold,
            profile=profile,
            preprocessing=preprocessing_changes(data),
            model_batch=data.model_batch,
            provider=common.provider,
            threads=common.threads,
            progress=progress,
        )
    for note in result.notes:
        warn(common, note)
    show(common, result.to_json(), result_lines(result))


def result_lines(result: Benchmark) -> list[str | Table]:
    """Prints a benchmark as a table."""
    from spatialonnx.cli.console import table
    from spatialonnx.runtime.machine import describe_machine, versions

    rows = [_row(contestant) for contestant in result.contestants]
    columns = ["model", "precision", "median ms", "p10", "p90", "ratio", "95 %", "peak MB"]
    caches = "run by run, caches cold" if result.cold else "in bursts, caches warm"
    title = f"Batch {result.batch}, {result.runtime.threads} threads, {result.runs} rounds {caches}"
    lines: list[str | Table] = [
        table(title, columns, rows),
        f"ratios are to {result.baseline.name}; data: {result.data}",
    ]
    for contestant in result.contestants:
        if contestant.nodes is not None:
            lines.append(_node_table(contestant))
    known = versions()
    lines.append(
        f"{describe_machine()['processor']}, {result.isa}, onnxruntime "
        f"{known['onnxruntime']}, spatialonnx {known['spatialonnx']}"
    )
    return lines


def _row(contestant: Contestant) -> list[object]:
    timing, ratio = contestant.timing, contestant.ratio
    return [
        contestant.path.name,
        contestant.precision,
        f"{1e3 * timing.median:.3f}",
        f"{1e3 * timing.p10:.3f}",
        f"{1e3 * timing.p90:.3f}",
        f"{ratio.value:.3f}",
        f"{ratio.low:.3f}-{ratio.high:.3f}",
        "-" if contestant.peak is None else f"{contestant.peak / 1e6:.0f}",
    ]


def _node_table(contestant: Contestant) -> Table:
    from spatialonnx.cli.console import percent, table
    from spatialonnx.runtime.bench import node_rows

    assert contestant.nodes is not None
    rows = sorted(node_rows(contestant.nodes), key=lambda row: -row["ms"])
    cells = [[r["node"], r["op"], f"{r['ms']:.3f}", percent(r["share"])] for r in rows[:_TOP_NODES]]
    left = len(rows) - len(cells)
    rest = f" ({left} smaller ones left out; all in --json)" if left else ""
    return table(f"{contestant.path.name}{rest}", ["node", "op", "ms", "share"], cells)
