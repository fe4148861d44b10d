"""Compares recipes of tuning by short runs on the shipped network; the test split is not read.

    python benchmarks/tuning_recipes.py --images 12800 --epochs 2 --threads 1

Every variant changes one thing of the default recipe, learns the same images in the same order,
and is judged by the 3,000 held-out training images: accuracy, and MACs kept.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import onnx
import torch
from block_gate import decide_in_blocks
from torch import Tensor

import spatialonnx
from spatialonnx.data.opening import open_dataset
from spatialonnx.graph.ops import read_plan
from spatialonnx.tuning.choosing_plan import choose_plan
from spatialonnx.tuning.gate import SiteGate
from spatialonnx.tuning.images import TrainingImages
from spatialonnx.tuning.loop import train_network
from spatialonnx.tuning.network import GraphNetwork
from spatialonnx.tuning.normalization import restore_norms
from spatialonnx.tuning.objective import Teacher, budget_penalty
from spatialonnx.tuning.recipe import Recipe

MODEL = Path("models/pretrained/resnet18-w16-fashion-mnist.onnx")


Penalty = Callable[[GraphNetwork, float, Recipe], Tensor]
"""What is added to the loss of a batch, as ``budget_penalty``."""


class Maps:
    """The map of each site before its ReLU, in the last batch of a network."""

    def __init__(self, network: GraphNetwork) -> None:
        """Watches a network."""
        self.seen: dict[str, Tensor] = {}
        network.site_observer = self._keep

    def _keep(self, site: str, x: Tensor, gate: SiteGate) -> None:
        self.seen[site] = x


@dataclass(frozen=True)
class Setting:
    """What a penalty may read.

    Attributes:
        own: Maps of the network that learns.
        taught: Maps of the original.
        steps: Steps of the whole run.
    """

    own: Maps
    taught: Maps
    steps: int


def squared(setting: Setting) -> Penalty:
    """The square of the excess over the MAC budget instead of the excess; 10 % cost the same."""

    def penalty(network: GraphNetwork, budget: float, recipe: Recipe) -> Tensor:
        over = (network.kept_share() - budget).clamp_min(0)
        return budget_penalty(network, budget, recipe) + recipe.penalty * (10 * over**2 - over)

    return penalty


def hoyer(setting: Setting) -> Penalty:
    """Beside the MAC budget, few living patches: Hoyer's (sum of norms)^2 / (sum of squares).

    Wen et al., "DeepHoyer", ICLR 2020, with the patches of a map as groups; the mean over sites,
    as a share of the largest possible value.
    """

    def penalty(network: GraphNetwork, budget: float, recipe: Recipe) -> Tensor:
        shares = []
        for site, gate in network.named_gates():
            ofmap = setting.own.seen[site].float().relu()
            square = torch.nn.functional.avg_pool2d(ofmap**2, gate.patch_size, ceil_mode=True)
            norm = (square + 1e-12).sqrt()
            share = norm.sum((1, 2, 3)) ** 2 / (square.sum((1, 2, 3)) * norm[0].numel() + 1e-12)
            shares.append(share.mean())
        return budget_penalty(network, budget, recipe) + 0.5 * torch.stack(shares).mean()

    return penalty


def features(setting: Setting) -> Penalty:
    """Beside the answers, where the original's maps are active: attention transfer.

    Zagoruyko and Komodakis, "Paying More Attention to Attention", ICLR 2017: the mean over the
    channels of the squared map, of norm one, at every site.
    """

    def attention(x: Tensor) -> Tensor:
        return torch.nn.functional.normalize((x.float().relu() ** 2).mean(1).flatten(1), dim=1)

    def penalty(network: GraphNetwork, budget: float, recipe: Recipe) -> Tensor:
        apart = [
            (attention(own) - attention(setting.taught.seen[site])).square().sum(1).mean()
            for site, own in setting.own.seen.items()
        ]
        return budget_penalty(network, budget, recipe) + torch.stack(apart).mean()

    return penalty


def narrowing(setting: Setting) -> Penalty:
    """The gates' slope falls from 1 to 0.25, geometrically."""
    done = 0

    def penalty(network: GraphNetwork, budget: float, recipe: Recipe) -> Tensor:
        nonlocal done
        done += 1
        for _, gate in network.named_gates():
            gate.slope = 0.25 ** (done / setting.steps)
        return budget_penalty(network, budget, recipe)

    return penalty


@dataclass(frozen=True)
class Variant:
    """What differs from the default.

    Attributes:
        pattern: In every patch of every site; ``auto`` for what the MAC budget favours, ``search``
            for the plan of the model that --plan names.
        norms: Whether BatchNorm is put back.
        recipe: Fields of the recipe.
        penalty: Makes another penalty than ``budget_penalty``.
        block: Channels that decide together; above 1 the pattern is one probe in the first place.
    """

    pattern: str = "1000"
    norms: bool = True
    recipe: dict[str, Any] = field(default_factory=dict)
    penalty: Callable[[Setting], Penalty] | None = None
    block: int = 1


