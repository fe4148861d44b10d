"""The fast search against the literal one: the same records, the same mask, in less time.

    python benchmarks/search_speed.py models/pretrained/resnet18-w16-fashion-mnist.onnx \
        --mode uniform-layer
    python benchmarks/search_speed.py models/pretrained/resnet18-w16-fashion-mnist.onnx \
        --mode max-granularity --channels 20

Both run the same segment sessions on the same samples, batch, threads and optimisation level. The
literal one makes a full pass a trial; where a mode has too many trials for that, both search a
random subset of the channels, drawn by the seed, and the times of the passes that grow with the
number of channels are scaled. Processor time is given beside the time on the clock, for machines
that have other work to do.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnxruntime

from spatialonnx.datasets import Preprocessing, open_dataset, split_pool
from spatialonnx.evaluate import Samples
from spatialonnx.insert import insert_predictors
from spatialonnx.masks import Plan
from spatialonnx.metrics import TOP1
from spatialonnx.modelfile import get_metadata, load_model
from spatialonnx.patterns import patterns_with_ones
from spatialonnx.search import greedy
from spatialonnx.search.modes import MODES, first_targets
from spatialonnx.search.targets import Layout, Target
from spatialonnx.search.trials import Candidate, Trial, Trials
from spatialonnx.session import Runtime
from spatialonnx.simulator import Outcome, SegmentSimulator
from spatialonnx.study import Record, Study

AIMS = {"uniform-layer": 2.5, "uniform-patch": 4.0, "max-granularity": 8.0}


@dataclass
class Cost:
    """What the trials of one pass took."""

    trials: int = 0
    rejected: int = 0
    wall: float = 0.0
    cpu: float = 0.0
    forward: float = 0.0


class Metered:
    """A simulator whose work is added up, pass by pass."""

    def __init__(self, inner: SegmentSimulator) -> None:
        self.inner = inner
        self.pass_name = ""
        self.costs: dict[str, Cost] = defaultdict(Cost)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def simulate(
        self, plans: Iterable[Plan], reject_above: Fraction | None = None
    ) -> Iterator[Outcome]:
        """Passes outcomes on, and clocks what it takes to get them."""
        outcomes = self.inner.simulate(plans, reject_above)
        while True:
            wall, cpu = time.perf_counter(), time.process_time()
            outcome = next(outcomes, None)
            cost = self.costs[self.pass_name]
            cost.wall += time.perf_counter() - wall
            cost.cpu += time.process_time() - cpu
            if outcome is None:
                return
            cost.trials += 1
            cost.rejected += outcome.score is None
            cost.forward += outcome.forward_samples
            yield outcome


class NamedTrials(Trials):
    """Trials that tell the meter which pass they are in."""

    def run(
        self,
        pass_name: str,
        candidates: Sequence[Candidate],
        expected: int | None = None,
        done: int = 0,
    ) -> Iterator[Trial]:
        """Runs one pass."""
        meter = self.simulator
        assert isinstance(meter, Metered)
        meter.pass_name = pass_name
        yield from super().run(pass_name, candidates, expected, done)


@dataclass
class Side:
    """One of the two searches."""

    costs: dict[str, Cost]
    records: list[Record]
    mask: str
    baseline: Fraction
    seconds_per_pass: float
    walk: list[Trial] = field(repr=False)


def choose_targets(
    targets: Sequence[Target], channels: int, rng: np.random.Generator
) -> list[Target]:
    """All targets of some randomly drawn channels; all of them where ``channels`` is 0."""
    of_channel: dict[tuple[str, int | None], list[Target]] = defaultdict(list)
    for target in targets:
        of_channel[target.regions[0].site, target.regions[0].channel].append(target)
    keys = list(of_channel)
    if channels and channels < len(keys):
        keys = [keys[i] for i in sorted(rng.choice(len(keys), channels, replace=False))]
    return [target for key in keys for target in of_channel[key]]


def search(simulator: SegmentSimulator, arguments: argparse.Namespace) -> Side:
    """Runs a greedy search from an empty study."""
    mode = MODES[arguments.mode]
    layout = Layout(simulator.sites, 2, arguments.max_clusters if mode.by_channel else 0)
    groups = tuple((site.name,) for site in simulator.sites)
    every = first_targets(mode, layout, groups)
    chosen = choose_targets(every, arguments.channels, np.random.default_rng(arguments.seed))
    print(f"  {len(chosen)} of {len(every)} targets", file=sys.stderr)
    meter = Metered(simulator)
    with tempfile.TemporaryDirectory() as folder, Study(Path(folder) / "study.db") as study:
        study.bind("benchmark", {})
        trials = NamedTrials(meter, study, eps=arguments.eps)
        with patch.object(greedy, "first_targets", lambda *_: chosen):
            patterns = patterns_with_ones(2, 1, 3)
            walk = greedy.greedy_search(trials, mode, layout, patterns, groups)
        feasible = [trial for trial in walk if trial.feasible(arguments.eps)]
        best = max(feasible, key=lambda trial: trial.outcome.saved or 0, default=None)
        mask = best.key if best else "off"
        records = list(study.records())
    for name, cost in meter.costs.items():
        if name in ("first", "patch"):
            scale = len(every) / len(chosen)
            cost.wall, cost.cpu, cost.forward = (
                v * scale for v in (cost.wall, cost.cpu, cost.forward)
            )
    return Side(
        dict(meter.costs), records, mask, simulator.baseline, simulator.seconds_per_pass, walk
    )


def compare(fast: Side, literal: Side, eps: Fraction) -> int:
    """Counts the records that differ; a rejected trial's literal drop must exceed eps."""
    different = 0 if len(fast.records) == len(literal.records) else 1
    for a, b in zip(fast.records, literal.records, strict=False):
        same = (a.pass_name, a.target, a.option, a.plan_key) == (
            b.pass_name, b.target, b.option, b.plan_key
        )  # fmt: skip
        x, y = a.outcome, b.outcome
        assert y.score is not None
        if x.score is None:
            same &= literal.baseline - y.score > eps and x.saved in (None, y.saved)
        else:
            same &= (x.score, x.saved, x.kl) == (y.score, y.saved, y.kl)
        different += not same
    return different


