"""What a tuning is asked to do, and what it gave."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnx
import torch

from spatialonnx.data.dataset import Dataset
from spatialonnx.errors import DataError, ModelError, ProviderError, UsageError
from spatialonnx.files import sha256_bytes
from spatialonnx.measure.experiment import Experiment
from spatialonnx.measure.measured import Measured
from spatialonnx.model.model_file import ModelFile
from spatialonnx.model.stages import save_judged
from spatialonnx.plan.masks import SiteMask
from spatialonnx.plan.plan import Plan
from spatialonnx.searching.settings import GOALS
from spatialonnx.tuning.journal import Epoch
from spatialonnx.tuning.recipe import PRECISIONS, Recipe

__all__ = ["TuneJob", "Tuned", "choose_device", "choose_precision"]


@dataclass(frozen=True, eq=False)
class TuneJob:
    """Everything a tuning works on.

    Attributes:
        experiment: The model of any stage before deploy, the data that certify, one bound.
        train: What is learned; never the images that certify.
        recipe: How.
        plan: A mask for every site, ``auto`` for what the MAC budget favours, a model whose plan is
            taken over, or None for the plan that the model carries.
        device: ``cpu`` or ``cuda``.
        journal: Written after every epoch; None = no journal.
        resume: Whether to continue from the journal of a run that was broken off.
        goal: ``macs``, or ``latency``: the MAC budget then weighs every site by what its outputs
            take on this machine in float32.
        latency_table: The latency table that is read and completed then.
    """

    experiment: Experiment
    train: Dataset
    recipe: Recipe
    plan: SiteMask | Literal["auto"] | ModelFile | None = None
    device: str = "cpu"
    journal: Path | None = None
    resume: bool = False
    goal: str = "macs"
    latency_table: Path | None = None

    def __post_init__(self) -> None:
        """Refuses what makes no sense.

        Raises:
            UsageError: The goal is not known.
            DataError: Labels are asked for and missing.
            ModelError: The model is a deployed one.
        """
        if self.goal not in GOALS:
            raise UsageError(f"--goal {self.goal}: use {' or '.join(GOALS)}")
        model = self.experiment.model
        if model.stage == "deploy":
            raise ModelError(f"{model.path.name} is a deployed model: tune what it was made from")
        if self.recipe.labels and self.train.labels is None:
            raise DataError(
                f"{self.train.name} has no labels: add --no-labels to learn from the network's "
                "own answers"
            )

    def key(self, plan: Plan) -> str:
        """What a journal must agree with: model, original, plan, recipe and data."""
        experiment = self.experiment
        parts = [
            experiment.model.sha256,
            (experiment.baseline or experiment.model).sha256,
            f"{experiment.scored_output} {experiment.metric.decision}",
            plan.key,
            json.dumps(self.recipe.to_json(), sort_keys=True),
            self.train.fingerprint(),
            self.goal,
        ]
        return sha256_bytes(*(part.encode() for part in parts))


@dataclass(frozen=True, eq=False)
class Tuned:
    """What a tuning gave.

    Attributes:
        job: What was asked.
        epochs: What each epoch reached.
        best: Number of the epoch that was kept.
        start: Share of all MACs kept before tuning.
        verify: How the tuned model did on verify, beside the original.
        bound_met: Whether the bound holds there.
        budget_met: Whether the kept epoch met the MAC budget on the held-out images.
        notes: For the user, one line each.
        model: The tuned model with its plan.
    """

    job: TuneJob
    epochs: tuple[Epoch, ...]
    best: int
    start: float
    verify: Measured
    bound_met: bool
    budget_met: bool
    notes: tuple[str, ...]
    model: onnx.ModelProto

    def save(self, path: str | Path) -> Path:
        """Writes the model, whatever was there, and removes the journal.

        Args:
            path: Where it goes. A model that misses its bound goes to ``*.missed.onnx``.

        Returns:
            The file that was written.

        Raises:
            OutputError: It cannot be written.
        """
        path = save_judged(self.model, path, met=self.bound_met)
        if self.job.journal is not None:
            self.job.journal.unlink(missing_ok=True)
        return path

    def to_json(self) -> dict[str, Any]:
        """The object that ``tune --json`` prints, which adds ``output``: the file."""
        recipe = self.job.recipe
        return {
            "baseline": self.verify.baseline_json(self.job.experiment.metric.name),
            "model": str(self.job.experiment.model.path),
            "eps": float(self.job.experiment.bounds[0].eps(self.verify.baseline)),
            "recipe": recipe.to_json(),
            "start": {"saved_fraction": 1 - self.start},
            "epochs": [
                {
                    "loss": epoch.loss,
                    "saved_fraction": 1 - epoch.kept,
                    "held_out": epoch.score,
                    "seconds": epoch.seconds,
                }
                for epoch in self.epochs
            ],
            "best_epoch": self.best,
            "verify": self.verify.to_json(),
            "bound_met": self.bound_met,
            "budget_met": self.budget_met,
            "complete": len(self.epochs) == recipe.epochs,
            "notes": list(self.notes),
        }


def choose_device(wanted: str) -> str:
    """Turns ``auto``, ``cpu`` or ``cuda`` into a device that torch can use.

    Raises:
        UsageError: The name is none of the three.
        ProviderError: ``cuda`` was asked for and torch has none.
    """
    if wanted not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device {wanted}: use auto, cpu or cuda")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ProviderError("torch sees no CUDA device: leave --device out")
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


def choose_precision(wanted: str, device: str) -> Literal["float32", "bf16"]:
    """Turns ``auto`` into bf16 where the device multiplies it and float32 elsewhere.

    Raises:
        UsageError: The name is none of `PRECISIONS`.
    """
    if wanted not in PRECISIONS:
        raise UsageError(f"--precision {wanted}: use {', '.join(PRECISIONS)}")
    if wanted == "auto":
        fast = torch.cuda.is_bf16_supported() if device == "cuda" else _cpu_multiplies_bf16()
        return "bf16" if fast else "float32"
    return "bf16" if wanted == "bf16" else "float32"


def _cpu_multiplies_bf16() -> bool:
    """Whether the processor has bfloat16 instructions; torch has no public name for it."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, bool)()) for name in names)
