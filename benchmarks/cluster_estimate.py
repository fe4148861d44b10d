"""Estimates max-granularity on ResNet-50 and ImageNet on many workers, and what saturates first.

    python benchmarks/cluster_estimate.py --workers 100

Measured here: the time of every segment of ResNet-50 (of the onnx package, weights drawn) per
image, of one thread; the time that the driver takes per trial to describe a plan, read it from the
answer of a worker and journal it; and the bytes of a plan. Taken from docs/search-speed.md: which
part of the samples a trial must run, by stage of the network. Simulated, with the driver's own code
and workers that only let a clock run: how long chunks of the first level take, drawn evenly from
all of it. The later passes, which a few per cent of the trials make, are left out. What was
measured is kept in the folder: another folder measures again, and an empty --workers simulates
nothing.
"""

from __future__ import annotations

import argparse
import heapq
import json
import pickle
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from spatialonnx.graph.insert import insert
from spatialonnx.graph.sites import find_sites
from spatialonnx.plan.masks import uniform_mask
from spatialonnx.plan.outcome import Outcome
from spatialonnx.plan.plan import plan_key, plan_to_text
from spatialonnx.runtime.session import Runtime
from spatialonnx.searching.modes import FINEST, MODES, first_targets
from spatialonnx.searching.study import Study
from spatialonnx.searching.targets import Layout, Piece
from spatialonnx.searching.trials import LARGEST_CHUNK
from spatialonnx.simulate.cluster import ClusterExecutor
from spatialonnx.simulate.segments import SegmentedNetwork
from spatialonnx.simulate.worker import Versions

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from support.zoo import light_model

SHAPE = (3, 224, 224)
PATTERNS = 14
QUARTERS = (10, 22, 40)
"""Numbers of the sites at which the second, third and fourth size of maps begin."""
LATENCY = 0.002
"""Seconds from a driver to a worker and back."""


@dataclass(frozen=True)
class Measured:
    """What was measured.

    Attributes:
        sites: Names of the sites.
        targets: Targets of the first level, by site.
        behind: Seconds per image behind every site.
        dense: Seconds per image of the whole network.
        driver: Seconds of the driver per trial, by site.
        sent: Bytes of a plan, by site.
        answered: Bytes of an outcome.
        masks: Bytes of a plan's mask in memory, by site.
        model: Bytes of the model.
        stored: Bytes per image of the activations before every site.
    """

    sites: list[str]
    targets: list[int]
    behind: list[float]
    dense: float
    driver: list[float]
    sent: list[int]
    answered: float
    masks: list[int]
    model: int
    stored: list[int]


def measure(clusters: int, rounds: int) -> Measured:
    """Measures ResNet-50 with one thread, and the driver."""
    proto = insert(light_model("resnet50"), threads=1).model
    rng = np.random.default_rng(0)
    images = rng.normal(size=(1, *SHAPE)).astype(np.float32)
    network = SegmentedNetwork(proto, images, Runtime("cpu", 1))
    seconds = [0.0] * (network.sites + 1)
    for _ in range(rounds):
        activations = network.start(images)
        for number in range(network.sites + 1):
            begun = time.process_time()
            activations, _ = network.advance(number, activations)
            seconds[number] += (time.process_time() - begun) / rounds
    image = network.cut.image
    sites = find_sites(proto, {image: (1, *SHAPE)}).sites
    layout = Layout(sites, 2, clusters)
    by_site: dict[str, list[Any]] = {}
    for target in first_targets(MODES[FINEST], layout, tuple((site.name,) for site in sites)):
        by_site.setdefault(target.regions[0].site, []).append(target)
    outcome = Outcome(Fraction(761, 1000), 123_456_789_012, 0.0123456789, 123.456, 1.23456)
    driver, sent = [], []
    with tempfile.TemporaryDirectory() as folder, Study(Path(folder) / "study.db") as study:
        for site in sites:
            own = by_site[site.name][:10]
            begun = time.process_time()
            for target in own:
                plan = layout.plan([Piece(region, 9) for region in target.regions])
                key, text = plan_key(plan), plan_to_text(plan)
                study.find(key)
                study.add(key, plan, pickle.loads(pickle.dumps(outcome)))  # noqa: S301
                study.add_record("first", target.name, "1001", key)
            driver.append((time.process_time() - begun) / len(own))
            sent.append(len(text))
    return Measured(
        sites=[site.name for site in sites],
        targets=[len(by_site[site.name]) for site in sites],
        behind=[sum(seconds[number:]) for number in range(1, network.sites + 1)],
        dense=sum(seconds),
        driver=driver,
        sent=sent,
        answered=len(pickle.dumps([replace(outcome, seconds=k / 7) for k in range(100)])) / 100,
        masks=[2 * int(np.prod([site.shape[0] or 1, *layout.grid(site)])) for site in sites],
        model=proto.ByteSize(),
        stored=network.bytes_per_sample[1:],
    )


