"""Compares the fast search with the literal one: same records, same mask, less time.

    python benchmarks/search_speed.py models/pretrained/resnet18-w16-fashion-mnist.onnx \
        --mode uniform-layer
    python benchmarks/search_speed.py models/pretrained/resnet18-w16-fashion-mnist.onnx \
        --mode max-granularity --share 16 --literal-trials 20

Both run the same segment sessions on the same samples, batch, threads and optimisation level. The
literal one makes one full pass per trial. Where a mode has too many trials for that, it runs a
random sample of the trials of every pass, and its times are scaled. With --share both search a part
of every site's channels, and the times of passes that grow with the number of channels are scaled.
Processor time is given beside wall time, for shared machines.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnxruntime

from spatialonnx.data.opening import open_dataset
from spatialonnx.data.preprocessing import Preprocessing
from spatialonnx.data.split import split_pool
from spatialonnx.graph.insert import insert
from spatialonnx.measure.experiment import Experiment
from spatialonnx.measure.measured import Measured
from spatialonnx.model.metadata import get_metadata
from spatialonnx.model.model_file import load_model
from spatialonnx.plan.outcome import Outcome
from spatialonnx.plan.plan import PlanLike
from spatialonnx.runtime.session import Runtime
from spatialonnx.searching import greedy
from spatialonnx.searching.benefit import count_macs
from spatialonnx.searching.judge import SelectJudge, bound_holds
from spatialonnx.searching.modes import FINEST, MODES, first_targets
from spatialonnx.searching.ranking import feasible_trials, prefer_saved
from spatialonnx.searching.settings import GREEDY, Settings
from spatialonnx.searching.study import Record, Study
from spatialonnx.searching.targets import Layout, Target
from spatialonnx.searching.task import Task
from spatialonnx.searching.trials import Candidate, Trial, Trials
from spatialonnx.simulate.segmented import SegmentSimulator

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from support.literal import LiteralSimulator


def _refuse(plan: PlanLike) -> Measured:
    raise AssertionError("the greedy search measures nothing on select")


NO_JUDGE = SelectJudge(_refuse, bound_holds, 0)
AIMS = {"uniform-layer": 2.5, "uniform-patch": 4.0, "max-granularity": 8.0}


@dataclass
class Cost:
    """The cost of the trials of one pass."""

    trials: int = 0
    rejected: int = 0
    wall: float = 0.0
    cpu: float = 0.0
    forward: float = 0.0


class Metered:
    """A simulator that adds up its cost per pass."""

    def __init__(self, inner: SegmentSimulator | LiteralSimulator, kept: int, seed: int) -> None:
        self.inner = inner
        self.drawn: dict[str, list[tuple[PlanLike, Outcome]]] = defaultdict(list)
        self._kept = kept
        self._rng = np.random.default_rng(seed)
        self.pass_name = ""
        self.costs: dict[str, Cost] = defaultdict(Cost)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def simulate(
        self, plans: Iterable[PlanLike], reject_above: Fraction | None = None
    ) -> Iterator[Outcome]:
        """Passes outcomes on, and measures the time until they arrive."""
        taken: deque[PlanLike] = deque()

        def noting() -> Iterator[PlanLike]:
            for plan in plans:
                taken.append(plan)
                yield plan

        outcomes = self.inner.simulate(noting(), reject_above)
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
            self._draw(taken.popleft(), outcome, cost.trials)
            yield outcome

    def _draw(self, plan: PlanLike, outcome: Outcome, seen: int) -> None:
        """Keeps a random part of the trials of every pass (reservoir sampling)."""
        drawn = self.drawn[self.pass_name]
        if len(drawn) < self._kept:
            drawn.append((plan, outcome))
        elif (place := int(self._rng.integers(seen))) < self._kept:
            drawn[place] = plan, outcome


class NamedTrials(Trials):
    """Trials that report their pass to the meter."""

    def run(
        self,
        pass_name: str,
        candidates: Iterable[Candidate],
        expected: int | None = None,
        done: int = 0,
        *,
        reject: bool = True,
    ) -> Iterator[Trial]:
        """Runs one pass."""
        meter = self.simulator
        assert isinstance(meter, Metered)
        meter.pass_name = pass_name
        yield from super().run(pass_name, candidates, expected, done, reject=reject)


@dataclass
class Side:
    """One of the two searches."""

    costs: dict[str, Cost]
    records: list[Record]
    mask: str
    baseline: Fraction
    drawn: dict[str, list[tuple[PlanLike, Outcome]]]


def choose_targets(targets: Sequence[Target], share: int, rng: np.random.Generator) -> list[Target]:
    """All targets of every ``share``-th channel of each site, drawn at random."""
    channels: dict[str, list[int | None]] = defaultdict(list)
    for target in targets:
        (region,) = target.regions
        if region.channel not in channels[region.site]:
            channels[region.site].append(region.channel)
    chosen = {
        (site, found[i])
        for site, found in channels.items()
        for i in rng.choice(len(found), -(-len(found) // share), replace=False)
    }
    return [t for t in targets if (t.regions[0].site, t.regions[0].channel) in chosen]


def search(simulator: SegmentSimulator | LiteralSimulator, arguments: argparse.Namespace) -> Side:
    """Runs a greedy search from an empty study."""
    mode = MODES[arguments.mode]
    layout = Layout(simulator.sites, 2, arguments.max_clusters if arguments.mode == FINEST else 0)
    groups = tuple((site.name,) for site in simulator.sites)
    every = first_targets(mode, layout, groups)
    chosen = choose_targets(every, arguments.share, np.random.default_rng(arguments.seed))
    print(f"  {len(chosen)} of {len(every)} targets", file=sys.stderr)
    meter = Metered(simulator, arguments.literal_trials, arguments.seed)
    with tempfile.TemporaryDirectory() as folder, Study(Path(folder) / "study.db") as study:
        study.bind("benchmark", {})
        trials = NamedTrials(meter, study, eps=arguments.eps)
        settings = Settings(mode=arguments.mode, strategy=GREEDY, max_clusters=layout.max_clusters)
        task = Task(
            settings, trials, {2: layout}, groups, (arguments.eps,), NO_JUDGE, count_macs, {}
        )
        with patch.object(greedy, "first_targets", lambda *_: chosen):
            keys = greedy.greedy_search(task)[arguments.eps]
        records = list(study.records())
        last = [record for record in records if record.plan_key in keys]
        best = prefer_saved(feasible_trials(last, simulator.baseline, arguments.eps))
        mask = best[0].key if best else "off"
    arguments.scale = len(every) / len(chosen)
    scale_costs(meter.costs, arguments.scale)
    return Side(dict(meter.costs), records, mask, simulator.baseline, dict(meter.drawn))


def scale_costs(costs: Mapping[str, Cost], scale: float) -> None:
    """Scales the passes whose trials grow with the number of channels."""
    for name, cost in costs.items():
        if name in ("first", "patch"):
            cost.wall, cost.cpu, cost.forward = (
                v * scale for v in (cost.wall, cost.cpu, cost.forward)
            )


def run_drawn(simulator: LiteralSimulator, fast: Side, eps: Fraction) -> tuple[Side, int]:
    """Runs the sampled trials literally; returns costs scaled to all trials and how many differ."""
    costs: dict[str, Cost] = {}
    different = 0
    for name, drawn in fast.drawn.items():
        wall, cpu = time.perf_counter(), time.process_time()
        for (_, found), wanted in zip(
            drawn, simulator.simulate(plan for plan, _ in drawn), strict=True
        ):
            different += not agree(found, wanted, simulator.baseline, eps)
        quick = fast.costs[name]
        scale = quick.trials / len(drawn)
        costs[name] = Cost(
            quick.trials,
            quick.rejected,
            (time.perf_counter() - wall) * scale,
            (time.process_time() - cpu) * scale,
            float(quick.trials * simulator.samples),
        )
    return Side(costs, [], fast.mask, simulator.baseline, {}), different


def agree(found: Outcome, wanted: Outcome, baseline: Fraction, eps: Fraction) -> bool:
    """Whether outcomes are equal; the literal drop of a rejected trial must exceed eps."""
    assert wanted.score is not None
    if found.score is None:
        return baseline - wanted.score > eps and found.saved in (None, wanted.saved)
    return (found.score, found.saved, found.kl) == (wanted.score, wanted.saved, wanted.kl)


def compare(fast: Side, literal: Side, eps: Fraction) -> int:
    """Counts the records that differ."""
    different = 0 if len(fast.records) == len(literal.records) else 1
    for a, b in zip(fast.records, literal.records, strict=False):
        same = (a.pass_name, a.target, a.option, a.plan_key) == (
            b.pass_name, b.target, b.option, b.plan_key
        )  # fmt: skip
        different += not (same and agree(a.outcome, b.outcome, literal.baseline, eps))
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
    parser.add_argument("--share", type=int, default=1, help="search one channel in this many")
    parser.add_argument(
        "--literal-trials",
        type=int,
        default=0,
        help="trials per pass that are run literally; 0 = all",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--level", choices=["extended", "all"], default="all")
    arguments = parser.parse_args()
    model = load_model(arguments.model)
    runtime = Runtime("cpu", arguments.threads)
    proto = insert(model, threads=runtime.threads).model
    entry = get_metadata(model.proto).get("input")
    dataset = open_dataset(
        arguments.data, Preprocessing.from_json(entry) if entry else None,
        input_shape=tuple(
            d.dim_value or None for d in model.proto.graph.input[0].type.tensor_type.shape.dim[1:]
        ),
    )  # fmt: skip
    split = split_pool(len(dataset), arguments.seed, search_samples=arguments.samples)
    load = os.getloadavg()[0]
    print(f"{platform.processor() or platform.machine()}, {runtime.threads} threads, load {load}")
    print(f"onnxruntime {onnxruntime.__version__}, level {arguments.level}")
    print(
        f"{arguments.model.name}, {arguments.mode}, {arguments.samples} samples, batch "
        f"{arguments.batch}, eps {float(arguments.eps)}, seed {arguments.seed}"
    )
    experiment = Experiment(
        replace(model, proto=proto), dataset, split, runtime, batch=arguments.batch
    )
    fast = search(SegmentSimulator(experiment, level=arguments.level), arguments)
    oracle = LiteralSimulator(experiment, arguments.level)
    if arguments.literal_trials:
        slow, different = run_drawn(oracle, fast, arguments.eps)
        scale_costs(slow.costs, arguments.scale)
        compared = sum(len(drawn) for drawn in fast.drawn.values())
        same_mask = True
        print(f"{len(fast.records)} records, {compared} compared, {different} different")
    else:
        slow = search(oracle, arguments)
        different = compare(fast, slow, arguments.eps)
        same_mask = fast.mask == slow.mask
        print(f"{len(slow.records)} records, {different} different; same mask: {same_mask}")
    show(fast, slow, arguments.mode)
    return 1 if different or not same_mask else 0


if __name__ == "__main__":
    sys.exit(main())
