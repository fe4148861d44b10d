"""A comparison: which systems are measured, and the table that they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spatialonnx.baseline.comparison import Comparer, Row
from spatialonnx.baseline.diagonal import Diagonal, measure_diagonals
from spatialonnx.baseline.exact import Exact, measure_exact, measure_together
from spatialonnx.baseline.kernels import Grid
from spatialonnx.baseline.nonnegative import Candidates, find_candidates
from spatialonnx.baseline.predictive import Predictive, search_guesses, study_key
from spatialonnx.baseline.studies import Found, find_studies, measure_studies, missing_studies
from spatialonnx.errors import ModelError, UsageError
from spatialonnx.graph.insert import insert
from spatialonnx.graph.ops import find_predictors, read_plan
from spatialonnx.measure.experiment import Experiment
from spatialonnx.model.model_file import ModelFile
from spatialonnx.plan.patterns import PATCH_SIZES
from spatialonnx.plan.plan import Plan
from spatialonnx.runtime.progress import ProgressCallback, count_steps, report_stage
from spatialonnx.runtime.session import Runtime

DIAGONAL, EXACT, PREDICTIVE = "diagonal", "snapea-exact", "snapea-predictive"
STUDIES, BOTH = "studies", "both"
METHODS = (DIAGONAL, EXACT, PREDICTIVE, STUDIES, BOTH)
_EARLY = (EXACT, PREDICTIVE, BOTH)
"""Those that stop sums early."""


@dataclass(frozen=True)
class Choices:
    """What may be chosen about the methods.

    Attributes:
        patch_sizes: Of the diagonal pattern.
        grid: What every kernel of SnaPEA predictive tries.
        study: The journal of its search; None = beside the model.
        studies: Studies of searches of masks, files or folders; none = those beside the model.
        select_confidence: Of the upper limit that must hold on select; None = as on verify.
    """

    patch_sizes: tuple[int, ...] = PATCH_SIZES
    grid: Grid = field(default_factory=Grid)
    study: Path | None = None
    studies: tuple[Path, ...] = ()
    select_confidence: float | None = None


@dataclass(frozen=True)
class Comparison:
    """What was measured.

    Attributes:
        experiment: What all systems have in common.
        rows: One a system; the dense network first.
        diagonals: The diagonal pattern's taxonomy, by patch size.
        candidates: The sites that SnaPEA may take; None where no method needs them.
        exact: SnaPEA exact, by site.
        predictive: SnaPEA predictive, by site.
        found: What searches of masks found.
        missing: Rows that the table lacks, and why.
    """

    experiment: Experiment
    rows: tuple[Row, ...]
    diagonals: tuple[Diagonal, ...] = ()
    candidates: Candidates | None = None
    exact: Exact | None = None
    predictive: Predictive | None = None
    found: tuple[Found, ...] = ()
    missing: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The object that ``baseline --json`` prints."""
        experiment = self.experiment
        parts = experiment.split.search, experiment.split.select, experiment.split.verify
        value: dict[str, Any] = {
            "model": str(experiment.model.path),
            "data": experiment.dataset.name,
            "eps": str(experiment.bounds[0]),
            "samples": dict(zip(("search", "select", "verify"), map(len, parts), strict=True)),
            "seed": experiment.split.seed,
            "batch": experiment.batch,
            "threads": experiment.runtime.threads,
            "baseline": {"score": float(self.rows[0].measured.baseline)},
            "rows": [row.to_json() for row in self.rows],
            "missing": list(self.missing),
            "diagonal": [diagonal.to_json() for diagonal in self.diagonals],
            "studies": [found.to_json() for found in self.found],
        }
        if self.candidates is not None:
            value["snapea"] = self.candidates.to_json()
        if self.exact is not None:
            value["snapea_exact"] = self.exact.to_json()
        if self.predictive is not None:
            value["snapea_predictive"] = self.predictive.to_json()
        return value


def prepare_model(model: ModelFile, runtime: Runtime) -> ModelFile:
    """The model with SpatialPredict nodes; a user's own model gets them in memory.

    Raises:
        ModelError: It is a deployed model, or has no site.
    """
    if model.stage == "deploy":
        raise ModelError(
            f"{model.path} is deployed: name the original model, or model.spatial.onnx"
        )
    if find_predictors(model.proto):
        return model
    inserted = insert(model, threads=runtime.threads)
    return ModelFile(model.path, inserted.model, model.sha256)


