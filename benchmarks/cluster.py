"""Compares a search on Ray workers with the same search in one process: records, cost, bytes.

    python benchmarks/cluster.py models/pretrained/resnet18-w16-fashion-mnist.onnx

Claims: the records and the plan are those of a local run; with one worker the trials cost at most
1.1 times the processor time; with two workers on two processors they end at least 1.7 times as
soon; and what crosses the network per trial. Every run is a process of its own, whose processor
time is that of all its processes, Ray's included; what starts and opens workers is given apart.
Bytes are those of the loopback device, so other programs that use it must rest. With --nodes three
the workers are on three nodes of Ray's own test cluster, of which one is killed in the middle.
Results are kept in the folder: the same command reads them, and another folder measures again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from spatialonnx.files import sha256_bytes
from spatialonnx.graph.insert import insert
from spatialonnx.measure.opening import open_experiment
from spatialonnx.model.model_file import load_model
from spatialonnx.plan.bounds import parse_bounds
from spatialonnx.runtime.progress import Progress
from spatialonnx.searching.job import SearchFiles, SearchJob
from spatialonnx.searching.judge import SelectJudge, bound_holds
from spatialonnx.searching.run import make_simulator, make_task, open_executor
from spatialonnx.searching.settings import GREEDY, Settings
from spatialonnx.searching.study import Study
from spatialonnx.simulate.ray_connection import ClusterPlace

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from support.few_channels import few_channels
from support.searching import read_journal

PLACES = ("local", "one worker", "two workers")
THREE = "three nodes, one killed"


@dataclass(frozen=True)
class Spent:
    """What was spent so far: seconds, processor seconds of all processes, bytes sent."""

    wall: float
    processor: float
    sent: int

    @staticmethod
    def now() -> Spent:
        """What this process and those below it have spent."""
        processor = 0.0
        for process in (me := psutil.Process(), *me.children(recursive=True)):
            try:
                times = process.cpu_times()
            except psutil.Error:
                continue
            processor += times.user + times.system
        sent = psutil.net_io_counters(pernic=True)["lo"].bytes_sent
        return Spent(time.perf_counter(), processor, sent)

    def since(self, before: Spent) -> dict[str, float]:
        """What was spent after another moment."""
        return {name: value - getattr(before, name) for name, value in vars(self).items()}


@contextmanager
def place_of(name: str) -> Iterator[tuple[ClusterPlace | None, Any]]:
    """Where workers are, and the test cluster, if that is it."""
    if name != THREE:
        workers = PLACES.index(name)
        yield ClusterPlace(workers=workers) if workers else None, None
        return
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        yield ClusterPlace(address=cluster.address), cluster
    finally:
        cluster.shutdown()


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs one search, without certification."""
    model = load_model(arguments.model)
    model = replace(model, proto=insert(model, threads=1).model)
    experiment = open_experiment(
        model, arguments.data, {"threads": 1, "search_samples": arguments.samples}
    )
    settings = Settings(mode=arguments.mode, strategy=GREEDY)
    judge = SelectJudge(lambda plan: None, bound_holds, 1)  # type: ignore[arg-type, return-value]
    with (
        place_of(arguments.run) as (place, cluster),
        tempfile.TemporaryDirectory() as folder,
        Study(Path(folder) / "study.db") as study,
    ):
        job = SearchJob(
            replace(experiment, bounds=parse_bounds(arguments.eps)),
            settings,
            SearchFiles(study.path),
            cluster=place,
        )
        simulator = make_simulator(job)
        told: list[str] = []

        def follow(progress: Progress) -> None:
            told.extend([progress.stage] if progress.warning else [])
            half = progress.total and progress.done > progress.total // 2
            if cluster is not None and half and len(cluster.worker_nodes) == 2:
                cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)

        begun = Spent.now()
        with open_executor(job, simulator, follow) as executor:
            wanted = 0 if place is None else place.workers or 3
            while executor.status and int(executor.status.split()[0]) < wanted:
                list(executor.run([{}], None, lambda plan: True))
            ready = Spent.now()
            task = make_task(job, simulator, study, judge, executor, progress=follow)
            with few_channels(arguments.share):
                keys = job.strategy.run(task)
            done = Spent.now()
        return {
            "start": ready.since(begun),
            "trials": done.since(ready),
            "count": study.count(),
            "records": sha256_bytes(json.dumps(read_journal(study.path)).encode()),
            "eligible": sha256_bytes(repr(sorted(next(iter(keys.values())))).encode()),
            "told": told,
        }


def show(found: dict[str, dict[str, Any]]) -> int:
    """Prints the table; returns how many runs have other records than the local one."""
    local = found[PLACES[0]]
    print(
        "| workers | trials | records | start, s | start, processor s | trials, s "
        "| trials, processor s | processor time | speed | bytes per trial |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    different = 0
    for name, one in found.items():
        same = all(one[key] == local[key] for key in ("records", "eligible", "count"))
        different += not same
        start, trials, base = one["start"], one["trials"], local["trials"]
        sent = "" if name == PLACES[0] else f"{trials['sent'] / one['count']:,.0f}"
        print(
            f"| {name} | {one['count']:,} | {'the same' if same else 'DIFFERENT'} "
            f"| {start['wall']:.1f} | {start['processor']:.1f} | {trials['wall']:.1f} "
            f"| {trials['processor']:.1f} | {trials['processor'] / base['processor']:.2f} "
            f"| {base['wall'] / trials['wall']:.2f} | {sent} |"
        )
        for text in one["told"]:
            print(f"{name}: {text}", file=sys.stderr)
    return different


def main() -> int:
    """Runs the searches, each in a process of its own, and compares them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--mode", default="uniform-patch")
    parser.add_argument("--eps", default="0.01")
    parser.add_argument("--samples", type=int, default=500, help="search samples")
    parser.add_argument("--share", type=int, default=16, help="search one channel in this many")
    parser.add_argument("--nodes", choices=["workers", "three"], default="workers")
    parser.add_argument("--folder", type=Path, default=Path("build/cluster"))
    parser.add_argument("--run", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        print(json.dumps(run(arguments)))
        return 0
    load = os.getloadavg()[0]
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors, load {load}")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for name in PLACES if arguments.nodes == "workers" else (PLACES[0], THREE):
        options = f"{arguments.mode}, {arguments.samples} samples, 1 in {arguments.share}"
        kept = arguments.folder / f"{arguments.model.stem}, {options}, {name}.json"
        if not kept.exists():
            command = [sys.executable, *sys.argv, "--run", name]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            kept.write_text(done.stdout.splitlines()[-1])
        found[name] = json.loads(kept.read_text())
        print(f"{name}: done", file=sys.stderr)
    return show(found)


if __name__ == "__main__":
    sys.exit(main())
