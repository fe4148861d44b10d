"""The demonstrations: the public stages, on shipped networks and shipped images."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import spatialonnx
from spatialonnx.errors import LibraryError, OutputError, SetupError
from spatialonnx.graph.insert import Insertion, insert
from spatialonnx.measure.opening import ExperimentOptions, open_experiment
from spatialonnx.model.metadata import read_search_record
from spatialonnx.model.model_file import ModelFile, load_model
from spatialonnx.optimizing.api import optimize
from spatialonnx.optimizing.outcome import Optimization
from spatialonnx.reporting.measure import Measuring
from spatialonnx.reporting.plots import require_report_extra
from spatialonnx.reporting.run import make_report
from spatialonnx.reporting.sources import Search, Sources
from spatialonnx.runtime.progress import ProgressCallback, report_stage
from spatialonnx.runtime.session import Runtime
from spatialonnx.searching.api import SearchOptions, search
from spatialonnx.searching.report import SearchReport
from spatialonnx.searching.study import Study

DATA = "fashion-mnist-sample"
FOLDER = "spatialonnx-demo"

MODEL = "vgg6-fashion-mnist.onnx"
TUNED = "vgg6-fashion-mnist.tuned.masked.onnx"
EPS = "0.01"
SEARCH, SELECT, VERIFY = 400, 600, 4000
RUNS = 30
"""Rounds in which the networks are timed."""

MODES_MODEL = "resnet18-w16-fashion-mnist.onnx"
MODES_EPS = "0.01"
MODES_SEARCH, MODES_SELECT, MODES_VERIFY = 400, 1600, 3000
MARGIN = 0.95
"""Confidence on select: with so few images, many plans hold there by chance."""

QUICK_MODES = ("uniform-filter", "uniform-patch", "max-granularity")
QUICK_SEARCH, QUICK_SELECT, QUICK_VERIFY, QUICK_TRIALS = 200, 400, 1000, 70
QUICK_PROBES = (2, 3)
QUICK_MARGIN = 0.8
"""Options of the other modes: a short search, only for pictures of their masks."""

COUNTED = 500
"""Verify images that the report counts sites on."""


@dataclass(frozen=True, eq=False)
class ModesDemonstration:
    """The result of the demo of the four modes.

    Attributes:
        folder: The folder of its files.
        insertion: Sites found.
        report: The result of the search.
        model: The masked model.
        page: The report that shows it; None where it was not made.
        why_not: Why there is no report.
        seconds: Total time.
    """

    folder: Path
    insertion: Insertion
    report: SearchReport
    model: Path
    page: Path | None
    why_not: str
    seconds: float


def shipped_model(name: str = MODES_MODEL) -> Path:
    """A network that comes with the package.

    Args:
        name: Its file; the ResNet-18 unless given.

    Raises:
        LibraryError: The installation is incomplete.
    """
    folders = [Path(folder) / "pretrained" for folder in spatialonnx.__path__]
    # An editable install reads it from the checkout.
    folders += [Path(folder).parent / "models" / "pretrained" for folder in spatialonnx.__path__]
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise LibraryError("a shipped network is missing: run pip install . in the checkout again")


def run_demo(
    parent: Path, runtime: Runtime, progress: ProgressCallback | None = None
) -> Optimization:
    """Makes the shipped VGG-6 fast in ``parent / spatialonnx-demo``, from its tuned form on.

    Args:
        parent: Where its folder is made.
        runtime: Provider and threads.
        progress: Called with how far it is.

    Raises:
        OutputError: The folder cannot be written.
    """
    folder = _make_folder(parent / FOLDER)
    return optimize(
        _copy(MODEL, folder / "vgg6.onnx"),
        DATA,
        eps=EPS,
        tuned=shipped_model(TUNED),
        progress=progress,
        provider=runtime.provider,
        threads=runtime.threads,
        search_samples=SEARCH,
        select_samples=SELECT,
        verify_samples=VERIFY,
        runs=RUNS,
    )


def run_modes_demo(
    parent: Path, runtime: Runtime, progress: ProgressCallback | None = None
) -> ModesDemonstration:
    """Searches masks of all four modes for the shipped ResNet-18 in ``parent / spatialonnx-demo``.

    Args:
        parent: Where its folder is made.
        runtime: Provider and threads.
        progress: Called with how far it is.

    Raises:
        OutputError: The folder cannot be written.
    """
    start = time.monotonic()
    folder = _make_folder(_make_folder(parent / FOLDER) / "modes")
    _copy(MODES_MODEL, folder / "model.onnx")
    report_stage(progress, "insert")
    insertion = insert(folder / "model.onnx", threads=runtime.threads)
    insertion.save(folder / "model.spatial.onnx")
    options: SearchOptions = {
        "provider": runtime.provider,
        "threads": runtime.threads,
        "search_samples": MODES_SEARCH,
        "select_samples": MODES_SELECT,
        "verify_samples": MODES_VERIFY,
        "select_confidence": MARGIN,
    }
    report, model = _search(folder, "model", options, progress)
    page, why_not = None, ""
    try:
        require_report_extra()
        page = _show_modes(folder, model, options, progress)
    except SetupError as error:
        why_not = str(error)
    seconds = time.monotonic() - start
    return ModesDemonstration(folder, insertion, report, model.path, page, why_not, seconds)


def _make_folder(folder: Path) -> Path:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from None
    return folder


def _copy(name: str, path: Path) -> Path:
    """A copy of a shipped network; one that is there already stays."""
    source = shipped_model(name)
    try:
        if not path.is_file() or path.read_bytes() != source.read_bytes():
            shutil.copyfile(source, path)
    except OSError as error:
        raise _unwritable(path.parent, error) from None
    return path


def _unwritable(folder: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot write {folder}: {error.strerror}; go to another folder")


def _search(
    folder: Path, stem: str, options: SearchOptions, progress: ProgressCallback | None
) -> tuple[SearchReport, ModelFile]:
    """Searches the folder's model and writes the result as ``stem.masked.onnx``."""
    spatial, study = folder / "model.spatial.onnx", folder / f"{stem}.study.db"
    report = search(spatial, DATA, eps=MODES_EPS, study=study, progress=progress, **options)
    return report, load_model(report.save(folder / f"{stem}.masked.onnx"))


