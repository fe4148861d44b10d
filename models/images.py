"""Batches of images for training: order, augmentation, accuracy."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from spatialonnx.data.dataset import Dataset, batches
from spatialonnx.errors import DataError

__all__ = ["Augmentation", "augment", "count_correct", "stream", "training_split"]


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training images.

    Attributes:
        flip: Mirror every second image, left to right.
        crop: Pixels by which an image is padded on each side before a random crop of the
            original size; 0 = no crop.
    """

    flip: bool = True
    crop: int = 0


def augment(images: Tensor, how: Augmentation, generator: torch.Generator) -> Tensor:
    """Returns [N, C, H, W] with each image shifted and mirrored by its own draw."""
    n, _, height, width = images.shape
    if how.crop:
        # The border's own pixels: zeros would be a grey frame after normalisation.
        padded = functional.pad(images, (how.crop,) * 4, mode="replicate")
        shift = torch.randint(0, 2 * how.crop + 1, (2, n, 1), generator=generator)
        rows = (shift[0] + torch.arange(height))[:, :, None]
        columns = (shift[1] + torch.arange(width))[:, None, :]
        each = torch.arange(n)[:, None, None]
        images = padded[each, :, rows, columns].permute(0, 3, 1, 2)
    if how.flip:
        mirrored = torch.rand((n, 1, 1, 1), generator=generator) < 0.5
        images = torch.where(mirrored, images.flip(3), images)
    return images


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
