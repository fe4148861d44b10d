"""The demonstration: the public stages, on the shipped network and shipped images."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

import spatialonnx
from spatialonnx.data.opening import open_dataset
from spatialonnx.data.preprocessing import Preprocessing
from spatialonnx.data.split import split_pool
from spatialonnx.errors import LibraryError, OutputError, SetupError
from spatialonnx.graph.insert import Insertion, insert
from spatialonnx.measure.experiment import Experiment
from spatialonnx.measure.metrics import TOP1
from spatialonnx.measure.opening import ExperimentOptions, open_experiment
from spatialonnx.model.metadata import get_metadata, read_search_record
from spatialonnx.model.model_file import ModelFile, load_model
from spatialonnx.model.stages import stage_path
from spatialonnx.plan.bounds import parse_bounds
from spatialonnx.plan.patterns import patterns_with_ones
from spatialonnx.reporting.measure import Measuring
from spatialonnx.reporting.plots import require_report_extra
from spatialonnx.reporting.run import make_report
from spatialonnx.reporting.sources import Search, Sources
from spatialonnx.reporting.write import check_output, source_of, write_report
from spatialonnx.runtime.progress import ProgressCallback, report_stage
from spatialonnx.runtime.session import Runtime
from spatialonnx.searching.job import Budget, SearchFiles, SearchJob
from spatialonnx.searching.report import SearchReport
from spatialonnx.searching.run import search_masks
from spatialonnx.searching.settings import Settings
from spatialonnx.searching.study import Study

MODEL = "resnet18-w16-fashion-mnist.onnx"
DATA = "fashion-mnist-sample"
FOLDER = "spatialonnx-demo"
EPS = "0.01"
SEARCH, SELECT, VERIFY = 400, 1600, 3000
MARGIN = 0.95
"""Confidence on select: with so few images, plans that hold there by chance come first."""

QUICK_MODES = ("uniform-filter", "uniform-patch", "max-granularity")
QUICK_SEARCH, QUICK_SELECT, QUICK_VERIFY, QUICK_TRIALS = 200, 400, 1000, 70
QUICK_PROBES = (2, 3)
QUICK_MARGIN = 0.8
"""The other modes are only searched for their masks' pictures: quickly, and cut short."""

COUNTED = 500
"""Verify images that the report counts sites on."""


@dataclass(frozen=True, eq=False)
class Demonstration:
    """What the demo showed.

    Attributes:
        folder: Where its files are.
        insertion: Sites found.
        report: What the search gave.
        page: The report that shows it; None where it was not made.
        why_not: Why there is none.
        seconds: Time of all of it.
    """

    folder: Path
    insertion: Insertion
    report: SearchReport
    page: Path | None
    why_not: str
    seconds: float


def shipped_model() -> Path:
    """The network that comes with the package.

    Raises:
        LibraryError: The installation is incomplete.
    """
    folders = [Path(folder) / "pretrained" for folder in spatialonnx.__path__]
    # An editable install reads it from the checkout.
    folders += [Path(folder).parent / "models" / "pretrained" for folder in spatialonnx.__path__]
    for folder in folders:
        if (folder / MODEL).is_file():
            return folder / MODEL
    raise LibraryError("the shipped network is missing: run pip install . in the checkout again")