def _show_modes(
    folder: Path, model: ModelFile, options: SearchOptions, progress: ProgressCallback | None
) -> Path:
    """Searches the other modes quickly and writes a report of all four."""
    searches = [Search(folder / "model.study.db", model)]
    for mode in QUICK_MODES:
        report_stage(progress, f"{mode}, quickly")
        study = folder / f"model.{mode}.study.db"
        quick: SearchOptions = {
            **options,
            "mode": mode,
            "ones_range": QUICK_PROBES,
            "search_samples": QUICK_SEARCH,
            "select_samples": QUICK_SELECT,
            "verify_samples": QUICK_VERIFY,
            "select_confidence": QUICK_MARGIN,
            # Trials of an earlier demo count.
            "max_trials": max(0, QUICK_TRIALS - _count_trials(study)),
        }
        _, found = _search(folder, f"model.{mode}", quick, progress)
        searches.append(Search(study, found))
    sources = Sources(tuple(searches), ())
    running: ExperimentOptions = {
        "provider": options["provider"],
        "threads": options["threads"],
    }

    def choose(model: ModelFile) -> Measuring:
        record = read_search_record(model.proto)
        experiment = open_experiment(model, DATA, running, record=record)
        return Measuring(experiment, samples=COUNTED, alone=False)

    remark = (
        f"A quick search, for its masks' picture: {QUICK_SEARCH} search images, patterns of "
        f"{QUICK_PROBES[0]} and {QUICK_PROBES[1]} probes, at most {QUICK_TRIALS} trials. "
        "How well the mode does is another question."
    )
    report = make_report(
        sources,
        choose,
        title=f"Demo: {MODES_MODEL.removesuffix('.onnx')}",
        remarks=("", *(remark for _ in QUICK_MODES)),
        progress=progress,
    )
    page, _ = report.save(folder / "report.html")
    return page


def _count_trials(path: Path) -> int:
    """Trials of a study; 0 where there is none yet."""
    if not path.exists():
        return 0
    with Study(path, readonly=True) as study:
        return study.count()