def show(fast: Side, literal: Side, mode: str) -> None:
    """Prints the table of passes."""
    print("| pass | trials | rejected | literal s | fast s | ratio | cpu ratio | samples ratio |")
    print("|---|---|---|---|---|---|---|---|")
    rows = [(n, literal.costs[n], fast.costs[n]) for n in literal.costs if n in fast.costs]
    total = ("all", Cost(), Cost())
    for _, slow, quick in rows:
        for whole, part in ((total[1], slow), (total[2], quick)):
            for key, value in vars(part).items():
                setattr(whole, key, getattr(whole, key) + value)
    for name, slow, quick in [*rows, total]:
        print(
            f"| {name} | {quick.trials} | {quick.rejected} | {slow.wall:.1f} | {quick.wall:.1f} "
            f"| {slow.wall / quick.wall:.2f} | {slow.cpu / quick.cpu:.2f} "
            f"| {slow.forward / quick.forward:.2f} |"
        )
    print(f"wanted: at least {AIMS.get(mode, 1)}")


def main() -> int:
    """Runs both searches and compares them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--mode", choices=MODES, default="uniform-layer")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--eps", type=Fraction, default=Fraction(1, 100))
    parser.add_argument("--max-clusters", type=int, default=10)
    parser.add_argument(
        "--channels", type=int, default=0, help="searched, drawn at random; 0 = all"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--level", choices=["extended", "all"], default="all")
    arguments = parser.parse_args()
    model = load_model(arguments.model)
    runtime = Runtime("cpu", arguments.threads)
    proto = insert_predictors(model, runtime=runtime).proto
    entry = get_metadata(model.proto).get("input")
    dataset = open_dataset(
        arguments.data, Preprocessing.from_json(entry) if entry else None,
        input_shape=tuple(
            d.dim_value or None for d in model.proto.graph.input[0].type.tensor_type.shape.dim[1:]
        ),
    )  # fmt: skip
    split = split_pool(len(dataset), arguments.seed, search_samples=arguments.samples)
    samples = Samples(dataset, split.search)
    load = os.getloadavg()[0]
    print(f"{platform.processor() or platform.machine()}, {runtime.threads} threads, load {load}")
    print(f"onnxruntime {onnxruntime.__version__}, level {arguments.level}")
    print(
        f"{arguments.model.name}, {arguments.mode}, {arguments.samples} samples, batch "
        f"{arguments.batch}, eps {float(arguments.eps)}, seed {arguments.seed}"
    )
    sides = []
    for literal in (False, True):
        print("literal" if literal else "fast", file=sys.stderr)
        simulator = SegmentSimulator(
            proto, samples, metric=TOP1, runtime=runtime, batch=arguments.batch,
            literal=literal, level=arguments.level,
        )  # fmt: skip
        sides.append(search(simulator, arguments))
    fast, slow = sides
    different = compare(fast, slow, arguments.eps)
    same_mask = fast.mask == slow.mask
    print(f"{len(slow.records)} records, {different} different; same mask: {same_mask}")
    show(fast, slow, arguments.mode)
    return 1 if different or not same_mask else 0


if __name__ == "__main__":
    sys.exit(main())
