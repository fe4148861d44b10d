"""Compares recipes of tuning by short runs on the shipped network; the test split is not read.

    python benchmarks/tuning_recipes.py --images 12800 --epochs 2 --threads 1

Every variant changes one thing of the default recipe, learns the same images in the same order,
and is judged by the 3,000 held-out training images: accuracy, and MACs kept.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

import spatialonnx
from spatialonnx.data.opening import open_dataset
from spatialonnx.graph.ops import read_plan
from spatialonnx.tuning.choosing_plan import choose_plan
from spatialonnx.tuning.images import TrainingImages
from spatialonnx.tuning.loop import train_network
from spatialonnx.tuning.network import GraphNetwork
from spatialonnx.tuning.normalization import restore_norms
from spatialonnx.tuning.objective import Teacher
from spatialonnx.tuning.recipe import Recipe

MODEL = Path("models/pretrained/resnet18-w16-fashion-mnist.onnx")


@dataclass(frozen=True)
class Variant:
    """What differs from the default.

    Attributes:
        pattern: In every patch of every site; ``auto`` for what the MAC budget favours.
        norms: Whether BatchNorm is put back.
        recipe: Fields of the recipe.
    """

    pattern: str = "1000"
    norms: bool = True
    recipe: dict[str, Any] = field(default_factory=dict)


VARIANTS = {
    "default": Variant(),
    "BatchNorm folded": Variant(norms=False),
    "BatchNorm folded, rate 0.01": Variant(norms=False, recipe={"rate": 0.01}),
    "rate 0.1": Variant(recipe={"rate": 0.1}),
    "rate 0.02": Variant(recipe={"rate": 0.02}),
    "slope 0.25": Variant(recipe={"slope": 0.25}),
    "slope 1": Variant(recipe={"slope": 1.0}),
    "MAC budget from the first step": Variant(recipe={"ramp": 1e-6}),
    "teacher alone": Variant(recipe={"teaching": 1.0}),
    "labels alone": Variant(recipe={"teaching": 0.0}),
    "diagonal, p = 2": Variant("1001"),
    "one probe, p = 3": Variant("100000000"),
    "plan auto": Variant("auto"),
    "thresholds learned": Variant(recipe={"learn_thresholds": True}),
    "mirrored": Variant(recipe={"flip": True}),
    "shifted by 2 pixels": Variant(recipe={"crop": 2}),
    "half of the images mixed": Variant(recipe={"mix": 0.5}),
}


def measure(variant: Variant, saved: float, images: int, epochs: int) -> tuple[float, float]:
    """Tunes with a variant; returns MACs kept and accuracy on the held-out images."""
    recipe = replace(Recipe(saved=saved, epochs=epochs, precision="bf16"), **variant.recipe)
    dataset = open_dataset("fashion-mnist:train")
    parts = TrainingImages.split(dataset, recipe.holdout, recipe.seed)
    parts = replace(parts, learn=parts.learn[:images])
    pattern = None if variant.pattern == "auto" else variant.pattern
    proto = spatialonnx.insert(MODEL, pattern=pattern).model
    plan = (
        choose_plan(proto, parts.calibration(256), saved) if pattern is None else read_plan(proto)
    )
    network = GraphNetwork(
        proto, plan, slope=recipe.slope, learn_thresholds=recipe.learn_thresholds
    )
    if variant.norms:
        restore_norms(network, parts.calibration())
    teacher = GraphNetwork(proto)
    for part in (network, teacher):
        part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # stub lacks it
    answers = Teacher(teacher, len(dataset), keep=not recipe.augmentation.changes)
    state = train_network(network, answers, parts, recipe, journal=None, key="")
    last = state.epochs[-1]
    return last.kept, last.score


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--saved", type=float, default=0.5)
    parser.add_argument("--images", type=int, default=12800)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("| recipe | MACs saved, % | held-out top-1, % |\n|---|---|---|", flush=True)
    for name in options.only:
        kept, score = measure(VARIANTS[name], options.saved, options.images, options.epochs)
        print(f"| {name} | {100 * (1 - kept):.1f} | {100 * score:.2f} |", flush=True)


if __name__ == "__main__":
    main()