@dataclass(eq=False)
class Clock:
    """A stand-in for Ray whose workers only let time pass.

    Attributes:
        workers: Number of nodes, with one processor each.
        per_trial: Seconds of a worker per trial, by site.
        moving: Seconds to compute the activations before a site, by site.
        driver: Seconds of the driver per trial, by site.
    """

    workers: int
    per_trial: dict[str, float]
    moving: dict[str, float]
    driver: dict[str, float]
    now: float = 0.0
    busy: float = 0.0
    calls: int = 0
    events: list[tuple[float, int, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        class Died(Exception):
            pass

        self.numbers = count()
        self.exceptions = SimpleNamespace(RayError=Died, RayTaskError=Died)
        affinity = SimpleNamespace(NodeAffinitySchedulingStrategy=lambda name, soft: name)
        self.util = SimpleNamespace(scheduling_strategies=affinity)

    def put(self, value: Any) -> Any:
        """Keeps nothing."""
        return value

    def nodes(self) -> list[dict[str, Any]]:
        """Nodes with one processor each."""
        entry = {"Alive": True, "Resources": {"CPU": 1}}
        return [
            {"NodeID": str(n), "NodeManagerAddress": str(n), **entry} for n in range(self.workers)
        ]

    def remote(self, kind: Any) -> Any:
        """Makes actors."""
        del kind
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda: Ticking(self)))

    def wait(self, references: Any, num_returns: int, timeout: float) -> Any:
        """The earliest answer."""
        del references, num_returns, timeout
        then, _, reference = heapq.heappop(self.events)
        self.now = max(self.now, then)
        return [reference], []

    def get(self, reference: Any) -> Any:
        """An answer; reading and journalling it takes the driver some time."""
        answer, seconds = reference
        self.now += seconds
        self.busy += seconds
        return answer


class Ticking:
    """An actor that is busy for as long as its trials would take."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.free, self.site = clock, 0.0, ""

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda *args: self.call(name, args))

    def call(self, name: str, args: tuple[Any, ...]) -> Any:
        """Puts the answer on the clock."""
        clock, answer, seconds = self.clock, {"versions": Versions(), "open": ""}.get(name), 0.0
        if name == "run":
            texts: Sequence[str] = args[0]
            (site,) = json.loads(texts[0])
            each = clock.per_trial[site]
            start = max(self.free, clock.now + LATENCY / 2)
            if site != self.site:
                start += clock.moving[site]
                self.site = site
            self.free = start + each * len(texts)
            answer = [Outcome(None, None, None, 0.0, each)] * len(texts)
            seconds = clock.driver[site] * len(texts)
            clock.calls += 1
        reference = Answer((answer, seconds))
        then = max(self.free, clock.now) + LATENCY / 2
        heapq.heappush(clock.events, (then, next(clock.numbers), reference))
        return reference


class Answer(tuple[Any, float]):
    """An answer and what it costs the driver; every one is another."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


