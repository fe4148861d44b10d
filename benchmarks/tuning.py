"""Tunes networks, counts again what they save and lose, and trains their thinner rivals.

    python benchmarks/tuning.py w16-45 w16-55 vgg6 --seeds 0,1,2 --threads 1
    python benchmarks/tuning.py w16-45 --rival

Every row tunes one network with `spatialonnx tune`; the drop on verify is the command's own, the
count on the 2,000 images that verify leaves is `benchmarks/independent.py`'s. The rival is the same
network made thinner until its MACs are those that the tuned one keeps, trained with as many passes
and the same teacher. Commands are printed, and what is there already is not made again.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

import spatialonnx
from spatialonnx.graph.ops import find_predictors, write_plan
from spatialonnx.model.model_file import save_model
from spatialonnx.plan.masks import full_mask, uniform_mask

PRETRAINED = Path("models/pretrained")
UNLABELLED = 5000
"""Images of the row without labels."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        model: The dense network.
        saved: Goal, as a fraction of all MACs.
        eps: Bound.
        epochs: Passes.
        options: Further options of `tune`.
        network: The rival's name in `models.train`, its width and its teacher; None = no rival.
        search: Options of a search whose plan tuning starts from; empty = a probe per 2 x 2 patch.
        first: Options of a tuning from that plan, before the row's own; empty = there is none.
        again: Options of a search in what the first tuning gave, whose plan the row's starts from.
        last: Sites at the end with a probe per 4 x 4 patch, the first site being off: where the
            maps are small, whole channels of an image die.
    """

    model: Path
    saved: float
    eps: float
    epochs: int
    options: str = ""
    network: tuple[str, int, Path] | None = None
    search: str = ""
    first: str = ""
    again: str = ""
    last: int = 0


JOINT = "--strategy joint --mode uniform-patch --patch-size 2,3,4 --metric agreement"
W16 = PRETRAINED / "resnet18-w16-fashion-mnist.onnx"
VGG6 = PRETRAINED / "vgg6-fashion-mnist.onnx"
W64 = Path("build/tuning/resnet18-w64-fashion-mnist.onnx")
THINNER_W16 = ("resnet18", 16, W16.with_suffix(".safetensors"))
ROWS = {
    "w16-45": Row(
        *(W16, 0.45, 0.005, 6, "--flip"), network=THINNER_W16, search=f"{JOINT} --eps 0.08"
    ),
    "w16-45-twice": Row(
        *(W16, 0.45, 0.005, 6, "--flip --lr 0.03"),
        network=THINNER_W16,
        search=f"{JOINT} --eps 0.08",
        first="--saved 0.42 --epochs 4 --flip",
        again=f"{JOINT} --eps 0.06",
    ),
    "w16-55": Row(
        *(W16, 0.55, 0.01, 6, "--flip"), network=THINNER_W16, search=f"{JOINT} --eps 0.2"
    ),
    "w16-no-labels": Row(
        *(W16, 0.30, 0.01, 12),
        "--no-labels --metric top1 --flip --crop 2 --mix 0.5 --lr 0.03",
        search=f"{JOINT} --eps 0.06",
    ),
    "vgg6": Row(VGG6, 0.64, 0.005, 8, "--flip --crop 1", last=1),
    "w64": Row(W64, 0.60, 0.005, 3, "--lr 0.03 --flip", last=4),
}


def run(line: Sequence[object]) -> str:
    """Prints a command and runs it; returns its standard output."""
    words = [str(word) for word in line]
    print("$ " + shlex.join(words), flush=True)
    start = [sys.executable, "-m"] if words[0] == "spatialonnx" else []
    done = subprocess.run([*start, *words], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, 3):  # 3: the bound is missed, and the model kept
        raise SystemExit(f"exit code {done.returncode}")
    return done.stdout


def tune(
    folder: Path, name: str, seed: int, epochs: int | None, threads: int, further: str = ""
) -> Path:
    """Tunes a row's network with a seed; returns the model, whether or not it met its bound."""
    row = ROWS[name]
    tuned = folder / f"{name}.{seed}.masked.onnx"
    if found := made(tuned):
        return found
    if row.first:
        start = search_again(folder, name, seed, threads)
    elif row.search:
        start = search(folder, name, seed, threads)
    else:
        start = by_hand(folder, name) if row.last else row.model
    own = ["--pattern", 1000] if start == row.model else ["--baseline", row.model]
    line = [start, *own]
    line += ["--saved", row.saved, "--eps", row.eps, "--epochs", epochs or row.epochs]
    line += [*row.options.split(), *further.split()]
    if "--no-labels" in row.options:
        line += ["--train", f"npz:{unlabelled(folder)}"]
    return run_tune(line, tuned, seed, threads)


def run_tune(line: Sequence[object], tuned: Path, seed: int, threads: int) -> Path:
    """Runs `tune`, from its journal where there is one; returns the model."""
    line = ["spatialonnx", "tune", *line, "--seed", seed, "--threads", threads, "-o", tuned]
    if tuned.with_name(tuned.name + ".journal").exists():
        line.append("--resume")
    run(line)
    return made(tuned) or tuned


def made(masked: Path) -> Path | None:
    """A model that is there already, whether or not it met its bound."""
    missed = masked.with_name(masked.name.replace(".onnx", ".missed.onnx"))
    return next((path for path in (masked, missed) if path.exists()), None)


