"""Comparisons of the tiny network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from support.trained import RUNTIME, TinyFiles

from spatialonnx.baseline.comparison import Setup
from spatialonnx.data.opening import open_dataset
from spatialonnx.data.split import split_pool
from spatialonnx.measure.metrics import TOP1
from spatialonnx.model.model_file import load_model
from spatialonnx.plan.bounds import parse_bounds


def make_setup(files: TinyFiles, eps: str = "0.05", **changes: Any) -> Setup:
    """What a comparison of the tiny network has in common."""
    dataset = open_dataset(files.spec)
    setup = Setup(
        model=load_model(files.spatial),
        dataset=dataset,
        split=split_pool(len(dataset), 0),
        seed=0,
        bound=parse_bounds(eps)[0],
        metric=TOP1,
        runtime=RUNTIME,
        batch=32,
    )
    return replace(setup, **changes)
