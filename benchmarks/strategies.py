"""Compares strategies: MACs saved and drop on verify, cost and time, over split seeds.

    python benchmarks/strategies.py models/pretrained/resnet18-w16-fashion-mnist.onnx

The result of every search is kept in the folder, and its trials are journalled: the same command
continues where it stopped, and further rows or seeds are added. Forward samples are those of the
trials, where the run of a part counts by its share of the MACs, and of the plans measured on
select. The diagonal is 1001 at every site, without a search. With --cluster the searches run side
by side, one processor each; the folder must then be one that all nodes see.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import modes
from modes import spatialonnx, spread

from spatialonnx.simulate.ray_connection import connect, parse_cluster

GREEDY, JOINT = ("--strategy", "greedy"), ("--strategy", "joint")
FEW = ("--patterns", "1001,1000")
ZEROS = ("--thresholds", "0")
ROWS: dict[str, tuple[str, ...]] = {
    "greedy-layer": (*GREEDY, "--mode", "uniform-layer"),
    "greedy-layer-few": (*GREEDY, "--mode", "uniform-layer", *FEW),
    "greedy-filter-few": (*GREEDY, "--mode", "uniform-filter", *FEW),
    "greedy-patch-few": (*GREEDY, "--mode", "uniform-patch", *FEW),
    "greedy-max-few": (*GREEDY, "--mode", "max-granularity", "--max-clusters", "10", *FEW),
    "joint-layer": (*JOINT, "--mode", "uniform-layer"),
    "joint-layer-zeros": (*JOINT, "--mode", "uniform-layer", *ZEROS),
    "joint-layer-p4": (*JOINT, "--mode", "uniform-layer", "--patch-size", "4"),
    "joint-layer-p234": (*JOINT, "--mode", "uniform-layer", "--patch-size", "2,3,4"),
    "joint-filter-p234": (*JOINT, "--mode", "uniform-filter", "--patch-size", "2,3,4"),
    "joint-patch": (*JOINT, "--mode", "uniform-patch"),
    "joint-patch-p4": (*JOINT, "--mode", "uniform-patch", "--patch-size", "4"),
    "joint-patch-p234": (*JOINT, "--mode", "uniform-patch", "--patch-size", "2,3,4"),
    "joint-patch-p234-zeros": (
        *JOINT, "--mode", "uniform-patch", "--patch-size", "2,3,4", *ZEROS,
    ),
    "joint-max-p234": (
        *JOINT, "--mode", "max-granularity", "--max-clusters", "10", "--patch-size", "2,3,4",
    ),
}  # fmt: skip
SHOWN = ("greedy-layer", "joint-layer", "joint-patch-p234")
DIAGONAL = "diagonal"


def processor_time() -> float:
    """Processor time of all commands so far, in seconds."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def search(folder: Path, row: str, seed: int, options: Sequence[str]) -> dict[str, Any]:
    """Runs one search, or reads its result from an earlier run.

    Its processor time covers all of its runs that ended under this program.
    """
    kept, spent = folder / f"{row}.{seed}.json", folder / f"{row}.{seed}.seconds"
    if kept.exists():
        answer: dict[str, Any] = json.loads(kept.read_text())
        return answer
    before = processor_time() - (float(spent.read_text()) if spent.exists() else 0.0)
    try:
        answer = spatialonnx(
            "search", str(folder / "model.spatial.onnx"), *ROWS[row], "--seed", str(seed),
            "--study", str(folder / f"{row}.{seed}.study.db"),
            "-o", str(folder / f"{row}.{seed}.masked.onnx"), *options,
        )  # fmt: skip
    finally:
        spent.write_text(str(processor_time() - before))
    answer["processor_seconds"] = float(spent.read_text())
    kept.write_text(json.dumps(answer))
    print(f"{row}, seed {seed}: {answer['trials']} trials", file=sys.stderr)
    return answer


Run = tuple[str, int]
"""A row and a seed."""


