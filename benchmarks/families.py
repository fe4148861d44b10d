"""What other families of masks save at an equal expected drop: thresholds, weights, refitting.

    python benchmarks/families.py models/pretrained/resnet18-w16-fashion-mnist.onnx

Layers are profiled as in the joint search. The best plan within each of three divergences is
proposed, measured, and proposed again. There is no margin and no choice on select, which would add
their noise: the last plans are measured on verify, and the saving is interpolated at three expected
drops.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from spatialonnx.graph.insert import insert
from spatialonnx.measure.certify import Certifier
from spatialonnx.plan.plan import Plan
from spatialonnx.searching.api import open_search
from spatialonnx.searching.benefit import count_macs
from spatialonnx.searching.job import SearchFiles, SearchJob
from spatialonnx.searching.modes import MODES
from spatialonnx.searching.rate_distortion import code_tables
from spatialonnx.searching.rate_distortion.code_tables import Choices, CodeTables
from spatialonnx.searching.rate_distortion.distortion import DistortionModel, Layer, best_plan
from spatialonnx.searching.rate_distortion.families import find_operating_points
from spatialonnx.searching.rate_distortion.operating_points import OperatingPoint
from spatialonnx.searching.rate_distortion.profile import masks_of, profile_layers
from spatialonnx.searching.run import make_simulator
from spatialonnx.searching.study import Study
from spatialonnx.searching.targets import Layout, Piece
from spatialonnx.searching.task import find_layouts
from spatialonnx.searching.trials import Candidate, Trial, Trials
from spatialonnx.simulate.code_histogram import patch_squares
from spatialonnx.simulate.segmented import SegmentSimulator

DIVERGENCES = (0.006, 0.014, 0.03)
DROPS = (0.0035, 0.007, 0.012)
ROUNDS = 3
FIVE = (0.1, 0.2, 0.35, 0.5, 0.7)


@dataclass(frozen=True)
class Variant:
    """A way to make families.

    Attributes:
        thresholds: Multiples of the mean positive activation beside 0.
        floor: Samples are weighed by 1 - sum of squared probabilities, and this; None = equally.
        refit: Whether families are made and profiled again, around the plan that was found.
    """

    thresholds: tuple[float, ...] = FIVE
    floor: float | None = None
    refit: bool = False


VARIANTS = {
    "zeros": Variant(()),
    "two thresholds": Variant((0.2, 0.5)),
    "five thresholds": Variant(),
    "five, samples weighed": Variant(floor=0.02),
    "five, refitted": Variant(refit=True),
}


class Weighed(SegmentSimulator):
    """Tells which samples the parts of an ofmap are of."""

    def ofmaps(self, site: str) -> Iterator[NDArray[np.float32]]:
        """A site's ofmap, block by block."""
        for rows, ofmap in zip(self.blocks, super().ofmaps(site), strict=True):
            self._rest = rows
            yield ofmap

    def take(self, count: int) -> NDArray[np.int64]:
        """The next samples of the block that was given last."""
        taken, self._rest = self._rest[:count], self._rest[count:]
        return taken


class Finder:
    """Finds plans of one search's network under a variant."""

    def __init__(self, job: SearchJob, study: Study, variant: Variant) -> None:
        self.variant = variant
        self.job = job
        self.simulator = make_simulator(job)
        study.bind("benchmark", {})
        study.set_scale(self.simulator.baseline, self.simulator.conv_total)
        self.trials = Trials(self.simulator, study, eps=max(b.value for b in job.experiment.bounds))
        self.layouts = find_layouts(job.settings, self.simulator.sites)
        self.layers: list[Layer] = []

    def try_plan(self, label: str, plan: Plan) -> Trial:
        """Runs one plan."""
        (trial,) = self.trials.run(label, [Candidate("network", label, plan)], reject=False)
        return trial

    def points_of(
        self, simulator: SegmentSimulator, group: Sequence[str]
    ) -> list[list[OperatingPoint]]:
        """The operating points of a layer, by patch size."""
        patterns = self.job.settings.patterns
        grain = MODES[self.job.settings.mode].grain
        chosen = {p: Choices(own, self.variant.thresholds) for p, own in patterns.items()}
        return [
            find_operating_points(simulator, group, grain, layout, chosen[p])
            for p, layout in self.layouts.items()
        ]

    def profile(self, simulator: SegmentSimulator, found: Plan) -> None:
        """Makes and profiles the families of all layers, the others being as in a plan."""
        self.layers = []
        for group in reversed(self.job.groups()):
            rest = Plan({name: mask for name, mask in found.items() if name not in group})
            begun = self.try_plan("rest", rest)
            tables = [self.points_of(simulator, group)]
            layouts = {p: _Around(layout, rest) for p, layout in self.layouts.items()}
            self.layers += profile_layers(
                self.trials, [group], tables, layouts, count_macs, {}, begun
            )
        self.layers.reverse()

    def plan(self, divergence: float) -> Plan:
        """The plan proposed for a divergence, after some corrections."""
        model = DistortionModel(self.layers)
        benefit = [np.asarray(layer.benefit, np.int64) for layer in self.layers]
        for _ in range(ROUNDS):
            tables = [model.table(k) for k in range(len(self.layers))]
            numbers = best_plan(benefit, tables, divergence)
            plan = Plan(
                item
                for layer, number in zip(self.layers, numbers, strict=True)
                for item in masks_of(layer.points[number], self.layouts).items()
            )
            model.learn(numbers, self.try_plan("found", plan).outcome.kl or 0.0)
        return plan


