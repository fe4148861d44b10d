"""The images that a network learns from, and those that choose the epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spatialonnx.data.dataset import Dataset, batches
from spatialonnx.data.input_form import find_input_form
from spatialonnx.errors import DataError
from spatialonnx.tuning.augmentation import Augmentation, Examples, augment, mix

__all__ = ["TrainingImages"]

_MOST_HELD_OUT = 5000


@dataclass(frozen=True, eq=False)
class TrainingImages:
    """A training set in two parts.

    Attributes:
        dataset: Where images are read; it may be larger than memory.
        learn: Positions of the images that are learned.
        held_out: Positions of those that choose the epoch.
    """

    dataset: Dataset
    learn: NDArray[np.int64]
    held_out: NDArray[np.int64]

    @staticmethod
    def split(dataset: Dataset, holdout: float, seed: int) -> TrainingImages:
        """Parts a set by a permutation.

        Args:
            dataset: The set.
            holdout: Fraction to hold out, at most 5,000 images.
            seed: Of the permutation.

        Raises:
            DataError: The set has fewer than four images.
        """
        n = len(dataset)
        if n < 4:
            raise DataError(f"{dataset.name} holds {n} images: tuning needs more with --train")
        order = np.random.default_rng(seed).permutation(n).astype(np.int64)
        held_out = min(max(1, round(n * holdout)), _MOST_HELD_OUT)
        return TrainingImages(dataset, order[held_out:], order[:held_out])

    def shuffled(
        self, batch: int, generator: torch.Generator, augmentation: Augmentation
    ) -> Iterator[tuple[Examples, NDArray[np.int64]]]:
        """Yields the examples of each step and their positions, int64 [n], in an order drawn anew.

        Args:
            batch: Images per step; a last one that is smaller than half of it is left out.
            generator: Draws the order and the changes.
            augmentation: How images are changed.
        """
        order = self.learn[torch.randperm(len(self.learn), generator=generator).numpy()]
        order = order[: self.steps(batch) * batch]
        done = 0
        for images, labels in batches(self.dataset, order, batch):
            positions = order[done : done + len(images)]
            done += len(images)
            tensor = torch.from_numpy(images)
            last = _channels_last(tensor)
            tensor = augment(tensor.movedim(3, 1) if last else tensor, augmentation, generator)
            examples = Examples(
                tensor.movedim(1, 3) if last else tensor,
                None if labels is None else torch.from_numpy(labels),
            )
            if augmentation.mix:
                examples = mix(examples, augmentation.mix, generator)
            yield examples, positions

    def steps(self, batch: int) -> int:
        """Returns the steps of one epoch."""
        n = len(self.learn)
        return max(1, n // batch + (n % batch >= max(2, batch // 2)))

    def held_out_batches(
        self, batch: int = 500
    ) -> Iterator[tuple[Tensor, Tensor | None, NDArray[np.int64]]]:
        """Yields held-out images [N, C, H, W], labels [N] and positions [N]."""
        done = 0
        for images, labels in batches(self.dataset, self.held_out, batch):
            positions = self.held_out[done : done + len(images)]
            done += len(images)
            yield (
                torch.from_numpy(images),
                None if labels is None else torch.from_numpy(labels),
                positions,
            )

    def calibration(self, images: int = 1000, batch: int = 125) -> Iterator[Tensor]:
        """Yields images that are learned, [N, C, H, W], for statistics."""
        for part, _ in batches(self.dataset, self.learn[:images], batch):
            yield torch.from_numpy(part)


def _channels_last(images: Tensor) -> bool:
    """Whether images are [N, H, W, C]."""
    return find_input_form(images.shape[1:], "").channels_last