def simulate(clock: Clock, found: Measured, trials: Sequence[int], chunks: int) -> float:
    """How many times as long some chunks take as they would on workers that are always busy."""
    workload: Any = SimpleNamespace(digest=lambda: "", runtime=Runtime("cpu", 1))
    executor = ClusterExecutor(clock, workload, found.sites, initial={})
    plans = {site: {site: uniform_mask(2, 9)} for site in found.sites}
    edges = np.cumsum([0, *trials])
    begun, ideal = clock.now, 0.0
    for start in np.linspace(0, edges[-1], chunks, endpoint=False).astype(int):
        numbers = (
            np.searchsorted(
                edges, np.arange(start, min(start + executor.at_once, edges[-1])), side="right"
            )
            - 1
        )
        together = np.cumsum(np.asarray(found.masks)[numbers]) <= LARGEST_CHUNK
        chosen = [found.sites[number] for number in numbers[together]]
        ideal += sum(clock.per_trial[site] for site in chosen) / clock.workers
        for _ in executor.run([plans[site] for site in chosen], None, lambda _: True):
            pass
    return (clock.now - begun) / ideal


def main() -> None:
    """Measures, simulates, and prints what a search would take."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 10, 100, 1000])
    parser.add_argument("--samples", type=int, default=1000, help="search samples")
    parser.add_argument("--max-clusters", type=int, default=10)
    parser.add_argument("--chunks", type=int, default=8, help="chunks that are simulated")
    parser.add_argument("--rounds", type=int, default=5, help="times that the network is timed")
    parser.add_argument(
        "--parts",
        default="0.37,0.23,0.18,0.06",
        help="part of the samples that a trial must run, for the four sizes of maps",
    )
    parser.add_argument("--folder", type=Path, default=Path("build/cluster"))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    kept = arguments.folder / f"resnet50, {arguments.max_clusters} clusters.json"
    if not kept.exists():
        kept.write_text(json.dumps(asdict(measure(arguments.max_clusters, arguments.rounds))))
    found = Measured(**json.loads(kept.read_text()))
    parts = [float(part) for part in arguments.parts.split(",")]
    trials = [PATTERNS * targets for targets in found.targets]
    stages = np.searchsorted(QUARTERS, np.arange(len(found.sites)), side="right")
    per_trial = [
        arguments.samples * parts[stage] * behind
        for stage, behind in zip(stages, found.behind, strict=True)
    ]
    total = sum(n * seconds for n, seconds in zip(trials, per_trial, strict=True))
    driver = sum(n * seconds for n, seconds in zip(trials, found.driver, strict=True))
    sent = sum(n * size for n, size in zip(trials, found.sent, strict=True))
    images = arguments.samples * int(np.prod(SHAPE)) * 4
    print(f"ResNet-50: {found.dense * 1e3:.0f} ms per image, one thread")
    print(f"first level: {sum(found.targets):,} targets, {sum(trials):,} trials")
    print(
        f"mean trial: {total / sum(trials):.2f} s of a worker, {driver / sum(trials) * 1e3:.2f} ms "
        "of the driver"
    )
    print(f"to every node once: model {found.model / 1e6:.0f} MB, images {images / 1e6:.0f} MB")
    print(f"per trial: {sent / sum(trials):,.0f} bytes sent, {found.answered:.0f} bytes back")
    stored = max(found.stored) * arguments.samples / 1e9
    print(f"largest stored activations of a site: {stored:.1f} GB")
    print("| workers | hours | of which idle | driver busy | MB per second |")
    print("|---|---|---|---|---|")
    sites = found.sites
    moving = [arguments.samples * (found.dense - behind) for behind in found.behind]
    for workers in arguments.workers:
        clock = Clock(
            workers,
            dict(zip(sites, per_trial, strict=True)),
            dict(zip(sites, moving, strict=True)),
            dict(zip(sites, found.driver, strict=True)),
        )
        ratio = simulate(clock, found, trials, arguments.chunks)
        hours = total * ratio / workers / 3600
        rate = (sent + found.answered * sum(trials)) / (hours * 3600) / 1e6
        print(
            f"| {workers} | {hours:,.0f} | {100 * (1 - 1 / ratio):.1f} % "
            f"| {100 * clock.busy / clock.now:.2f} % | {rate:.3f} |"
        )


if __name__ == "__main__":
    main()
