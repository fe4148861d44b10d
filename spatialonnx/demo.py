"""The demonstration: the public stages, on the shipped network and shipped images."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import spatialonnx
from spatialonnx.datasets.opening import open_dataset
from spatialonnx.datasets.preprocessing import Preprocessing
from spatialonnx.datasets.split import split_pool
from spatialonnx.errors import LibraryError, OutputError
from spatialonnx.insert import Insertion, insert_predictors
from spatialonnx.metrics import TOP1
from spatialonnx.modelfile import get_metadata, load_model, save_model, stage_path
from spatialonnx.search.bounds import parse_bounds
from spatialonnx.search.run import Job, Watch, search_masks
from spatialonnx.search.settings import SearchReport, Settings
from spatialonnx.session import Runtime

MODEL = "resnet18-w16-fashion-mnist.onnx"
DATA = "fashion-mnist-sample"
FOLDER = "spatialonnx-demo"
EPS = "0.01"
SEARCH, SELECT, VERIFY = 400, 1600, 3000
MARGIN = 0.95
"""Confidence on select: with so few images, plans that hold there by chance come first."""


@dataclass(frozen=True, eq=False)
class Demonstration:
    """What the demo showed.

    Attributes:
        folder: Where its files are.
        insertion: Sites found.
        report: What the search gave.
        seconds: Time of all of it.
    """

    folder: Path
    insertion: Insertion
    report: SearchReport
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
    """Runs insert, search and certification in ``parent / spatialonnx-demo``.

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
    return Demonstration(folder, insertion, report, time.monotonic() - start)