VARIANTS = {
    "default": Variant(),
    "BatchNorm folded": Variant(norms=False),
    "BatchNorm folded, rate 0.01": Variant(norms=False, recipe={"rate": 0.01}),
    "rate 0.1": Variant(recipe={"rate": 0.1}),
    "rate 0.02": Variant(recipe={"rate": 0.02}),
    "slope 0.125": Variant(recipe={"slope": 0.125}),
    "slope 0.25": Variant(recipe={"slope": 0.25}),
    "slope 1": Variant(recipe={"slope": 1.0}),
    "MAC budget from the first step": Variant(recipe={"ramp": 1e-6}),
    "slope from 1 to 0.25": Variant(penalty=narrowing),
    "excess squared": Variant(penalty=squared),
    "Hoyer on patches": Variant(penalty=hoyer),
    "maps distilled": Variant(penalty=features),
    "teacher alone": Variant(recipe={"teaching": 1.0}),
    "labels alone": Variant(recipe={"teaching": 0.0}),
    "diagonal, p = 2": Variant("1001"),
    "one probe, p = 3": Variant("100000000"),
    "one probe, p = 4": Variant("1000" + 12 * "0"),
    "plan auto": Variant("auto"),
    "plan of a joint search": Variant("search"),
    "plan of a joint search, slope 0.25": Variant("search", recipe={"slope": 0.25}),
    "thresholds learned": Variant(recipe={"learn_thresholds": True}),
    "mirrored": Variant(recipe={"flip": True}),
    "shifted by 2 pixels": Variant(recipe={"crop": 2}),
    "half of the images mixed": Variant(recipe={"mix": 0.5}),
    "one gate per 4 channels": Variant(block=4),
    "one gate per 16 channels": Variant(block=16),
    "one gate per 16 channels, penalty 32": Variant(block=16, recipe={"penalty": 32.0}),
}


def measure(variant: Variant, options: argparse.Namespace) -> tuple[float, float]:
    """Tunes with a variant; returns MACs kept and accuracy on the held-out images."""
    recipe = Recipe(
        saved=options.saved,
        epochs=options.epochs,
        precision=options.precision,
        seed=options.seed,
    )
    recipe = replace(recipe, **variant.recipe)
    dataset = open_dataset("fashion-mnist:train")
    parts = TrainingImages.split(dataset, recipe.holdout, recipe.seed)
    parts = replace(parts, learn=parts.learn[: options.images])
    if variant.pattern == "auto":
        proto = spatialonnx.insert(options.model).model
        plan = choose_plan(proto, parts.calibration(256), options.saved)
    elif variant.pattern == "search":
        proto = onnx.load(str(options.plan))
        plan = read_plan(proto)
    else:
        proto = spatialonnx.insert(options.model, pattern=variant.pattern).model
        plan = read_plan(proto)
    network = GraphNetwork(
        proto, plan, slope=recipe.slope, learn_thresholds=recipe.learn_thresholds
    )
    if variant.block > 1:
        decide_in_blocks(network, parts.calibration(256), variant.block)
    if variant.norms:
        restore_norms(network, parts.calibration())
    teacher = GraphNetwork(proto, plan)
    for part in (network, teacher):
        part.use_channels_last()
    keep = not recipe.augmentation.changes and variant.penalty is not features
    answers = Teacher(teacher, len(dataset), keep=keep)
    steps = recipe.epochs * parts.steps(recipe.batch)
    with _penalised(variant, network, teacher, steps):
        state = train_network(network, answers, parts, recipe, journal=None, key="")
    last = state.epochs[-1]
    return last.kept, last.score


@contextmanager
def _penalised(
    variant: Variant, network: GraphNetwork, teacher: GraphNetwork, steps: int
) -> Iterator[None]:
    """Puts a variant's penalty in the place of the loop's: the product offers one alone."""
    if variant.penalty is None:
        yield
        return
    penalty = variant.penalty(Setting(Maps(network), Maps(teacher), steps))
    with mock.patch("spatialonnx.tuning.loop.budget_penalty", penalty):
        yield


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--saved", type=float, default=0.5)
    parser.add_argument("--images", type=int, default=12800)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="of the held-out images and the order")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="bf16")
    parser.add_argument("--plan", type=Path, help="a masked model, for 'plan of a joint search'")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("| recipe | MACs saved, % | held-out top-1, % |\n|---|---|---|", flush=True)
    for name in options.only:
        if VARIANTS[name].pattern == "search" and options.plan is None:
            continue
        kept, score = measure(VARIANTS[name], options)
        print(f"| {name} | {100 * (1 - kept):.1f} | {100 * score:.2f} |", flush=True)


if __name__ == "__main__":
    main()
