"""``spatialonnx report``: one page that shows what a search asked for and reached."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spatialonnx.cli.options import (
    Baseline,
    CommonOptions,
    DataOptions,
    Metric,
    Output,
    SampleCount,
    ScoreOptions,
    command,
)

if TYPE_CHECKING:
    from rich.table import Table

    from spatialonnx.reporting.facts import Report


@command
def report(
    common: CommonOptions,
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FILE]...",
            help="Masked models, studies (*.study.db), and what bench --json, deploy --json and "
            "baseline --json printed. Several searches are compared. None: the folder's masked "
            "model.",
            show_default=False,
        ),
    ] = None,
    output: Output = None,
    data: DataOptions = DataOptions(),
    score: ScoreOptions = ScoreOptions(),
    samples: SampleCount = None,
    metric: Metric = None,
    baseline: Baseline = None,
) -> None:
    """Write one self-contained page: asked and reached, sites, masks, real images, latency.

    The same numbers go beside the page as Markdown. Sites are counted on verify samples.
    A model's study is found beside it, and the models of a study beside that.

    Example: spatialonnx report model.masked.onnx deploy.json -o report.html
    """
    from spatialonnx import report as make_report
    from spatialonnx.cli.console import show
    from spatialonnx.cli.inputs import data_options
    from spatialonnx.cli.progress import show_progress
    from spatialonnx.reporting.sources import find_sources
    from spatialonnx.reporting.write import prepare_page

    sources = find_sources(files or [], Path())
    page = prepare_page(sources, output, force=common.force)
    with show_progress(common) as progress:
        result = make_report(
            files or [],
            data.data,
            samples=samples,
            metric=metric,
            baseline=baseline,
            progress=progress,
            **data_options(data, score),
            **common.running(),
        )
    written = result.save(page)
    value = {**result.to_json(), "files": [str(path) for path in written]}
    show(common, value, [*result_lines(result), f"wrote {written[0]} and {written[1].name}"])


def result_lines(result: Report) -> list[str | Table]:
    """Prints a report as a summary."""
    from spatialonnx.cli.console import table
    from spatialonnx.reporting import words

    rows = [
        [
            f"{run.label}: {run.title}",
            words.percent(run.saved),
            words.points(run.asked.verify.drop if run.asked.verify else None),
            {True: "yes", False: "NO", None: words.NONE}[run.asked.met],
            words.count(run.trials.count if run.trials else None),
        ]
        for run in result.runs
    ]
    return [table(result.title, ["search", "MACs saved", "drop", "met", "trials"], rows)]
