"""Readers of data sets, preprocessing, and the search / select / verify split."""

from __future__ import annotations

from spatialonnx.datasets.dataset import Dataset, batches
from spatialonnx.datasets.opening import open_dataset, public_name
from spatialonnx.datasets.preprocessing import Preprocessing
from spatialonnx.datasets.split import Split, split_pool

__all__ = [
    "Dataset",
    "Preprocessing",
    "Split",
    "batches",
    "open_dataset",
    "public_name",
    "split_pool",
]