def run_demo(
    parent: Path, runtime: Runtime, progress: ProgressCallback | None = None
) -> Demonstration:
    """Runs insert, search, certification and report in ``parent / spatialonnx-demo``.

    Args:
        parent: Where its folder is made.
        runtime: Provider and threads.
        progress: Told how far it got.

    Raises:
        OutputError: The folder cannot be written.
    """
    start = time.monotonic()
    folder = parent / FOLDER
    model, spatial = folder / "model.onnx", folder / "model.spatial.onnx"
    try:
        folder.mkdir(exist_ok=True)
        shutil.copyfile(shipped_model(), model)
    except OSError as error:
        raise OutputError(
            f"cannot write {folder}: {error.strerror}; go to another folder"
        ) from None
    report_stage(progress, "insert")
    source = load_model(model)
    insertion = insert(source, threads=runtime.threads)
    insertion.save(spatial)
    loaded = load_model(spatial)
    preprocessing = Preprocessing.from_json(get_metadata(loaded.proto)["input"])
    dataset = open_dataset(DATA, preprocessing)
    job = SearchJob(
        experiment=Experiment(
            model=loaded,
            dataset=dataset,
            split=split_pool(len(dataset), 0, SEARCH, SELECT, VERIFY),
            runtime=runtime,
            metric=TOP1,
            bounds=parse_bounds(EPS),
        ),
        settings=Settings(),
        files=SearchFiles(folder / "model.study.db", stage_path(spatial, "masked"), force=True),
        select_confidence=MARGIN,
    )
    report = search_masks(job, progress)
    page, why_not = None, ""
    try:
        require_report_extra()
        page = show_modes(job, report, progress)
    except SetupError as error:
        why_not = str(error)
    return Demonstration(folder, insertion, report, page, why_not, time.monotonic() - start)


def show_modes(
    job: SearchJob, report: SearchReport, progress: ProgressCallback | None = None
) -> Path:
    """Searches the other modes quickly and writes a report of all four.

    Args:
        job: The demo's own search.
        report: What it gave.
        progress: Told how far it got.

    Returns:
        The page.

    Raises:
        SetupError: The extra ``report`` is missing.
        OutputError: The page cannot be written.
    """
    searches = [Search(job.files.study, load_model(_written(report)))]
    for mode in QUICK_MODES:
        report_stage(progress, f"{mode}, quickly")
        quick = _quick_job(job, mode)
        found = search_masks(quick, progress)
        searches.append(Search(quick.files.study, load_model(_written(found))))
    sources = Sources(tuple(searches), ())

    def choose(model: ModelFile) -> Measuring:
        record = read_search_record(model.proto)
        runtime = job.experiment.runtime
        running: ExperimentOptions = {"provider": runtime.provider, "threads": runtime.threads}
        experiment = open_experiment(model, DATA, running, record=record)
        return Measuring(experiment, samples=COUNTED, alone=False)

    remark = (
        f"A quick search, for its masks' picture: {QUICK_SEARCH} search images, patterns of "
        f"{QUICK_PROBES[0]} and {QUICK_PROBES[1]} probes, at most {QUICK_TRIALS} trials. "
        "How well the mode does is another question."
    )
    page = job.files.study.parent / "report.html"
    check_output(page, source_of(sources), force=True)
    made = make_report(
        sources,
        choose,
        title=f"Demo: {MODEL.removesuffix('.onnx')}",
        remarks=("", *(remark for _ in QUICK_MODES)),
        progress=progress,
    )
    write_report(made, page)
    return page


def _quick_job(job: SearchJob, mode: str) -> SearchJob:
    """A short search of another mode; what an earlier demo ran of it counts."""
    study = job.files.study.with_name(f"model.{mode}.study.db")
    done = 0
    if study.exists():
        with Study(study, readonly=True) as known:
            done = known.count()
    low, high = QUICK_PROBES
    experiment = job.experiment
    split = split_pool(len(experiment.dataset), 0, QUICK_SEARCH, QUICK_SELECT, QUICK_VERIFY)
    output = study.with_name(f"model.{mode}.masked.onnx")
    return replace(
        job,
        experiment=replace(experiment, split=split),
        settings=Settings(mode=mode, patterns={2: patterns_with_ones(2, low, high)}),
        files=replace(job.files, study=study, output=output),
        select_confidence=QUICK_MARGIN,
        budget=Budget(trials=max(0, QUICK_TRIALS - done)),
    )


def _written(report: SearchReport) -> Path:
    """The model that a search of one bound wrote."""
    path = report.results[0].path
    assert path is not None
    return path
