"""Making a report: gathers what files say and measures the rest on data."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from spatialonnx.data.opening import DataLike
from spatialonnx.errors import DataError, DataNotInstalledError
from spatialonnx.measure.experiment import OWN_FUNCTION
from spatialonnx.measure.metrics import AGREEMENT
from spatialonnx.measure.opening import ExperimentOptions, check_options, open_experiment
from spatialonnx.model.metadata import get_metadata, read_search_record
from spatialonnx.model.model_file import ModelFile
from spatialonnx.reporting.documents import read_documents, read_networks
from spatialonnx.reporting.facts import Report, Run
from spatialonnx.reporting.gather import gather_run
from spatialonnx.reporting.measure import Measuring, measure_run
from spatialonnx.reporting.sources import Sources, find_sources
from spatialonnx.reporting.write import source_of
from spatialonnx.runtime.machine import describe_machine, instruction_set, versions
from spatialonnx.runtime.progress import ProgressCallback, report_stage

Chooser = Callable[[ModelFile], Measuring | str]
"""The measurement context of a model, or why there is none."""


def report(
    files: Sequence[str | Path] | str | Path = (),
    data: DataLike | None = None,
    *,
    samples: int | None = None,
    progress: ProgressCallback | None = None,
    **options: Unpack[ExperimentOptions],
) -> Report:
    """Gathers what files say of searches, and measures the rest on data.

    Args:
        files: Masked models, studies, and JSON files of ``bench``, ``deploy`` and ``baseline``;
            a model's study is found beside it, and the models of a study beside that. None =
            the working directory's masked model.
        data: The data that the plans were searched on; None = the built-in sets that the models
            name. Without data, what needs images is left out, and the report says so.
        samples: Verify samples that sites are counted on; None = all.
        progress: Called with how far it is.
        **options: See ``ExperimentOptions``; the split and the metric are the search's unless
            given.

    Returns:
        The facts; ``save`` writes them as a page.

    Raises:
        SpatialOnnxError: Anything that a user can fix.
    """
    check_options(options, ExperimentOptions)
    given = [files] if isinstance(files, (str, Path)) else files
    sources = find_sources([Path(file) for file in given], Path())
    return make_report(sources, choose_by(data, samples, options), progress=progress)


def choose_by(data: DataLike | None, samples: int | None, options: ExperimentOptions) -> Chooser:
    """What ``report`` measures of each model.

    Args:
        data: The data; None = the built-in sets that the models name.
        samples: Verify samples that sites are counted on; None = all.
        options: What the user chose.
    """

    def choose(model: ModelFile) -> Measuring | str:
        if data is None and "data" not in get_metadata(model.proto):
            return "The model names no data set: give one with --data to count and to show maps."
        record = read_search_record(model.proto)
        own = record is not None and record.metric == OWN_FUNCTION and not options.get("metric")
        if record is not None and own:
            record = replace(record, metric=AGREEMENT.name)
        try:
            experiment = open_experiment(model, data, options, record=record, refuse=False)
        except (DataError, DataNotInstalledError) as error:
            if data is not None:
                raise
            return f"Nothing was counted: {error}."
        return Measuring(experiment, drops=not own, samples=samples)

    return choose


def make_report(
    sources: Sources,
    choose: Chooser,
    *,
    title: str = "",
    remarks: Sequence[str] = (),
    progress: ProgressCallback | None = None,
) -> Report:
    """Gathers and measures the facts of a report.

    Args:
        sources: Its files.
        choose: Gives the measurement context of a model.
        title: Its heading; default: the names of the models.
        remarks: Remarks on each search, or empty.
        progress: Called with how far it is.

    Raises:
        SpatialOnnxError: Anything that a user can fix.
    """
    report_stage(progress, "reading")
    latencies, rivals = read_documents(sources.documents)
    runs = []
    for number, search in enumerate(sources.searches):
        run = gather_run(_letter(number), search)
        if remark := "".join(remarks[number : number + 1]):
            run = replace(run, notes=(remark, *run.notes))
        if search.model is not None:
            measuring = choose(search.model)
            if isinstance(measuring, Measuring):
                run = measure_run(run, measuring, progress)
            else:
                run = replace(run, notes=(*run.notes, measuring))
        runs.append(run)
    return Report(
        title=title or _title(runs),
        runs=tuple(runs),
        rivals=rivals,
        latencies=latencies,
        networks=read_networks(sources.documents),
        machine=_machine(),
        source=source_of(sources),
        made=datetime.date.today().isoformat(),
    )


def _title(runs: Sequence[Run]) -> str:
    names = [
        (run.model or run.study or "").removesuffix(".onnx").removesuffix(".study.db")
        for run in runs
    ]
    stems = dict.fromkeys(name.split(".")[0] for name in names)
    return names[0] if len(names) == 1 else ", ".join(stems)


def _letter(number: int) -> str:
    """A, B, ..., Z, A1, B1, ..."""
    letter = chr(ord("A") + number % 26)
    return letter if number < 26 else f"{letter}{number // 26}"


def _machine() -> dict[str, str]:
    machine = describe_machine()
    memory = machine["memory"]
    known = {
        "processor": f"{machine['processor']}, {machine['processors']} used, {instruction_set()}",
        "memory": "" if memory is None else f"{memory / 2**30:.1f} GiB",
        "system": str(machine["system"]),
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
    }
    return {name: value for name, value in known.items() if value}
