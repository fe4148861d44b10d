"""Claim: ``optimize`` takes networks that were not trained for it, and says early what it can gain.

    python benchmarks/optimize_networks.py vgg6=models/pretrained/vgg6-fashion-mnist.onnx
    python benchmarks/optimize_networks.py --dry-run "vgg16=vgg16.onnx --data fashion-mnist
        --image-size 240x240 --metric agreement --search-samples 60 --select-samples 60
        --verify-samples 120"

Every network is given as NAME=MODEL and further options of ``spatialonnx optimize``. Each runs in a
process of its own; printed are the early verdict and when it came, the result, the time and the
peak memory. Results are kept in the folder, so the same command continues; times are then those of
the last run.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spatialonnx.runtime.machine import describe_machine, instruction_set, versions

COLUMNS = [
    *("network", "sites", "early verdict after, s", "float32: may gain, at best"),
    *("int8: may gain, at best", "result", "drop, points", "to float32"),
    *("time, s", "processor s", "peak, MB"),
]


def run(name: str, words: Sequence[str], folder: Path, extra: Sequence[str]) -> dict[str, Any]:
    """Runs the command; returns what it prints, with time and peak memory."""
    model, *options = words
    line = [sys.executable, "-m", "spatialonnx", "optimize", model, "-o", str(folder / name)]
    line += [*options, *extra, "--json"]
    print(f"$ {shlex.join(line[2:])}", file=sys.stderr, flush=True)
    start = time.monotonic()
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if not text.strip():
        return {"failed": code}
    value: dict[str, Any] = json.loads(text)
    spent = {"wall": time.monotonic() - start, "processor": usage.ru_utime + usage.ru_stime}
    return {**value, **spent, "peak": usage.ru_maxrss * 1024}


def row(name: str, value: dict[str, Any]) -> str:
    """One row of the table."""
    if "failed" in value:
        return f"| {name} | exit code {value['failed']} |" + " |" * (len(COLUMNS) - 2)
    verdict = value["verdict"]
    sites = verdict["sites"]
    cells = [name, str(len(sites)), f"{verdict['seconds']:.0f}"]
    for precision in ("float32", "int8"):
        if precision not in verdict["best"]:
            cells.append("-")
            continue
        gaining = sum(_may_gain(site, precision) for site in sites)
        cells.append(f"{gaining}, {verdict['best'][precision]:.2f}")
    best = next((r for r in value["optimized"] if r["name"] == value["best"]), None)
    if best is None:
        cells += ["-", "-", "-"]
    else:
        cells += [best["name"], f"{100 * best['drop']:.2f}", f"{best['ratio']:.3f}"]
    cells += [f"{value[key]:.0f}" for key in ("wall", "processor")]
    cells.append(f"{value['peak'] / 1e6:.0f}")
    return f"| {' | '.join(cells)} |"


def _may_gain(site: dict[str, Any], precision: str) -> bool:
    needed = site["needed"].get(precision)
    return needed is not None and site["most"] >= needed


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("networks", nargs="+", help="NAME=MODEL and options of optimize")
    parser.add_argument("--folder", type=Path, default=Path("build/optimize_networks"))
    parser.add_argument("--dry-run", action="store_true", help="only the early verdicts")
    parser.add_argument("--threads", default="0")
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    extra = ["--threads", options.threads, *(["--dry-run"] if options.dry_run else [])]
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    for text in options.networks:
        name, _, rest = text.partition("=")
        lines.append(row(name, run(name, shlex.split(rest), options.folder, extra)))
        print(lines[-1], file=sys.stderr, flush=True)
    print("\n".join(lines))
    machine, known = describe_machine(), versions()
    print(
        f"\n{machine['processor']}, {machine['processors']} processors, {instruction_set()}, 8 bit "
        f"{instruction_set('int8')}, onnxruntime {known['onnxruntime']}"
    )


if __name__ == "__main__":
    main()
