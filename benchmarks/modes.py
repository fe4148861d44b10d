"""Compares the four modes: MACs saved and drop on verify, over split seeds.

    python benchmarks/modes.py models/pretrained/resnet18-w16-fashion-mnist.onnx

Searches are greedy, as in the report, and journalled: the same command continues where it stopped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

MODES = ("uniform-layer", "uniform-filter", "uniform-patch", "max-granularity")


def spatialonnx(*arguments: str) -> dict[str, Any]:
    """Runs spatialonnx in a process of this interpreter; returns the object that it prints."""
    command = [sys.executable, "-m", "spatialonnx", *arguments, "--json"]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if result.returncode not in (0, 3):  # 3: a bound is missed, which is a result
        raise SystemExit(f"{' '.join(command)} failed with {result.returncode}")
    value: dict[str, Any] = json.loads(result.stdout)
    return value


def spread(values: Sequence[float], scale: float = 100.0, digits: int = 1) -> str:
    """Mean and range, in per cent."""
    low, high = scale * min(values), scale * max(values)
    return f"{scale * mean(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def main() -> None:
    """Searches each mode with each seed and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("build/modes"))
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--samples", default="500", help="search samples")
    parser.add_argument("--eps", default="0.01,0.02")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument(
        "--max-clusters", default="10", help="largest number of clusters, for max-granularity"
    )
    parser.add_argument("--options", default="", help="further options of search, as one string")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    spatial = folder / "model.spatial.onnx"
    if not spatial.exists():
        spatialonnx("insert", str(arguments.model), "-o", str(spatial))
    found: dict[tuple[str, float], list[dict[str, Any]]] = {}
    runs: dict[str, list[dict[str, Any]]] = {mode: [] for mode in arguments.modes}
    for seed in arguments.seeds:
        for mode in arguments.modes:
            clusters = ["--max-clusters", arguments.max_clusters]
            answer = spatialonnx(
                "search", str(spatial), "--strategy", "greedy", "--mode", mode,
                "--eps", arguments.eps, "--data", arguments.data,
                "--search-samples", arguments.samples,
                "--seed", str(seed), "--study", str(folder / f"{mode}.{seed}.study.db"),
                "-o", str(folder / f"{mode}.{seed}.masked.onnx"),
                *(clusters if mode == "max-granularity" else []), *arguments.options.split(),
            )  # fmt: skip
            runs[mode].append(answer)
            for result in answer.get("results", [answer]):
                found.setdefault((mode, result["eps"]), []).append(result)
            print(f"{mode}, seed {seed}: {answer['trials']} trials", file=sys.stderr)
    print("| mode | eps | MACs saved, % | drop, points | bound met | trials | minutes |")
    print("|---|---|---|---|---|---|---|")
    for mode, eps in sorted(found, key=lambda key: (arguments.modes.index(key[0]), key[1])):
        results = found[mode, eps]
        verify = [result["verify"] for result in results]
        met = sum(result["bound_met"] for result in results)
        print(
            f"| {mode} | {eps:g} | {spread([v['saved_fraction'] for v in verify])} "
            f"| {spread([v['drop'] for v in verify])} | {met} of {len(results)} "
            f"| {mean([r['trials'] for r in runs[mode]]):.0f} "
            f"| {mean([r['trial_seconds'] for r in runs[mode]]) / 60:.1f} |"
        )


if __name__ == "__main__":
    main()