def search_all(
    folder: Path, runs: Sequence[Run], options: Sequence[str], cluster: str | None
) -> Iterator[tuple[Run, dict[str, Any]]]:
    """Runs all searches, one after another or side by side on a cluster, as they end."""
    if cluster is None:
        for row, seed in runs:
            yield (row, seed), search(folder, row, seed, options)
        return
    with connect(parse_cluster(cluster), 0) as ray:
        ray.cloudpickle.register_pickle_by_value(modes)
        remote = ray.remote(search)
        pending = {remote.remote(folder, *run, options): run for run in runs}
        while pending:
            (ended,), _ = ray.wait(list(pending), num_returns=1)
            yield pending.pop(ended), ray.get(ended)


def diagonal(folder: Path, seed: int, dense: float, options: Sequence[str]) -> dict[str, Any]:
    """The diagonal at every site on the verify images of a seed, in the form of a search result."""
    kept = folder / f"{DIAGONAL}.{seed}.json"
    if not kept.exists():
        found = spatialonnx(
            "evaluate", str(folder / "diagonal.onnx"), "--split", "verify", "--seed", str(seed),
            *options,
        )  # fmt: skip
        drop = dense - found["accuracy"]["top1"]
        verify = {"drop": drop, "saved_fraction": found["macs"]["saved_fraction"]}
        kept.write_text(json.dumps({"eps": drop, "verify": verify, "bound_met": True}))
    answer: dict[str, Any] = json.loads(kept.read_text())
    return answer


def results_of(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """The results, one per bound."""
    found: list[dict[str, Any]] = answer.get("results", [answer])
    return found


def forward(answer: dict[str, Any]) -> float:
    """Samples run through the whole network: trials, and plans measured on select."""
    select: int = results_of(answer)[0]["select"]["samples"]
    return float(answer["forward_samples"] + answer["select_plans"] * select)


def print_table(answers: dict[str, dict[int, dict[str, Any]]]) -> None:
    """Prints one line per row and bound."""
    print(
        "| row | seeds | eps | MACs saved, % | drop, points | met | samples run, thousands "
        "| processor s |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for row, by_seed in answers.items():
        runs = list(by_seed.values())
        for bound in range(len(results_of(runs[0]))):
            results = [results_of(run)[bound] for run in runs]
            verify = [result["verify"] for result in results]
            head = f"| {row} | {len(runs)} |"
            figures = (
                f" {spread([v['saved_fraction'] for v in verify])} "
                f"| {spread([v['drop'] for v in verify], digits=2)} |"
            )
            if row == DIAGONAL:
                print(f"{head} |{figures} | | |")
                continue
            met = sum(result["bound_met"] for result in results)
            print(
                f"{head} {results[0]['eps']:g} |{figures} {met} of {len(results)} "
                f"| {spread([forward(run) for run in runs], 1e-3, 0)} "
                f"| {spread([run['processor_seconds'] for run in runs], 1, 0)} |"
            )


def main() -> None:
    """Searches each row with each seed and prints one table of all results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("build/strategies"))
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--eps", default="0.005,0.01,0.02")
    parser.add_argument("--samples", default="1000", help="search samples")
    parser.add_argument("--verify", default="5000", help="verify samples")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(SHOWN))
    parser.add_argument("--options", default="", help="further options of search, as one string")
    parser.add_argument("--cluster", help="run searches side by side: auto, local:N or an address")
    arguments = parser.parse_args()
    folder: Path = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for name, options in (("model.spatial", ()), ("diagonal", ("--pattern", "1001"))):
        if not (folder / f"{name}.onnx").exists():
            spatialonnx(
                "insert", str(arguments.model), "-o", str(folder / f"{name}.onnx"), *options
            )
    data = ["--data", arguments.data, "--search-samples", arguments.samples]
    data += ["--verify-samples", arguments.verify, "--threads", "1"]
    answers: dict[str, dict[int, dict[str, Any]]] = {}
    more = (*data, "--eps", arguments.eps, *arguments.options.split())
    runs = [(row, seed) for seed in arguments.seeds for row in arguments.rows]
    for (row, seed), answer in search_all(folder, runs, more, arguments.cluster):
        answers.setdefault(row, {})[seed] = answer
    answers = {row: dict(sorted(answers[row].items())) for row in arguments.rows if row in answers}
    for seed in arguments.seeds:
        dense = results_of(answers[arguments.rows[0]][seed])[0]["baseline"]["top1"]
        answers.setdefault(DIAGONAL, {})[seed] = diagonal(folder, seed, dense, data)
    print_table(answers)


if __name__ == "__main__":
    main()
