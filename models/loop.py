"""The training loop: epochs, choice of the best by held-out images, a journal to resume from."""

import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.checkpoint import Checkpoint, load_weights, read_checkpoint, write_checkpoint
from models.images import count_correct, stream, training_split
from models.networks import choose_memory_format
from models.schedule import SCHEDULES
from spatialonnx.data.dataset import Dataset
from spatialonnx.errors import UsageError
from spatialonnx.tuning.augmentation import Augmentation, augment

__all__ = ["PRECISIONS", "Objective", "Recipe", "say", "train_network"]

Objective = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""Loss of a network on images [N, C, H, W] with labels [N]."""

PRECISIONS = ("float32", "bf16")
"""bf16: torch's autocast to bfloat16; weights, their updates and every accuracy stay float32."""


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        epochs: Passes over the images to learn from.
        batch_size: Images per step.
        peak_rate: Largest learning rate of the schedule.
        schedule: A key of `SCHEDULES`.
        momentum: Nesterov momentum.
        weight_decay: L2 penalty on all parameters.
        label_smoothing: Share of the target that is spread over all classes.
        augmentation: Random changes of training images.
        seed: Seed of the initial weights, the held-out part, the order and the augmentation.
        holdout: Fraction of the training split that chooses the epoch.
        precision: A key of `PRECISIONS`: the number format of the forward and backward passes.
    """

    epochs: int
    batch_size: int = 128
    peak_rate: float = 0.1
    schedule: str = "onecycle"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0
    holdout: float = 0.05
    precision: str = "float32"


@dataclass
class _Progress:
    """State between epochs: everything that a resumed run needs."""

    epoch: int
    best_epoch: int
    best_correct: int
    best: dict[str, Tensor]


def train_network(
    model: nn.Module,
    dataset: Dataset,
    recipe: Recipe,
    *,
    journal: Path,
    resume: Path | None = None,
    objective: Objective | None = None,
) -> None:
    """Trains in place and leaves the weights of the best epoch in the model.

    An epoch draws from generators seeded by its number, so a resumed run takes the same steps as
    an uninterrupted one.

    Args:
        model: The network.
        dataset: A training split.
        recipe: How to train.
        journal: Checkpoint written after every epoch, removed after the last one.
        resume: A journal to continue from.
        objective: The loss; None takes the cross-entropy.

    Raises:
        DataError: If the set has no labels, or `resume` is not a journal of this network.
        UsageError: If `resume` was written with another recipe.
    """
    learn, held_out = training_split(len(dataset), recipe.holdout, recipe.seed)
    choose_memory_format(model)
    if objective is None:
        criterion = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
        objective = _cross_entropy(criterion)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=recipe.peak_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=True,
    )
    progress = _Progress(0, 0, -1, {})
    if resume is not None:
        progress = _read_journal(resume, model, optimizer, recipe)
    while progress.epoch < recipe.epochs:
        started = time.perf_counter()
        loss = _train_epoch(model, optimizer, dataset, learn, recipe, progress.epoch, objective)
        correct = count_correct(model, dataset, held_out)
        progress.epoch += 1
        if correct > progress.best_correct:
            progress.best_epoch, progress.best_correct = progress.epoch, correct
            progress.best = {n: v.clone() for n, v in model.state_dict().items()}
        _write_journal(journal, model, optimizer, recipe, progress)
        say(
            f"epoch {progress.epoch}/{recipe.epochs}: loss {loss:.4f}, held-out top-1 "
            f"{correct / len(held_out):.4f}, {time.perf_counter() - started:.0f} s"
        )
    say(f"best epoch: {progress.best_epoch}")
    model.load_state_dict(progress.best)
    journal.unlink(missing_ok=True)


def _cross_entropy(criterion: nn.Module) -> Objective:
    def loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        value: Tensor = criterion(model(images).float(), labels)
        return value

    return loss


def _train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    dataset: Dataset,
    learn: NDArray[np.int64],
    recipe: Recipe,
    epoch: int,
    objective: Objective,
) -> float:
    """Trains for one epoch; returns the mean loss."""
    draws = torch.Generator().manual_seed(recipe.seed * 100_003 + epoch)
    torch.manual_seed(recipe.seed * 100_003 + epoch)  # dropout draws from the global generator
    order = learn[torch.randperm(len(learn), generator=draws).numpy()]
    steps = math.ceil(len(order) / recipe.batch_size)
    factor = SCHEDULES[recipe.schedule]
    model.train()
    total = 0.0
    for step, (images, labels) in enumerate(stream(dataset, order, recipe.batch_size)):
        if (
            len(images) == 1
        ):  # BatchNorm cannot compute a variance over one image with maps of 1 x 1
            continue
        passed = (epoch * steps + step) / max(1, recipe.epochs * steps - 1)
        for group in optimizer.param_groups:
            group["lr"] = recipe.peak_rate * factor(passed)
        optimizer.zero_grad()
        images = augment(images, recipe.augmentation, draws)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
            loss = objective(model, images, labels)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
        total += float(loss.detach()) * len(images)
    return total / len(order)


def _write_journal(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    progress: _Progress,
) -> None:
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in progress.best.items()}
    for name, parameter in model.named_parameters():
        momentum = optimizer.state[parameter].get("momentum_buffer")
        if momentum is not None:
            tensors[f"momentum.{name}"] = momentum
    note = {
        "recipe": asdict(recipe),
        "epoch": progress.epoch,
        "best_epoch": progress.best_epoch,
        "best_correct": progress.best_correct,
    }
    write_checkpoint(path, Checkpoint(tensors, note))


def _read_journal(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, recipe: Recipe
) -> _Progress:
    checkpoint = read_checkpoint(path)
    note = checkpoint.note
    if "epoch" not in note:
        raise UsageError(
            f"{path} is not a journal of a training run: use --weights to start from it"
        )
    if note["recipe"] != asdict(recipe):
        raise UsageError(f"{path} was written with other options: repeat the line of that run")
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "momentum": {}}
    for name, value in checkpoint.tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = value
    load_weights(model, parts["model"], new_head=False)
    for name, parameter in model.named_parameters():
        if name in parts["momentum"]:
            buffer = torch.empty_like(parameter).copy_(parts["momentum"][name])
            optimizer.state[parameter]["momentum_buffer"] = buffer
    return _Progress(note["epoch"], note["best_epoch"], note["best_correct"], parts["best"])


def say(line: str) -> None:
    """Prints a line of progress to standard error."""
    print(line, file=sys.stderr, flush=True)