def by_hand(folder: Path, name: str) -> Path:
    """Writes the plan of a row whose last sites have larger patches; returns the masked model."""
    path = folder / f"{name}.start.masked.onnx"
    spatial = spatialonnx.insert(ROWS[name].model).model
    first, *others = [predictor.site for predictor in find_predictors(spatial)]
    larger = others[-ROWS[name].last :]
    plan = {s: uniform_mask(4, 1 << 5) if s in larger else uniform_mask(2, 1) for s in others}
    save_model(write_plan(spatial, {first: full_mask(2), **plan}), path)
    return path


def search(folder: Path, name: str, seed: int, threads: int) -> Path:
    """Searches the plan that a row's tuning starts from; returns the masked model.

    The seed is that of the tuning: what certifies may not have chosen the plan.
    """
    row = ROWS[name]
    spatial, masked = folder / f"{name}.spatial.onnx", folder / f"{name}.{seed}.start.masked.onnx"
    if not masked.exists():
        run(["spatialonnx", "insert", row.model, "-o", spatial, "--force"])
        line = ["spatialonnx", "search", spatial, "--data", "fashion-mnist", *row.search.split()]
        run([*line, "--seed", seed, "--threads", threads, "-o", masked])
    return masked


def search_again(folder: Path, name: str, seed: int, threads: int) -> Path:
    """Tunes a row's network a first time, and searches a plan in what that gave.

    A tuned network has patches to skip that the original has not.
    """
    row = ROWS[name]
    again = folder / f"{name}.{seed}.again.masked.onnx"
    if found := made(again):
        return found
    first = folder / f"{name}.{seed}.first.masked.onnx"
    if (tuned := made(first)) is None:
        line = [search(folder, name, seed, threads), "--baseline", row.model, "--eps", row.eps]
        tuned = run_tune([*line, *row.first.split()], first, seed, threads)
    line = ["spatialonnx", "search", tuned, "--baseline", row.model, "--data", "fashion-mnist"]
    run([*line, *row.again.split(), "--seed", seed, "--threads", threads, "-o", again])
    return made(again) or again


def unlabelled(folder: Path) -> Path:
    """Training images without their labels, as `--train` takes them."""
    from spatialonnx.data.opening import open_dataset

    path = folder / "unlabelled.npz"
    if not path.exists():
        data = open_dataset("fashion-mnist:train")
        chosen = np.random.default_rng(0).permutation(len(data))[:UNLABELLED].astype(np.int64)
        np.savez(path, x=data.images(chosen))
    return path


def report(folder: Path, name: str, seed: int, tuned: Path) -> None:
    """Prints a line of the table, and the independent count."""
    metadata = {p.key: p.value for p in onnx.load(str(tuned)).metadata_props}
    search = json.loads(metadata["spatialonnx.search"])
    verify = search["verify"]
    low, high = (100 * limit for limit in verify["drop_ci95"])
    print("| row | seed | saved, % | drop on verify, points (95 %) | bound met |")
    print("|---|---|---|---|---|")
    print(
        f"| {name} | {seed} | {100 * verify['saved_fraction']:.1f} | {100 * verify['drop']:.2f} "
        f"({low:.2f} to {high:.2f}) | {'yes' if search['bound_met'] else 'no'} |"
    )
    line = [sys.executable, "benchmarks/independent.py", tuned, "--original", ROWS[name].model]
    # The split has the seed of the tuning.
    print(run([*line, "--seed", seed]))


def train_rival(folder: Path, name: str, tuned: Path, epochs: int | None, threads: int) -> None:
    """Trains the same network, thinner, and prints its accuracy beside the tuned one's."""
    row = ROWS[name]
    if row.network is None:
        raise SystemExit(f"{name} has no rival")
    network, width, teacher = row.network
    metadata = {p.key: p.value for p in onnx.load(str(tuned)).metadata_props}
    kept = 1 - json.loads(metadata["spatialonnx.search"])["verify"]["saved_fraction"]
    thin = max(1, round(width * math.sqrt(kept)))
    rival = folder / f"{network}-w{thin}.onnx"
    if not rival.exists():
        line = [sys.executable, "-m", "models.train", network, "--width", thin]
        line += ["--data", "fashion-mnist", "--epochs", epochs or row.epochs, "--lr", 0.1]
        line += ["--teacher", teacher, "--precision", "bf16", "--threads", threads, "-o", rival]
        run(line)
    for path in (row.model, tuned, rival):
        line = ["spatialonnx", "evaluate", path, "--data", "fashion-mnist", "--split", "verify"]
        value = json.loads(run([*line, "--json"]))
        macs = value["macs"]
        computed = (macs["conv_total"] - macs["saved"]) / value["accuracy"]["samples"]
        top1 = value["accuracy"]["top1"]
        print(f"| {path.name} | {100 * top1:.2f} % on verify | {computed / 1e6:.2f} million MACs |")


def main() -> None:
    """Runs the rows asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("rows", nargs="+", choices=list(ROWS))
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--epochs", type=int, help="other passes than the row's")
    parser.add_argument("--further", default="", help='options of tune, for example "--crop 1"')
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("build/tuning"))
    parser.add_argument("--rival", action="store_true", help="also train the thinner network")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.rows:
        for seed in (int(part) for part in options.seeds.split(",")):
            tuned = tune(
                *(options.folder, name, seed, options.epochs, options.threads), options.further
            )
            report(options.folder, name, seed, tuned)
            if options.rival:
                train_rival(options.folder, name, tuned, options.epochs, options.threads)


if __name__ == "__main__":
    main()