def compare_systems(
    experiment: Experiment,
    methods: Sequence[str],
    choices: Choices | None = None,
    progress: ProgressCallback | None = None,
) -> Comparison:
    """Measures systems on verify.

    Args:
        experiment: What they have in common.
        methods: Names out of ``METHODS``.
        choices: What may be chosen about them.
        progress: Told how far it got.

    Raises:
        UsageError: A method is unknown, or there is no plan to stop early below.
    """
    choices = choices or Choices()
    check_methods(methods)
    # Damaged or foreign studies are found out before anything is run.
    paths = find_studies(choices.studies, experiment.model.path) if STUDIES in methods else []
    report_stage(progress, "running the dense network")
    comparer = Comparer(experiment)
    rows = [comparer.measure_dense()]
    missing: list[str] = []
    diagonals: list[Diagonal] = []
    if DIAGONAL in methods:
        report_stage(progress, "diagonal patterns")
        diagonals = list(
            measure_diagonals(
                comparer, choices.patch_sizes, count_steps(progress, "diagonal patterns")
            )
        )
        rows += [diagonal.row for diagonal in diagonals]
    candidates: Candidates | None = None
    if set(methods) & set(_EARLY):
        report_stage(progress, "looking for inputs that are never negative")
        candidates = find_candidates(experiment)
    exact: Exact | None = None
    if EXACT in methods and candidates is not None:
        report_stage(progress, "SnaPEA exact")
        exact = measure_exact(comparer, candidates, count_steps(progress, "SnaPEA exact"))
        rows.append(exact.row)
    predictive: Predictive | None = None
    if PREDICTIVE in methods and candidates is not None:
        study = choices.study or default_study(experiment, candidates, choices.grid)
        predictive = search_guesses(
            comparer, candidates, choices.grid, study, progress, choices.select_confidence
        )
        rows.append(predictive.row)
    found: list[Found] = []
    if STUDIES in methods:
        found, left_out = measure_studies(
            comparer, paths, progress, choices.select_confidence, strict=bool(choices.studies)
        )
        rows += [one.row for one in found]
        missing += [f"{name}: no study of such a search" for name in missing_studies(found)]
        missing += list(left_out.values())
    if BOTH in methods and candidates is not None:
        name, plan = _best_plan(experiment, found)
        if plan:
            report_stage(progress, "prediction and SnaPEA exact together")
            rows.append(
                measure_together(
                    comparer, candidates, plan, name, count_steps(progress, "together")
                )
            )
        else:
            missing.append(f"both together: {name}")
    return Comparison(
        experiment=experiment,
        rows=tuple(rows),
        diagonals=tuple(diagonals),
        candidates=candidates,
        exact=exact,
        predictive=predictive,
        found=tuple(found),
        missing=tuple(missing),
    )


def _best_plan(experiment: Experiment, found: Sequence[Found]) -> tuple[str, Plan]:
    """The plan that saves most on select, and its name; else the plan that the model carries.

    Where there is none, the name says why.
    """
    if found:
        best = max(found, key=lambda one: one.select.saved_fraction)
        if best.plan:
            return best.row.method, best.plan
        return "no search found a plan within the bound", Plan()
    carried = read_plan(experiment.model.proto).predicting
    return (experiment.model.path.name if carried else "no plan of masks was found"), carried


def default_study(experiment: Experiment, candidates: Candidates, grid: Grid) -> Path:
    """Beside the model, named after what decides its trials."""
    path = experiment.model.path
    stem = path.name.removesuffix(".onnx").removesuffix(".spatial").removesuffix(".masked")
    key = study_key(experiment, candidates, grid)
    return path.with_name(f"{stem}.{PREDICTIVE}.{key[:8]}.study.db")


def check_methods(methods: Sequence[str]) -> None:
    """Makes sure that every method is one.

    Raises:
        UsageError: One is not, or there is none.
    """
    unknown = [method for method in methods if method not in METHODS]
    if unknown or not methods:
        raise UsageError(f"--method {unknown[0] if unknown else ''}: use {', '.join(METHODS)}")
