"""The training loop: epochs under a MAC budget, the best of them by held-out images."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from spatialonnx.errors import ModelError, UsageError
from spatialonnx.tuning.images import TrainingImages
from spatialonnx.tuning.journal import Epoch, State, read_journal, write_journal
from spatialonnx.tuning.network import GraphNetwork
from spatialonnx.tuning.objective import Teacher, budget_penalty, learning_loss
from spatialonnx.tuning.recipe import Recipe

__all__ = ["Step", "StepCallback", "measure_held_out", "train_network", "within_budget"]

_LOG = logging.getLogger(__name__)
_TOLERANCE = 0.002
"""By how much an epoch may miss the MAC budget on the held-out images and still be chosen."""


@dataclass(frozen=True)
class Step:
    """How far a tuning is.

    Attributes:
        epoch: Epoch under way, counted from 1.
        done: Steps done in all epochs.
        total: Steps of all epochs.
        loss: Mean loss of the epoch so far.
        kept: Mean share of all MACs kept in the epoch so far.
        score: Held-out score of the last epoch that ended; None before the first.
    """

    epoch: int
    done: int
    total: int
    loss: float
    kept: float
    score: float | None


StepCallback = Callable[[Step], None]


def train_network(
    network: GraphNetwork,
    teacher: Teacher,
    images: TrainingImages,
    recipe: Recipe,
    *,
    journal: Path | None,
    key: str,
    resume: bool = False,
    progress: StepCallback | None = None,
) -> State:
    """Trains in place and leaves the weights of the best epoch in the network.

    Of the epochs that meet the MAC budget on the held-out images, the most accurate one is best.
    An epoch draws from generators seeded by its number, so a resumed run takes the steps of an
    unbroken one.

    Args:
        network: On the device that it runs on, with gates.
        teacher: Answers for the dense network.
        images: What to learn from.
        recipe: How.
        journal: Written after every epoch; None = none is.
        key: Of model, plan, recipe and data, for the journal.
        resume: Whether to continue from the journal.
        progress: Told after every step.

    Raises:
        UsageError: The journal is missing or of another tuning.
        ModelError: The loss was not a number before the first epoch ended.
    """
    optimizer = _make_optimizer(network, recipe)
    if resume:
        if journal is None:
            raise UsageError("resume continues from a journal: name its file with journal=")
        state = read_journal(journal, key, network, optimizer)
    else:
        state = State(start=measure_held_out(network, teacher, images, recipe)[0])
    while len(state.epochs) < recipe.epochs:
        began = time.perf_counter()
        loss = _train_epoch(network, optimizer, teacher, images, recipe, state, progress)
        if not (math.isfinite(loss) and _is_finite(network)):
            if not state.weights:
                other = ", or --precision float32" if recipe.precision == "bf16" else ""
                raise ModelError(f"the loss is not a number: try a smaller --lr{other}")
            break
        kept, score = measure_held_out(network, teacher, images, recipe)
        number = len(state.epochs) + 1
        state.epochs.append(Epoch(number, loss, kept, score, time.perf_counter() - began))
        best = min(state.epochs, key=lambda epoch: _rank(epoch, recipe))
        if best.number == number:
            state.best = number
            state.weights = {n: v.detach().clone() for n, v in network.state_dict().items()}
        if journal is not None:
            write_journal(journal, key, state, network, optimizer)
        _LOG.info(
            "epoch %d/%d: loss %.4f, kept %.1f %%, held-out %.2f %%, %.0f s",
            *(number, recipe.epochs, loss, 100 * kept, 100 * score, state.epochs[-1].seconds),
        )
    network.load_state_dict(state.weights)
    return state


def measure_held_out(
    network: GraphNetwork, teacher: Teacher, images: TrainingImages, recipe: Recipe
) -> tuple[float, float]:
    """Returns the share of MACs kept and the score on the held-out images.

    The score is the accuracy, or without labels the agreement with the teacher.
    """
    network.eval()
    device = _device(network)
    kept, right = 0.0, 0
    with torch.no_grad():
        for batch, labels, positions in images.held_out_batches():
            batch = batch.to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
                answers = network.logits(batch).argmax(1).cpu()
                if not recipe.labels:
                    labels = teacher.answer(batch, positions).argmax(1).cpu()
            assert labels is not None
            right += int((answers == labels).sum())
            kept += float(network.kept_share()) * len(batch)
    n = len(images.held_out)
    return kept / n, right / n


def _is_finite(network: GraphNetwork) -> bool:
    """Whether the last step left numbers: its loss was taken before it."""
    return all(bool(value.isfinite().all()) for value in network.state_dict().values())


def within_budget(epoch: Epoch, recipe: Recipe) -> bool:
    """Whether an epoch met the MAC budget on the held-out images, within a small tolerance."""
    return _excess(epoch, recipe) <= 0


def _excess(epoch: Epoch, recipe: Recipe) -> float:
    return epoch.kept - (1 - recipe.saved) - _TOLERANCE


def _rank(epoch: Epoch, recipe: Recipe) -> tuple[float, float, int]:
    """Smaller is better: the excess over the MAC budget, then the score, then the later one."""
    return (max(0.0, _excess(epoch, recipe)), -epoch.score, -epoch.number)


def _make_optimizer(network: GraphNetwork, recipe: Recipe) -> torch.optim.Optimizer:
    learning = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learning if p.dim() > 1], "weight_decay": recipe.decay},
        {"params": [p for p in learning if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=recipe.rate, momentum=recipe.momentum, nesterov=True)


def _train_epoch(
    network: GraphNetwork,
    optimizer: torch.optim.Optimizer,
    teacher: Teacher,
    images: TrainingImages,
    recipe: Recipe,
    state: State,
    progress: StepCallback | None,
) -> float:
    """Takes one pass; returns the mean loss, not a number as soon as one is not."""
    epoch, steps = len(state.epochs), images.steps(recipe.batch)
    draws = torch.Generator().manual_seed((recipe.seed * 100_003 + epoch) % 2**63)
    device = _device(network)
    score = state.epochs[-1].score if state.epochs else None
    network.train()
    sums = [0.0, 0.0]
    for step, (examples, positions) in enumerate(
        images.shuffled(recipe.batch, draws, recipe.augmentation)
    ):
        done = epoch * steps + step
        passed = done / (recipe.epochs * steps)
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate_at(passed)
        examples = examples.to(device)
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
            answers = teacher.answer(examples.images, positions)
            logits = network.logits(examples.images)
        loss = learning_loss(logits, answers, examples, recipe)
        budget = recipe.budget_at(passed, state.start)
        loss = loss + budget_penalty(network, budget, recipe).to(device)
        value = float(loss.detach())
        if not math.isfinite(value):
            return math.nan
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.clip)
        optimizer.step()
        sums[0] += value
        sums[1] += float(network.kept_share().detach())
        if progress is not None:
            mean_loss, mean_kept = (total / (step + 1) for total in sums)
            total_steps = recipe.epochs * steps
            progress(Step(epoch + 1, done + 1, total_steps, mean_loss, mean_kept, score))
    return sums[0] / steps


def _device(network: GraphNetwork) -> torch.device:
    return next(network.parameters()).device
