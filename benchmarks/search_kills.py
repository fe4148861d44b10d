"""Claim: ``kill -9`` at any moment costs a search only the trials that were running.

    python benchmarks/search_kills.py models/pretrained/resnet18-w16-fashion-mnist.onnx

The search of a real network is killed at random moments, ten times, and continued each time by the
same command. Its records and its masks must equal those of an undisturbed search, and no finished
trial may be lost.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spatialonnx.graph.ops import read_plan
from spatialonnx.model.model_file import load_model
from spatialonnx.searching.study import Study


def command(model: Path, folder: Path, options: Sequence[str]) -> list[str]:
    """The command of a search whose study and model are in a given folder."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        sys.executable, "-m", "spatialonnx", "search", str(model),
        "--study", str(folder / "search.study.db"), "-o", str(folder / "found.masked.onnx"),
        "--json", "--quiet", *options,
    ]  # fmt: skip


def finish(arguments: Sequence[str]) -> float:
    """Runs a search to its end; returns the seconds it took."""
    start = time.monotonic()
    done = subprocess.run(arguments, stdout=subprocess.DEVNULL, check=False)
    if done.returncode not in (0, 3):  # 3: the bound is missed, which is a result
        raise SystemExit(f"{' '.join(arguments)} failed with {done.returncode}")
    return time.monotonic() - start


def count_trials(path: Path) -> int:
    """Number of trials in a study, including one whose search was killed."""
    if not path.exists():
        return 0
    with Study(path, readonly=True) as study:
        return study.count()


def read_records(path: Path) -> list[list[Any]]:
    """Records in the order of the search, without times and costs."""
    with Study(path, readonly=True) as study:
        return [
            [
                *(record.pass_name, record.target, record.option, record.plan_key),
                *(record.outcome.score, record.outcome.saved, record.outcome.kl),
                record.outcome.rejected_at,
            ]
            for record in study.records()
        ]


def read_found(folder: Path) -> dict[str, Any]:
    """The masks that a search wrote."""
    path = next(folder.glob("found.masked*.onnx"))
    return {
        site: [mask.patch_size, mask.patterns.tolist()]
        for site, mask in read_plan(load_model(path).proto).items()
    }


def main() -> None:
    """Kills, continues, compares and prints the result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("build/search_kills"))
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments")
    parser.add_argument("--options", default="--data fashion-mnist --search-samples 500 --eps 0.01")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    if folder.exists():
        raise SystemExit(f"{folder} exists: remove it, or give another --folder")
    folder.mkdir(parents=True)
    spatial = folder / "model.spatial.onnx"
    insert = [sys.executable, "-m", "spatialonnx", "insert", str(arguments.model)]
    subprocess.run([*insert, "-o", str(spatial), "--quiet"], check=True)
    options = arguments.options.split()
    whole = finish(command(spatial, folder / "whole", options))
    draw = random.Random(arguments.seed)
    killed = command(spatial, folder / "killed", options)
    study = folder / "killed" / "search.study.db"
    done, kills = [], 0
    while kills < arguments.kills:
        process = subprocess.Popen(killed, stdout=subprocess.DEVNULL)
        try:
            process.wait(timeout=1 + draw.random() * whole / arguments.kills)
            break  # it finished before the kill
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
            done.append(count_trials(study))
    finish(killed)
    records = [read_records(folder / name / "search.study.db") for name in ("whole", "killed")]
    masks = [read_found(folder / name) for name in ("whole", "killed")]
    trials = [count_trials(folder / name / "search.study.db") for name in ("whole", "killed")]
    result = {
        "kills": kills,
        "seed": arguments.seed,
        "trials_after_each_kill": done,
        "trials": trials,
        "records": len(records[0]),
        "records_identical": records[0] == records[1],
        "masks_identical": masks[0] == masks[1],
        "no_trial_lost": done == sorted(done),
    }
    print(json.dumps(result, indent=2))
    if not (result["records_identical"] and result["masks_identical"] and result["no_trial_lost"]):
        raise SystemExit("a search that was killed differs from one that was not")


if __name__ == "__main__":
    main()
