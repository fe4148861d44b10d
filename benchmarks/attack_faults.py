"""Kills and faults of searches: each is followed by the same command, which must finish the work.

A run of a search is ended by ``kill -9``, by Ctrl-C or SIGTERM at a random moment, or by a limit of
file size that a write meets; or its folder for temporary files is missing. It must leave in one of
its ways, without a traceback. Then the same command runs undisturbed: the records of its study and
the masks of its model must be those of a search that nothing disturbed.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from spatialonnx.graph.ops import read_plan
from spatialonnx.model.model_file import load_model
from spatialonnx.searching.study import Study

SEARCH = (
    *("search", "m.spatial.onnx", "--data", "npz:d.npz", "--eps", "0.5", "--threads", "1"),
    *("--mode", "uniform-patch", "--strategy", "greedy", "--patterns", "1001,0110,1000"),
    *("--quiet", "--accept-baseline"),
    *("--study", "f.db", "-o", "f.masked.onnx"),
)
KINDS = ("kill", "kill", "interrupt", "terminate", "file size", "temporary folder")
ALLOWED = {
    "kill": {-signal.SIGKILL, 0, 3},
    "interrupt": {0, 3, 130},
    "terminate": {0, 3, 143, -signal.SIGTERM},  # the system's own way, before imports end
    "file size": {0, 2, 3, 4},
    "temporary folder": {0, 2, 3, 4},
}


def search(folder: Path, **options: Any) -> subprocess.Popen[str]:
    """Starts the search in a folder."""
    take = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    program = f"{take}; from spatialonnx.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-B", "-c", program, *SEARCH],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def found(folder: Path) -> tuple[list[Any], dict[str, Any]]:
    """Records and masks, without times."""
    with Study(folder / "f.db", readonly=True) as study:
        records = [
            (r.pass_name, r.target, r.option, r.plan_key, r.outcome.score, r.outcome.saved)
            for r in study.records()
        ]
    plan = read_plan(load_model(next(folder.glob("f.masked*.onnx"))).proto)
    return records, {site: mask.patterns.tolist() for site, mask in plan.items()}


def disturb(folder: Path, kind: str, rng: random.Random, whole: float) -> tuple[int, str]:
    """Runs the search with one fault; returns its exit code and what it said."""
    options: dict[str, Any] = {}
    if kind == "file size":
        most = rng.choice((0, 1, 4096, 5000, 8192, 20_000, 50_000, rng.randrange(1, 100_000)))
        options["preexec_fn"] = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    if kind == "temporary folder":
        missing = rng.choice(("/nowhere", str(folder / "m.onnx")))
        options["env"] = {**os.environ, "TMPDIR": missing, "TEMP": missing, "TMP": missing}
    process = search(folder, **options)
    number = {
        "kill": signal.SIGKILL,
        "interrupt": signal.SIGINT,
        "terminate": signal.SIGTERM,
    }.get(kind)
    if number is not None:
        try:
            # Not while the interpreter itself starts, which no program can answer for.
            _wait_for_start(process)
            process.wait(rng.random() * whole)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
    _, said = process.communicate()
    return process.returncode, said


def _wait_for_start(process: subprocess.Popen[str], seconds: float = 0.3) -> None:
    """Waits until a process has used so much processor time, or has ended."""
    watched = psutil.Process(process.pid)
    while process.poll() is None and sum(watched.cpu_times()[:2]) < seconds:
        time.sleep(0.02)


def run_faults(prepared: Path, seed: int, first: int, count: int, seconds: float) -> int:
    """Runs the faults; returns 1 where something went wrong."""
    folder = prepared.parent / "run"
    shutil.copytree(prepared, folder)
    begun = time.monotonic()
    process = search(folder)
    process.communicate()
    whole, want = time.monotonic() - begun, found(folder)
    bad = runs = 0
    codes: dict[str, int] = {}
    for number in range(first, first + count):
        if time.monotonic() - begun > seconds:
            break
        runs += 1
        rng = random.Random(f"{seed}/{number}")
        shutil.rmtree(folder)
        shutil.copytree(prepared, folder)
        before = {path.name for path in folder.iterdir()}
        kind = rng.choice(KINDS)
        code, said = disturb(folder, kind, rng, whole)
        codes[f"{kind} {code}"] = codes.get(f"{kind} {code}", 0) + 1
        wrong = ""
        if code not in ALLOWED[kind]:
            wrong = f"exit code {code}"
        elif "Traceback" in said:
            wrong = "a traceback"
        again = search(folder)
        _, error = again.communicate()
        if not wrong and again.returncode not in (0, 3):
            wrong = f"the same command again: exit code {again.returncode}: {error}"
        elif not wrong and found(folder) != want:
            wrong = "the result differs"
        left = {path.name for path in folder.iterdir()} - before
        if not wrong and {name for name in left if not name.lstrip(".").startswith("f.")}:
            wrong = f"wrote {left}"
        if wrong:
            bad += 1
            print(f"run {number} ({kind}): {wrong}\n{said[-600:]}", flush=True)
    print(f"{bad} of {runs} went wrong; {dict(sorted(codes.items()))}")
    return int(bad > 0)
