"""Searches of the tiny network that reports are made of."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from support.searching import make_job
from support.trained import TinyFiles, draw_images, trained_model

from spatialonnx.graph.insert import insert
from spatialonnx.graph.sites import find_sites
from spatialonnx.model.model_file import load_model, save_model
from spatialonnx.searching.run import search_masks
from spatialonnx.searching.settings import Settings

MODES = ("uniform-layer", "uniform-filter", "uniform-patch", "max-granularity")
HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "{{ 7*7 }} $x^{$ | `b`")


@dataclass(frozen=True)
class Searched:
    """Files of finished searches, not to be written to.

    Attributes:
        folder: Where they are.
        data: The images, as ``--data`` takes them.
        models: Masked models by mode.
        studies: Studies by mode.
    """

    folder: Path
    data: str
    models: dict[str, Path]
    studies: dict[str, Path]


def run_searches(files: TinyFiles, folder: Path, modes=MODES, eps="0.2") -> Searched:
    """One short search a mode."""
    models, studies = {}, {}
    for mode in modes:
        studies[mode] = folder / f"{mode}.study.db"
        job = make_job(
            files,
            folder,
            eps,
            settings=Settings(mode=mode, strategy="joint", patterns={2: (1, 6, 8, 9, 14)}),
            study=studies[mode],
            output=folder / f"tiny.{mode}.masked.onnx",
        )
        models[mode] = search_masks(job).results[0].path
    return Searched(folder, files.spec, models, studies)


@pytest.fixture(scope="session")
def searched(tiny_files, tmp_path_factory) -> Searched:
    """A search of every mode."""
    return run_searches(tiny_files, tmp_path_factory.mktemp("searched"))


def rename(proto: onnx.ModelProto, names: dict[str, str]) -> None:
    """Gives tensors other names."""
    for node in proto.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]


@pytest.fixture(scope="session")
def hostile(tmp_path_factory) -> Searched:
    """A search of a network whose sites, and files, have names that attack the page."""
    folder = tmp_path_factory.mktemp("hostile")
    proto = trained_model()
    sites = [site.name for site in find_sites(proto).sites]
    rename(proto, dict(zip(sites, HOSTILE, strict=True)))
    files = TinyFiles(folder / "m.onnx", folder / "m.spatial.onnx", folder / "data.npz")
    save_model(proto, files.model)
    save_model(insert(load_model(files.model), threads=1).model, files.spatial)
    x, y = draw_images(240)
    np.savez(files.data, x=x, y=y)
    found = run_searches(files, folder, ("uniform-patch",))
    name = "<img src=x onerror=alert(3)>.masked.onnx"
    moved = found.models["uniform-patch"].rename(folder / name)
    return Searched(folder, found.data, {"uniform-patch": moved}, found.studies)
