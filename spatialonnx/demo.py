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
from spatialonnx.graph.insert import Insertion, insert_predictors
from spatialonnx.measure.metrics import TOP1
from spatialonnx.measure.opening import ExperimentOptions, open_experiment
from spatialonnx.model.metadata import get_metadata, read_search_record
from spatialonnx.model.model_file import ModelFile, load_model, save_model
from spatialonnx.model.stages import stage_path
from spatialonnx.plan.bounds import parse_bounds
from spatialonnx.plan.patterns import patterns_with_ones
from spatialonnx.reporting.measure import Measuring
from spatialonnx.reporting.plots import require_report_extra
from spatialonnx.reporting.run import make_report
from spatialonnx.reporting.sources import Search, Sources
from spatialonnx.reporting.write import check_output, source_of, write_report
from spatialonnx.runtime.progress import Progress
from spatialonnx.runtime.session import Runtime
from spatialonnx.searching.job import Job
from spatialonnx.searching.progress import Watch
from spatialonnx.searching.run import search_masks
from spatialonnx.searching.settings import SearchReport, Settings
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


def run_demo(parent: Path, runtime: Runtime, watch: Watch) -> Demonstration:
    """Runs insert, search, certification and report in ``parent / spatialonnx-demo``.

    Args:
        parent: Where its folder is made.
        runtime: Provider and threads.
        watch: Who is told how far it got.

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
    watch.say("insert")
    source = load_model(model)
    insertion = insert_predictors(source, runtime=runtime)
    save_model(insertion.proto, spatial)
    loaded = load_model(spatial)
    preprocessing = Preprocessing.from_json(get_metadata(loaded.proto)["input"])
    dataset = open_dataset(DATA, preprocessing)
    job = Job(
        model=loaded,
        dataset=dataset,
        split=split_pool(len(dataset), 0, SEARCH, SELECT, VERIFY),
        seed=0,
        bounds=parse_bounds(EPS),
        settings=Settings(),
        metric=TOP1,
        runtime=runtime,
        study=folder / "model.study.db",
        output=stage_path(spatial, "masked"),
        select_confidence=MARGIN,
        force=True,
    )
    report = search_masks(job, watch)
    page, why_not = None, ""
    try:
        require_report_extra()
        page = show_modes(job, report, watch)
    except SetupError as error:
        why_not = str(error)
    return Demonstration(folder, insertion, report, page, why_not, time.monotonic() - start)


def show_modes(job: Job, report: SearchReport, watch: Watch) -> Path:
    """Searches the other modes quickly and writes a report of all four.

    Args:
        job: The demo's own search.
        report: What it gave.
        watch: Who is told how far it got.

    Returns:
        The page.

    Raises:
        SetupError: The extra ``report`` is missing.
        OutputError: The page cannot be written.
    """
    searches = [Search(job.study, load_model(_written(report)))]
    for mode in QUICK_MODES:
        watch.say(f"{mode}, quickly")
        quick = _quick_job(job, mode)
        found = search_masks(quick, watch)
        searches.append(Search(quick.study, load_model(_written(found))))
    sources = Sources(tuple(searches), ())

    def follow(progress: Progress) -> None:
        if progress.total is None or watch.samples is None:
            watch.say(progress.stage)
        else:
            watch.samples(progress.done, progress.total)

    def choose(model: ModelFile) -> Measuring:
        record = read_search_record(model.proto)
        running: ExperimentOptions = {
            "provider": job.runtime.provider,
            "threads": job.runtime.threads,
        }
        experiment = open_experiment(model, DATA, running, record=record)
        return Measuring(experiment, samples=COUNTED, alone=False)

    remark = (
        f"A quick search, for its masks' picture: {QUICK_SEARCH} search images, patterns of "
        f"{QUICK_PROBES[0]} and {QUICK_PROBES[1]} probes, at most {QUICK_TRIALS} trials. "
        "How well the mode does is another question."
    )
    page = job.study.parent / "report.html"
    check_output(page, source_of(sources), force=True)
    made = make_report(
        sources,
        choose,
        title=f"Demo: {MODEL.removesuffix('.onnx')}",
        remarks=("", *(remark for _ in QUICK_MODES)),
        progress=follow,
    )
    write_report(made, page)
    return page


def _quick_job(job: Job, mode: str) -> Job:
    """A short search of another mode; what an earlier demo ran of it counts."""
    study = job.study.with_name(f"model.{mode}.study.db")
    done = 0
    if study.exists():
        with Study(study, readonly=True) as known:
            done = known.count()
    low, high = QUICK_PROBES
    return replace(
        job,
        split=split_pool(len(job.dataset), 0, QUICK_SEARCH, QUICK_SELECT, QUICK_VERIFY),
        settings=Settings(mode=mode, strategy="joint", patterns=patterns_with_ones(2, low, high)),
        study=study,
        output=job.output.with_name(f"model.{mode}.masked.onnx"),
        select_confidence=QUICK_MARGIN,
        max_trials=max(0, QUICK_TRIALS - done),
    )


def _written(report: SearchReport) -> Path:
    """The model that a search of one bound wrote."""
    path = report.results[0].path
    assert path is not None
    return path
