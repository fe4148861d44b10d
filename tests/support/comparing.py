"""Comparisons of the tiny network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from support.trained import RUNTIME, TinyFiles

from spatialonnx.data.opening import open_dataset
from spatialonnx.data.split import split_pool
from spatialonnx.measure.experiment import Experiment
from spatialonnx.model.model_file import load_model
from spatialonnx.plan.bounds import parse_bounds


def make_experiment(files: TinyFiles, eps: str = "0.05", **changes: Any) -> Experiment:
    """What a comparison of the tiny network has in common."""
    dataset = open_dataset(files.spec)
    experiment = Experiment(
        model=load_model(files.spatial),
        dataset=dataset,
        split=split_pool(len(dataset), 0),
        runtime=RUNTIME,
        bounds=parse_bounds(eps),
        batch=32,
    )
    return replace(experiment, **changes)
