"""``spatialonnx report``: one page that shows what a search asked for and reached."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spatialonnx.cli.app import app
from spatialonnx.cli.options import (
    Baseline,
    Common,
    Data,
    ImageSize,
    Mean,
    Resize,
    Std,
    command,
)

if TYPE_CHECKING:
    from rich.table import Table

    from spatialonnx.reporting.facts import Report


@command(app, "report")
def report(
    common: Common,
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
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Page to write; the same numbers go beside it as Markdown.",
            show_default="report.html beside the model",
        ),
    ] = None,
    data: Data = None,
    samples: Annotated[
        int | None,
        typer.Option(
            "--samples", help="Verify samples that sites are counted on.", min=1, show_default="all"
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric",
            help="top1, agreement or python:module:function.",
            show_default="the search's",
        ),
    ] = None,
    baseline: Baseline = None,
    mean: Mean = None,
    std: Std = None,
    image_size: ImageSize = None,
    resize: Resize = None,
) -> None:
    """Write one self-contained page: asked and reached, sites, masks, real images, latency.

    A model's study is found beside it, and the models of a study beside that.

    Example: spatialonnx report model.masked.onnx deploy.json -o report.html
    """
    from spatialonnx.cli.console import progress_bar, show
    from spatialonnx.cli.inputs import Pixels, read_data
    from spatialonnx.errors import DataError, DataNotInstalledError
    from spatialonnx.measure.metrics import find_metric
    from spatialonnx.model.model_file import ModelFile, get_metadata, load_model
    from spatialonnx.reporting.measure import Measuring
    from spatialonnx.reporting.sources import find_sources
    from spatialonnx.reporting.write import (
        check_output,
        make_report,
        output_path,
        source_of,
        write_report,
    )

    sources = find_sources(files or [], Path())
    page = output_path(sources, output)
    check_output(page, source_of(sources), force=common.force)
    pixels = Pixels(mean, std, image_size, resize)
    original = None if baseline is None else load_model(baseline).proto
    scorer = None if metric is None else find_metric(metric)
    with progress_bar(common, "reading") as (bar, task):

        def choose(model: ModelFile) -> Measuring | str:
            if data is None and "data" not in get_metadata(model.proto):
                return (
                    "The model names no data set: give one with --data to count and to show maps."
                )
            try:
                dataset = read_data(model, data, pixels)
            except (DataError, DataNotInstalledError) as error:
                if data is not None:
                    raise
                return f"Nothing was counted: {error}."
            return Measuring(
                dataset=dataset,
                runtime=common.runtime(),
                metric=scorer,
                baseline=original,
                samples=samples,
                say=lambda text: bar.update(task, description=text, total=None),
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )

        result = make_report(sources, choose)
        written = write_report(result, page)
    value = {**result.to_json(), "files": [str(path) for path in written]}
    show(common, value, [*result_lines(result), f"wrote {written[0]} and {written[1].name}"])


def result_lines(result: Report) -> list[str | Table]:
    """A report's result for a person."""
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
