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
    samples: SampleCount = None,
    metric: Metric = None,
    baseline: Baseline = None,
) -> None:
    """Write one self-contained page: asked and reached, sites, masks, real images, latency.

    The same numbers go beside the page as Markdown. Sites are counted on verify samples.
    A model's study is found beside it, and the models of a study beside that.

    Example: spatialonnx report model.masked.onnx deploy.json -o report.html
    """
    from spatialonnx.cli.console import progress_bar, show
    from spatialonnx.cli.inputs import read_data
    from spatialonnx.errors import DataError, DataNotInstalledError
    from spatialonnx.measure.metrics import find_metric
    from spatialonnx.model.metadata import get_metadata
    from spatialonnx.model.model_file import ModelFile, load_model
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
    original = None if baseline is None else load_model(baseline).proto
    scorer = None if metric is None else find_metric(metric)
    with progress_bar(common, "reading") as (bar, task):

        def choose(model: ModelFile) -> Measuring | str:
            if data.data is None and "data" not in get_metadata(model.proto):
                return (
                    "The model names no data set: give one with --data to count and to show maps."
                )
            try:
                dataset = read_data(model, data)
            except (DataError, DataNotInstalledError) as error:
                if data.data is not None:
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
