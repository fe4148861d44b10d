"""How a network is tuned: what is minimised, how long, and how fast."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypedDict

from spatialonnx.errors import UsageError
from spatialonnx.tuning.augmentation import Augmentation

__all__ = ["PRECISIONS", "Recipe", "RecipeOptions"]

PRECISIONS = ("auto", "float32", "bf16")
"""bf16: torch's autocast to bfloat16; weights and their updates stay float32. auto takes it where
the processor multiplies it."""


class RecipeOptions(TypedDict, total=False):
    """What a user may change, see ``Recipe``."""

    epochs: int
    batch: int
    rate: float
    labels: bool
    flip: bool
    crop: int
    mix: float
    learn_thresholds: bool


@dataclass(frozen=True)
class Recipe:
    """How to tune.

    Attributes:
        saved: Goal, as a fraction of the MACs of all Convs.
        epochs: Passes over the images.
        batch: Images per step.
        rate: Peak learning rate.
        labels: Whether the labels are learned; else the teacher's answers alone.
        flip: Whether half of the images are mirrored.
        crop: Pixels by which images are shifted at most; 0 = they are not.
        mix: Fraction of the images that are mixed with another one.
        learn_thresholds: Whether each channel of a site learns a threshold.
        seed: Of the held-out part, the order and the augmentation.
        precision: ``float32`` or ``bf16``.
        holdout: Fraction of the images that chooses the epoch.
        teaching: Weight of the teacher's answers beside the labels.
        temperature: Divides both networks' logits before their softmax.
        penalty: Weight of the MACs above the MAC budget.
        ramp: Part of all steps in which the MAC budget falls from today's value to the goal.
        floor: Smallest share of a site's patches that is not pushed down any further.
        slope: Width of the gates' sigmoid.
        warm_up: Part of all steps in which the rate rises.
        momentum: Nesterov momentum.
        decay: L2 penalty on weights of two and more dimensions.
        clip: Largest norm of the gradient.
    """

    saved: float
    epochs: int = 4
    batch: int = 128
    rate: float = 0.05
    labels: bool = True
    flip: bool = False
    crop: int = 0
    mix: float = 0.0
    learn_thresholds: bool = False
    seed: int = 0
    precision: Literal["float32", "bf16"] = "float32"
    holdout: float = 0.05
    teaching: float = 0.9
    temperature: float = 4.0
    penalty: float = 8.0
    ramp: float = 1 / 3
    floor: float = 0.02
    slope: float = 0.5
    warm_up: float = 0.15
    momentum: float = 0.9
    decay: float = 5e-4
    clip: float = 5.0

    def __post_init__(self) -> None:
        """Checks what a user can choose.

        Raises:
            UsageError: A value is out of its range.
        """
        for option, count in (
            ("--epochs", self.epochs),
            ("--batch", self.batch),
            ("--crop", self.crop),
            ("--seed", self.seed),
        ):
            if not isinstance(count, int):
                raise UsageError(f"{option} must be a whole number")
        for fine, option, allowed in (
            (0 < self.saved < 1, "--saved", "between 0 and 1"),
            (self.epochs >= 1, "--epochs", "1 or more"),
            (self.batch >= 2, "--batch", "2 or more"),
            (0 < self.rate < math.inf, "--lr", "a number above 0"),
            (self.crop >= 0, "--crop", "0 or more"),
            (0 <= self.mix <= 1, "--mix", "between 0 and 1"),
            (self.seed >= 0, "--seed", "0 or more"),
        ):
            if not fine:
                raise UsageError(f"{option} must be {allowed}")

    @property
    def augmentation(self) -> Augmentation:
        """How training images are changed."""
        return Augmentation(self.flip, self.crop, self.mix)

    def rate_at(self, progress: float) -> float:
        """Learning rate at a progress in 0..1: a linear warm-up, then a half cosine to zero."""
        if progress < self.warm_up:
            return self.rate * progress / self.warm_up
        passed = (progress - self.warm_up) / (1 - self.warm_up)
        return self.rate * (1 + math.cos(math.pi * passed)) / 2

    def budget_at(self, progress: float, start: float) -> float:
        """Share of all MACs that may be kept at a progress in 0..1.

        Args:
            progress: Part of all steps that is done.
            start: Share that is kept before tuning.
        """
        goal = 1 - self.saved
        if progress >= self.ramp or start <= goal:
            return goal
        return start + (goal - start) * progress / self.ramp

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as a JSON object."""
        return asdict(self)
