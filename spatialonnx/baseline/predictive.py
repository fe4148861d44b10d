"""SnaPEA predictive: kernels guess zeros from a few MACs, chosen by SnaPEA's Algorithm 1.

The configuration that the algorithm stops at must also meet the bound on select; else the
algorithm goes on. The result is measured on verify. Under a plan of masks, the outputs that the
plan keeps guess, and one bound holds for what both lose together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spatialonnx.baseline.algorithm import Algorithm
from spatialonnx.baseline.comparison import Comparer, Row
from spatialonnx.baseline.exact import EarlySite, early_sites
from spatialonnx.baseline.kernels import Grid
from spatialonnx.baseline.nonnegative import Candidates
from spatialonnx.errors import UsageError
from spatialonnx.files import sha256_bytes
from spatialonnx.measure.experiment import Experiment
from spatialonnx.measure.measured import Measured
from spatialonnx.plan.plan import Plan, PlanLike, plan_key
from spatialonnx.runtime.progress import ProgressCallback, report_stage
from spatialonnx.runtime.session import runtime_version
from spatialonnx.searching.study import Study

MODE = "snapea-predictive"
METHOD = "SnaPEA predictive"


@dataclass(frozen=True)
class Under:
    """The plan under which kernels guess.

    Attributes:
        plan: Masks by site; empty = nothing is predicted from neighbours.
        name: Its name; empty without a plan.
    """

    plan: PlanLike = field(default_factory=Plan)
    name: str = ""

    @property
    def method(self) -> str:
        """Name of the row."""
        return f"{self.name} + {METHOD}" if self.name else METHOD


@dataclass(frozen=True)
class Predictive:
    """What Algorithm 1 chose, measured on verify.

    Attributes:
        row: Its row of the table.
        sites: MACs by site; what a plan predicts is not done.
        guessing: Kernels that guess.
        kernels: Kernels of the sites that SnaPEA supports.
        search: The configuration on the search samples.
        select: The same configuration on select.
        looked_at: Number of configurations measured on select.
        trials: Trials of the local and the global pass in the study.
        study: The journal.
        verify_reads: How often verify was read for this study.
    """

    row: Row
    sites: tuple[EarlySite, ...]
    guessing: int
    kernels: int
    search: Measured
    select: Measured
    looked_at: int
    trials: int
    study: Path
    verify_reads: int

    def to_json(self) -> dict[str, Any]:
        """The object that ``baseline --json`` prints."""
        return {
            "sites": [site.to_json() for site in self.sites],
            "guessing": self.guessing,
            "kernels": self.kernels,
            "search": self.search.to_json(),
            "select": {**self.select.to_json(), "looked_at": self.looked_at},
            "trials": self.trials,
            "study": str(self.study),
            "verify_reads": self.verify_reads,
        }


def search_guesses(
    comparer: Comparer,
    candidates: Candidates,
    grid: Grid,
    study_path: Path,
    progress: ProgressCallback | None = None,
    select_confidence: float | None = None,
    under: Under | None = None,
) -> Predictive:
    """Runs Algorithm 1, chooses on select and measures on verify.

    Trials are journalled: the same call continues a study.

    Args:
        comparer: Holds the network and the samples.
        candidates: The sites that SnaPEA may take.
        grid: The candidates that every kernel tries.
        study_path: The journal's file.
        progress: Called with how far it is.
        select_confidence: Of the upper limit on select; None = as on verify.
        under: The plan that is on in every trial; None = there is none.

    Raises:
        UsageError: The metric does not count right samples.
        StudyError: The study is another search's, or damaged.
    """
    experiment, under = comparer.experiment, under or Under()
    if not experiment.metric.counts:
        raise UsageError("snapea-predictive counts right samples: use --metric top1 or agreement")
    with Study(study_path) as study:
        about = study_about(experiment, candidates, grid, under.plan)
        if study.bind(study_key(about), about):
            text = f"continuing {study_path.name}: {study.count()} trials are done"
            report_stage(progress, text, warning=True)
        algorithm = Algorithm(comparer, candidates, grid, study, progress, under.plan)
        layers = [algorithm.local_pass(site) for site in candidates.names]
        looked_at = 0
        for step in algorithm.global_pass(layers):
            looked_at += 1
            report_stage(progress, f"select: configuration {looked_at}")
            select = algorithm.measure(step.guesses, experiment.select, select_confidence)
            if step.exact or select.holds(comparer.bound.eps(select.baseline)):
                break
        chosen = step.guesses
        report_stage(progress, "verify")
        reads = study.count_verify_read()
        run = algorithm.run(chosen, experiment.verify)
        guessing = sum(int((guess.heads > 0).sum()) for guess in chosen.values())
        kernels = sum(len(guess.heads) for guess in chosen.values())
        return Predictive(
            row=comparer.judge(
                under.method,
                run.outputs,
                run.saved(comparer.sites, len(experiment.verify)),
                f"{guessing} of {kernels} kernels guess",
            ),
            sites=early_sites(comparer, run),
            guessing=guessing,
            kernels=kernels,
            search=step.measured,
            select=select,
            looked_at=looked_at,
            trials=study.count(),
            study=study_path,
            verify_reads=reads,
        )


def study_about(
    experiment: Experiment, candidates: Candidates, grid: Grid, plan: PlanLike
) -> dict[str, Any]:
    """Everything that determines a trial's outcome; bounds are not part of it."""
    under = {"plan": plan_key(plan)} if plan else {}
    return {
        **under,
        "mode": MODE,
        "strategy": "algorithm 1",
        "model": experiment.model.sha256,
        "baseline": None if experiment.baseline is None else experiment.baseline.sha256,
        "data": experiment.data_name,
        "data fingerprint": experiment.dataset.fingerprint(),
        "samples": sha256_bytes(experiment.split.search.tobytes()),
        "seed": experiment.split.seed,
        "sites": list(candidates.names),
        "heads": list(grid.heads),
        "losses": list(grid.losses),
        "metric": experiment.metric.name,
        "provider": experiment.runtime.provider,
        "batch": experiment.batch,
        "onnxruntime": runtime_version(),
    }


def study_key(about: Mapping[str, Any]) -> str:
    """Hash of ``study_about``."""
    return sha256_bytes(json.dumps(about, sort_keys=True).encode())
