"""Trains small networks on MNIST's sample and Fashion-MNIST, and measures what plans cost and save.

    python benchmarks/trained_networks.py --threads 1

Each network is trained with `models.train`, gets the diagonal plan of p = 2 and p = 3 with
`spatialonnx insert`, is measured with `evaluate` on the whole test split and searched (greedy,
uniform-layer). Commands are printed and their results kept in the folder, so the same command
continues where it stopped.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spatialonnx.model.metadata import get_json
from spatialonnx.model.model_file import load_model

DOCUMENT = Path(__file__).parents[1] / "models" / "README.md"
BEGIN = "<!-- table: benchmarks/trained_networks.py --write -->"
END = "<!-- end of table -->"

DIAGONALS = {2: "1001", 3: "100010001"}

TRAINING = {
    "mnist": {
        "alexnet": "--epochs 15 --lr 0.03 --no-flip",
        "resnet18": "--epochs 10 --lr 0.1 --no-flip",
        "resnet34": "--epochs 10 --lr 0.1 --no-flip",
        "vgg16_bn": "--epochs 15 --lr 0.05 --no-flip",
    },
    "fashion-mnist": {
        "alexnet": "--epochs 2 --lr 0.03",
        "resnet18": "--epochs 1 --lr 0.1",
        "resnet34": "--epochs 1 --lr 0.1",
        "vgg16_bn": "--epochs 2 --lr 0.05",
    },
}
"""Options of `models.train`, by data set and network."""

SEARCH = {"mnist": "", "fashion-mnist": "--search-samples 500"}
"""Options of `search`, by data set."""


@dataclass(frozen=True)
class Bench:
    """Where files go, and the options that all commands share.

    Attributes:
        folder: Where all files go.
        width: Channels of a network's first layer.
        threads: For training and for ONNX Runtime.
        precision: Number format of training.
        eps: The search's bound.
        select_confidence: The search's option of this name.
    """

    folder: Path
    width: int
    threads: int
    precision: str
    eps: str
    select_confidence: str

    def run(self, *line: str) -> subprocess.CompletedProcess[str]:
        """Runs a module in a process of this interpreter; returns its standard output."""
        print(f"python -m {shlex.join(line)}", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", *line]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode not in (0, 3):  # 3: a bound is missed, which is a result
            raise SystemExit(f"the line above failed with {done.returncode}")
        return done

    def ask(self, answer: Path, *line: str) -> dict[str, Any]:
        """Runs spatialonnx, or reads its earlier result."""
        if not answer.exists():
            threads = ("--threads", str(self.threads))
            answer.write_text(self.run("spatialonnx", *line, *threads, "--json").stdout)
        value: dict[str, Any] = json.loads(answer.read_text())
        return value

    def train(self, data: str, network: str) -> Path:
        """Trains a network, unless an earlier run did."""
        model = self.folder / f"{network}-{data}.onnx"
        if not model.exists():
            options = TRAINING[data][network].split()
            self.run(
                "models.train", network, "--width", str(self.width), "--data", self._spec(data),
                *options, "--precision", self.precision, "--threads", str(self.threads),
                "-o", str(model),
            )  # fmt: skip
        return model

    def diagonal(self, data: str, model: Path, p: int) -> dict[str, Any]:
        """Measures the diagonal in every patch of every site."""
        masked = model.with_suffix(f".d{p}.masked.onnx")
        if not masked.exists():
            pattern = ("--patch-size", str(p), "--pattern", DIAGONALS[p])
            self.run("spatialonnx", "insert", str(model), *pattern, "-o", str(masked), "--quiet")
        return self.ask(
            model.with_suffix(f".d{p}.json"),
            *("evaluate", str(masked), "--data", self._spec(data), "--split", "all", "--quiet"),
        )

    def search(self, data: str, model: Path) -> dict[str, Any]:
        """Searches one pattern per layer."""
        spatial = model.with_suffix(".spatial.onnx")
        if not spatial.exists():
            self.run("spatialonnx", "insert", str(model), "-o", str(spatial), "--quiet")
        return self.ask(
            model.with_suffix(".search.json"),
            *("search", str(spatial), "--strategy", "greedy"),
            *("--data", self._spec(data), "--eps", self.eps),
            *("--select-confidence", self.select_confidence, *SEARCH[data].split(), "--quiet"),
        )

    def _spec(self, data: str) -> str:
        return f"mnist@{self.folder / 'mnist'}" if data == "mnist" else data

    def row(self, data: str, network: str) -> str:
        """Computes one row of the table."""
        model = self.train(data, network)
        cells = [network, data, f"{100 * _baseline(model):.2f} %"]
        for p in DIAGONALS:
            answer = self.diagonal(data, model, p)
            saved = answer["macs"]["saved_fraction"]
            cells.append(f"{100 * answer['accuracy']['top1']:.2f} %, {100 * saved:.1f} %")
        answer = self.search(data, model)
        verify = answer["verify"]
        cells += [
            f"{100 * verify['saved_fraction']:.1f} %",
            f"{100 * verify['drop']:.2f} of {verify['samples']}"
            + ("" if answer["bound_met"] else ", missed"),
        ]
        return f"| {' | '.join(cells)} |"


def _baseline(model: Path) -> float:
    """Top-1 on the test split, as recorded by training."""
    top1: float = get_json(load_model(model).proto, "baseline")["top1"]
    return top1


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("build/trained"))
    parser.add_argument("--sets", nargs="+", choices=TRAINING, default=list(TRAINING))
    networks = list(TRAINING["mnist"])
    parser.add_argument("--networks", nargs="+", choices=networks, default=networks)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--precision", default="bf16", help="bf16 is slow without AMX; use float32 there"
    )
    parser.add_argument("--eps", default="0.01")
    parser.add_argument("--select-confidence", default="0.8")
    parser.add_argument("--write", action="store_true", help=f"put the table into {DOCUMENT}")
    options = parser.parse_args(arguments)
    bench = Bench(
        options.folder, options.width, options.threads, options.precision, options.eps,
        options.select_confidence,
    )  # fmt: skip
    bench.folder.mkdir(parents=True, exist_ok=True)
    if "mnist" in options.sets and not (bench.folder / "mnist").exists():
        bench.run("models.mnist_sample", str(bench.folder / "mnist"))
    lines = [
        "| network | data set | dense: top-1 | diagonal p = 2: top-1, saved "
        f"| diagonal p = 3: top-1, saved | search at eps {options.eps}: saved "
        "| drop on verify, points |",
        "|---|---|---|---|---|---|---|",
    ]
    for data in options.sets:
        for network in options.networks:
            lines.append(bench.row(data, network))
            print(lines[-1], file=sys.stderr, flush=True)
    print("\n".join(lines))
    if options.write:
        head, _, rest = DOCUMENT.read_text().partition(BEGIN)
        DOCUMENT.write_text(
            f"{head}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{rest.partition(END)[2]}"
        )


if __name__ == "__main__":
    main()
