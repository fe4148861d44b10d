"""Batches of images for training: order and accuracy."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spatialonnx.data.dataset import Dataset, batches
from spatialonnx.errors import DataError

__all__ = ["count_correct", "stream", "training_split"]


def training_split(
    n: int, holdout: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Splits the training split into images to learn from and images that choose the epoch.

    Args:
        n: Images in the split.
        holdout: Fraction to hold out, 0 < holdout < 1; at least one image is.
        seed: Seed of the permutation.

    Returns:
        Indices to learn from, and held-out indices.
    """
    order = np.random.default_rng(seed).permutation(n).astype(np.int64)
    held_out = min(max(1, round(n * holdout)), n - 1)
    return order[held_out:], order[:held_out]


def stream(
    dataset: Dataset, indices: NDArray[np.int64], batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields images [N, C, H, W] and their labels [N].

    Raises:
        DataError: If the set has no labels.
    """
    for images, labels in batches(dataset, indices, batch_size):
        if labels is None:
            raise DataError(f"{dataset.name} has no labels: training and accuracy need them")
        yield torch.from_numpy(images), torch.from_numpy(labels)


def count_correct(
    model: nn.Module, dataset: Dataset, indices: NDArray[np.int64], batch_size: int = 500
) -> int:
    """Counts images whose largest logit is that of their label; leaves the model in eval mode."""
    model.eval()
    correct = 0
    with torch.inference_mode():
        for images, labels in stream(dataset, indices, batch_size):
            correct += int((model(images).argmax(1) == labels).sum())
    return correct
