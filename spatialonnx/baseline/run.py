"""A comparison: measures several systems and collects them in a table."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from spatialonnx.baseline.comparison import Comparer, Row
from spatialonnx.baseline.diagonal import Diagonal, measure_diagonals
from spatialonnx.baseline.exact import Exact, measure_exact, measure_together
from spatialonnx.baseline.kernels import Grid
from spatialonnx.baseline.nonnegative import Candidates, find_candidates
from spatialonnx.baseline.predictive import (
    Predictive,
    Under,
    search_guesses,
    study_about,
    study_key,
)
from spatialonnx.baseline.studies import Found, find_studies, measure_studies, missing_studies
from spatialonnx.errors import ModelError, UsageError
from spatialonnx.graph.insert import insert
from spatialonnx.graph.ops import find_predictors, read_plan
from spatialonnx.measure.experiment import Experiment
from spatialonnx.measure.original import explain_baseline
from spatialonnx.model.model_file import ModelFile
from spatialonnx.plan.patterns import PATCH_SIZES
from spatialonnx.plan.plan import Plan
from spatialonnx.runtime.progress import ProgressCallback, count_steps, report_stage
from spatialonnx.runtime.session import Runtime

DIAGONAL, EXACT, PREDICTIVE = "diagonal", "snapea-exact", "snapea-predictive"
STUDIES, BOTH, BOTH_PREDICTIVE = "studies", "both", "both-predictive"
METHODS = (DIAGONAL, EXACT, PREDICTIVE, STUDIES, BOTH, BOTH_PREDICTIVE)


@dataclass(frozen=True)
class Choices:
    """Options of the methods.

    Attributes:
        patch_sizes: Of the diagonal pattern.
        grid: The candidates that every kernel of SnaPEA predictive tries.
        study: The journal of its search; None = beside the model. That of the search under a plan
            is in the same folder.
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
    """The result of a comparison.

    Attributes:
        experiment: The network and the data, common to all systems.
        rows: One per system; the dense network first.
        diagonals: The diagonal pattern's taxonomy, by patch size.
        candidates: The sites that SnaPEA supports; None where no method needs them.
        exact: SnaPEA exact, by site.
        predictive: SnaPEA predictive, by site.
        both_predictive: The same under a plan of masks.
        found: Plans found by searches of masks.
        missing: Rows that the table lacks, with the reason.
    """

    experiment: Experiment
    rows: tuple[Row, ...]
    diagonals: tuple[Diagonal, ...] = ()
    candidates: Candidates | None = None
    exact: Exact | None = None
    predictive: Predictive | None = None
    both_predictive: Predictive | None = None
    found: tuple[Found, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """For the user, one line each."""
        return explain_baseline(self.experiment)

    def to_json(self) -> dict[str, Any]:
        """The object that ``baseline --json`` prints."""
        experiment = self.experiment
        parts = experiment.split.search, experiment.split.select, experiment.split.verify
        dense = self.rows[0].measured
        value: dict[str, Any] = {
            "baseline": {"score": float(dense.baseline)},
            "model": str(experiment.model.path),
            "data": experiment.dataset.name,
            "eps": str(experiment.bounds[0]),
            "samples": dict(zip(("search", "select", "verify"), map(len, parts), strict=True)),
            "seed": experiment.split.seed,
            "batch": experiment.batch,
            "threads": experiment.runtime.threads,
            "warnings": list(dense.warnings),
            "notes": list(self.notes),
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
        if self.both_predictive is not None:
            value["both_predictive"] = self.both_predictive.to_json()
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
        experiment: The network and the data.
        methods: Names from ``METHODS``.
        choices: Their options.
        progress: Called with how far it is.

    Raises:
        UsageError: A method is unknown.
    """
    choices = choices or Choices()
    check_methods(methods)
    # Studies are checked before anything is run.
    paths = find_studies(choices.studies, experiment.model.path) if STUDIES in methods else []
    report_stage(progress, "running the dense network")
    comparer = Comparer(experiment)
    start = time.monotonic()
    table = _Table(comparer, choices, paths, [comparer.measure_dense()])
    seconds = time.monotonic() - start
    if len(methods) > 1:
        text = estimate_time(experiment, methods, choices, len(paths), seconds)
        report_stage(progress, text, warning=True)
    chosen = [method for method in METHODS if method in methods]
    for number, method in enumerate(chosen, start=1):
        _STEPS[method](table, _numbered(progress, f"{number} of {len(chosen)}: "))
    return Comparison(
        experiment=experiment,
        rows=tuple(table.rows),
        diagonals=tuple(table.diagonals),
        candidates=table.candidates,
        exact=table.exact,
        predictive=table.predictive,
        both_predictive=table.both_predictive,
        found=tuple(table.found),
        missing=tuple(table.missing),
    )


def estimate_time(
    experiment: Experiment, methods: Sequence[str], choices: Choices, studies: int, dense: float
) -> str:
    """How long the methods take at least, in words.

    Args:
        experiment: The network and the data.
        methods: Their names.
        choices: Their options.
        studies: Number of studies.
        dense: Seconds of the dense network on verify.
    """
    verify, select = len(experiment.split.verify), len(experiment.split.select)
    passes = {
        DIAGONAL: len(choices.patch_sizes),
        EXACT: 1,
        PREDICTIVE: 1 + select / verify,
        STUDIES: studies * (1 + select / verify),
        BOTH: 1,
        BOTH_PREDICTIVE: 1 + select / verify,
    }
    least = dense * sum(passes[method] for method in methods)
    words = f"{least:.0f} s" if least < 100 else f"{least / 60:.0f} min"
    searches = " and ".join(name for name in (PREDICTIVE, BOTH_PREDICTIVE) if name in methods)
    beside = f", and the search of {searches}" if searches else ""
    return f"{len(methods)} methods on {verify:,} verify images: at least {words}{beside}"


@dataclass
class _Table:
    """A comparison while it is measured."""

    comparer: Comparer
    choices: Choices
    studies: Sequence[Path]
    rows: list[Row]
    missing: list[str] = field(default_factory=list)
    diagonals: list[Diagonal] = field(default_factory=list)
    candidates: Candidates | None = None
    exact: Exact | None = None
    predictive: Predictive | None = None
    both_predictive: Predictive | None = None
    found: list[Found] = field(default_factory=list)

    def require_candidates(self, progress: ProgressCallback | None) -> Candidates:
        """The sites that SnaPEA supports, found once."""
        if self.candidates is None:
            report_stage(progress, "looking for inputs that are never negative")
            self.candidates = find_candidates(self.comparer.experiment)
        return self.candidates


def _diagonal(table: _Table, progress: ProgressCallback | None) -> None:
    steps = count_steps(progress, "diagonal patterns")
    sizes = table.choices.patch_sizes
    table.diagonals = list(measure_diagonals(table.comparer, sizes, steps))
    table.rows += [diagonal.row for diagonal in table.diagonals]


def _exact(table: _Table, progress: ProgressCallback | None) -> None:
    candidates = table.require_candidates(progress)
    steps = count_steps(progress, "SnaPEA exact")
    table.exact = measure_exact(table.comparer, candidates, steps)
    table.rows.append(table.exact.row)


def _predictive(table: _Table, progress: ProgressCallback | None) -> None:
    table.predictive = _search_guesses(table, Under(), progress)
    table.rows.append(table.predictive.row)


def _search_guesses(table: _Table, under: Under, progress: ProgressCallback | None) -> Predictive:
    candidates, choices = table.require_candidates(progress), table.choices
    study = choices.study
    if study is None or under.plan:
        experiment = table.comparer.experiment
        folder = (study or experiment.model.path).parent
        study = folder / study_name(experiment, candidates, choices.grid, under)
    return search_guesses(
        table.comparer, candidates, choices.grid, study, progress, choices.select_confidence, under
    )


def _studies(table: _Table, progress: ProgressCallback | None) -> None:
    choices = table.choices
    table.found, left_out = measure_studies(
        table.comparer,
        table.studies,
        progress,
        choices.select_confidence,
        strict=bool(choices.studies),
    )
    table.rows += [one.row for one in table.found]
    table.missing += [f"{name}: no study of such a search" for name in missing_studies(table.found)]
    table.missing += list(left_out.values())


def _both(table: _Table, progress: ProgressCallback | None) -> None:
    candidates = table.require_candidates(progress)
    name, plan = _best_plan(table.comparer.experiment, table.found)
    if not plan:
        table.missing.append(f"both together: {name}")
        return
    steps = count_steps(progress, "prediction and SnaPEA exact together")
    table.rows.append(measure_together(table.comparer, candidates, plan, name, steps))


def _both_predictive(table: _Table, progress: ProgressCallback | None) -> None:
    name, plan = _best_plan(table.comparer.experiment, table.found, half=True)
    if not plan:
        table.missing.append(f"both together, guessing: {name}")
        return
    table.both_predictive = _search_guesses(table, Under(plan, name), progress)
    table.rows.append(table.both_predictive.row)


_STEPS: dict[str, Callable[[_Table, ProgressCallback | None], None]] = {
    DIAGONAL: _diagonal,
    EXACT: _exact,
    PREDICTIVE: _predictive,
    STUDIES: _studies,
    BOTH: _both,
    BOTH_PREDICTIVE: _both_predictive,
}
"""What measures each method; they run in the order of ``METHODS``."""


def _numbered(progress: ProgressCallback | None, prefix: str) -> ProgressCallback | None:
    """Prefixes every stage with the number of its method."""
    if progress is None:
        return None
    return lambda step: progress(replace(step, stage=prefix + step.stage))


def _best_plan(
    experiment: Experiment, found: Sequence[Found], *, half: bool = False
) -> tuple[str, Plan]:
    """The plan that saves most on select, and its name; else the plan that the model carries.

    If there is none, the name gives the reason.

    Args:
        experiment: The model.
        found: Plans of studies.
        half: Whether to take what the same search chose for half of the bound, where it did: a
            plan that uses up its bound leaves nothing to guesses.
    """
    if found:
        best = max(found, key=lambda one: one.select.saved_fraction)
        if half and best.half:
            return f"{best.row.method} at half the bound", best.half
        if best.plan:
            return best.row.method, best.plan
        return "no search found a plan within the bound", Plan()
    carried = read_plan(experiment.model.proto).predicting
    return (experiment.model.path.name if carried else "no plan of masks was found"), carried


def study_name(experiment: Experiment, candidates: Candidates, grid: Grid, under: Under) -> str:
    """Name of a study of SnaPEA predictive, after what decides its trials."""
    name = experiment.model.path.name
    stem = name.removesuffix(".onnx").removesuffix(".spatial").removesuffix(".masked")
    key = study_key(study_about(experiment, candidates, grid, under.plan))
    return f"{stem}.{PREDICTIVE}.{key[:8]}.study.db"


def check_methods(methods: Sequence[str]) -> None:
    """Makes sure that every method exists.

    Raises:
        UsageError: One is not, or there is none.
    """
    unknown = [method for method in methods if method not in METHODS]
    if unknown or not methods:
        raise UsageError(f"--method {unknown[0] if unknown else ''}: use {', '.join(METHODS)}")