class _Around(Layout):
    """Adds the masks of the other layers to every plan."""

    rest: Plan

    def __init__(self, layout: Layout, rest: Plan) -> None:
        super().__init__(layout.sites, layout.patch_size, layout.max_clusters)
        object.__setattr__(self, "rest", rest)

    def plan(self, pieces: Sequence[Piece]) -> Plan:
        """The plan of some pieces, and of the other layers."""
        return Plan({**self.rest, **super().plan(pieces)})


def weights_of(finder: Finder, floor: float) -> NDArray[np.float64]:
    """The weights of the samples: what an answer of little confidence is sensitive to."""
    metric = finder.job.experiment.scored().metric
    logits = metric.logits(finder.simulator.known.dense)
    probabilities = softmax(np.asarray(logits, np.float64), axis=1)
    weights: NDArray[np.float64] = 1 - np.square(probabilities).sum(axis=1) + floor
    return weights


@contextmanager
def weighed(simulator: Weighed, weights: NDArray[np.float64]) -> Iterator[None]:
    """Lets code tables weigh the samples: the product counts them equally alone."""
    add, squares = CodeTables._add, patch_squares

    def add_weighed(
        tables: CodeTables, found: Any, k: int, ofmap: NDArray[np.float32], *others: Any
    ) -> None:
        own = weights[simulator.take(len(ofmap))]

        def weigh(values: NDArray[np.float32], patch_size: int) -> NDArray[np.float64]:
            return squares(values, patch_size) * own[:, None, None, None]

        with patch.object(code_tables, "patch_squares", weigh):
            add(tables, found, k, ofmap, *others)

    with patch.object(CodeTables, "_add", add_weighed):
        yield


def find(finder: Finder) -> list[Plan]:
    """The plans for all divergences."""
    floor = finder.variant.floor
    if floor is None:
        finder.profile(finder.simulator, Plan())
    else:
        simulator = Weighed(finder.job.experiment)
        with weighed(simulator, weights_of(finder, floor)):
            finder.profile(simulator, Plan())
    if not finder.variant.refit:
        return [finder.plan(divergence) for divergence in DIVERGENCES]
    plans = []
    first = finder.layers
    for divergence in DIVERGENCES:
        finder.layers = first
        around = finder.plan(divergence)
        finder.profile(SegmentSimulator(finder.job.experiment, initial=around), around)
        plans.append(finder.plan(divergence))
    return plans


def main() -> None:
    """Prints one line per variant."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--mode", default="uniform-patch")
    parser.add_argument("--patch-size", default="2")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--search-samples", type=int, default=1000)
    parser.add_argument("--verify-samples", type=int, default=5000)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    arguments = parser.parse_args()
    model = insert(arguments.model).model
    columns = ", ".join(f"{100 * drop:g}" for drop in DROPS)
    print(f"| family | saved at an expected drop of {columns} points, % | processor s |")
    print("|---|---|---|")
    for name in arguments.variants:
        begun = time.process_time()
        with tempfile.TemporaryDirectory() as folder, Study(Path(folder) / "study.db") as study:
            job = open_search(
                model, arguments.data, 0.02, SearchFiles(Path(folder) / "study.db"),
                {
                    "threads": 1, "search_samples": arguments.search_samples,
                    "verify_samples": arguments.verify_samples,
                    "seed": arguments.seed, "strategy": "joint", "mode": arguments.mode,
                    "patch_size": arguments.patch_size,
                },
            )  # fmt: skip
            finder = Finder(job, study, VARIANTS[name])
            plans = find(finder)
            spent = time.process_time() - begun
            certifier = Certifier.of(job.experiment)
            results = [certifier.measure(p, job.experiment.verify, expect=True) for p in plans]
        drops = [0.0, *(float(result.expected or 0) for result in results)]
        saved = [0.0, *(result.saved_fraction for result in results)]
        figures = ", ".join(
            f"{100 * float(np.interp(drop, drops, saved)):.1f}" if drop <= max(drops) else "-"
            for drop in DROPS
        )
        print(f"| {name} | {figures} | {spent:.0f} |", flush=True)


if __name__ == "__main__":
    main()
