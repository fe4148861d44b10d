"""Searches of the tiny network: jobs, and a search that is killed again and again."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from support.trained import RUNTIME, TinyFiles

from spatialonnx.data.opening import open_dataset
from spatialonnx.data.split import split_pool
from spatialonnx.graph.ops import read_plan
from spatialonnx.measure.experiment import Experiment
from spatialonnx.measure.metrics import TOP1
from spatialonnx.model.model_file import load_model
from spatialonnx.plan.bounds import parse_bounds
from spatialonnx.runtime.progress import Progress, ProgressCallback
from spatialonnx.searching.job import SearchFiles, SearchJob
from spatialonnx.searching.run import search_masks
from spatialonnx.searching.settings import Settings
from spatialonnx.searching.study import Study

PATTERNS = {2: (1, 6, 8, 9, 14)}


def make_job(files: TinyFiles, folder: Path, eps: str = "0.05", **changes: Any) -> SearchJob:
    """A greedy search of the tiny network that writes into a folder."""
    dataset = changes.pop("dataset", None) or open_dataset(files.spec)
    experiment = Experiment(
        model=load_model(files.spatial),
        dataset=dataset,
        split=split_pool(len(dataset), 0),
        runtime=RUNTIME,
        metric=TOP1,
        bounds=parse_bounds(eps),
    )
    job = SearchJob(
        experiment,
        Settings(strategy="greedy", patterns=PATTERNS),
        SearchFiles(folder / "study.db", folder / "out.masked.onnx"),
    )
    return change_job(job, **changes)


def change_job(job: SearchJob, **changes: Any) -> SearchJob:
    """A job with other fields, whichever of its parts holds them."""
    parts = {"experiment": job.experiment, "files": job.files, "budget": job.budget}
    for name, part in parts.items():
        own = {k: changes.pop(k) for k in list(changes) if k in part.__dataclass_fields__}
        changes[name] = replace(part, **own)
    return replace(job, **changes)


def read_journal(path: Path) -> list[list[Any]]:
    """Every record of a study, times left out."""
    with Study(path, readonly=True) as study:
        return [
            [
                record.pass_name,
                record.target,
                record.option,
                record.plan_key,
                str(record.outcome.score),
                record.outcome.saved,
                record.outcome.kl,
                str(record.outcome.rejected_at),
            ]
            for record in study.records()
        ]


def read_masks(path: Path) -> dict[str, Any]:
    """The plan that a model carries, as lists."""
    plan = read_plan(load_model(path).proto)
    return {site: [mask.patch_size, mask.patterns.tolist()] for site, mask in plan.items()}


def log_runs(log: Path) -> None:
    """Notes every trial that is run and journalled, in a file of its own."""
    add = Study.add

    def noted(self: Study, key: str, *args: Any) -> None:
        add(self, key, *args)
        with log.open("a") as stream:
            stream.write(f"{key}\n")

    Study.add = noted  # type: ignore[method-assign]


def die_at(seed: int) -> ProgressCallback:
    """Kills this process some trials from now, at a random moment."""
    draw = random.Random(seed)
    left = [draw.randint(1, 9)]

    def trial(progress: Progress) -> None:
        left[0] -= progress.best_saved is not None
        if left[0] == 0:
            delay = draw.random() * 0.01
            threading.Thread(target=kill_after, args=(delay,), daemon=True).start()

    return trial


def kill_after(seconds: float) -> None:
    """``kill -9`` on this very process."""
    time.sleep(seconds)
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Arguments: spatial model, data, folder, number of kills. Writes what came of it as JSON.

    Every search is a forked process, so that everything is imported once.
    """
    spatial, data, folder = map(Path, sys.argv[1:4])
    kills = int(sys.argv[4])
    files = TinyFiles(spatial, spatial, data)
    endings = []
    for attempt in range(kills + 1):
        child = os.fork()
        if child == 0:
            log_runs(folder / "runs.txt")
            progress = die_at(attempt) if attempt < kills else None
            search_masks(make_job(files, folder), progress)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        endings.append(os.waitstatus_to_exitcode(status))
    runs = (folder / "runs.txt").read_text().split()
    sys.stdout.write(json.dumps({"endings": endings, "runs": runs}))


if __name__ == "__main__":
    main()
