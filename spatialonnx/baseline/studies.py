"""Plans found by searches of masks, as rows beside the systems they are compared with.

A study records which plan its search chose. If it has no such record for this bound, the plan is
chosen here as in a greedy search: of the trials of the last pass within the bound, in order of MACs
saved, the first that holds on select.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from spatialonnx.baseline.comparison import Comparer, Row
from spatialonnx.errors import StudyError
from spatialonnx.files import sha256_bytes
from spatialonnx.measure.experiment import Experiment
from spatialonnx.measure.measured import Measured
from spatialonnx.plan.macs import fraction
from spatialonnx.plan.masks import check_mask_shape
from spatialonnx.plan.plan import Plan, PlanLike
from spatialonnx.runtime.progress import ProgressCallback, count_steps, report_stage
from spatialonnx.searching.modes import MODES
from spatialonnx.searching.settings import GREEDY, JOINT
from spatialonnx.searching.strategies import STRATEGIES
from spatialonnx.searching.study import Study


@dataclass(frozen=True, eq=False)
class Found:
    """The plan of a study, measured on verify.

    Attributes:
        row: Its row of the table.
        mode: Mode of the search.
        strategy: Strategy of the search.
        path: The study.
        plan: Masks by site.
        search: Saved fraction and drop on the search's own samples.
        select: The plan on select.
        looked_at: Number of plans measured on select.
        trials: Trials in the study.
        half: The plan that the search chose for half of the bound; None = it chose none.
    """

    row: Row
    mode: str
    strategy: str
    path: Path
    plan: Plan
    search: tuple[float, float]
    select: Measured
    looked_at: int
    trials: int
    half: Plan | None = None

    def to_json(self) -> dict[str, Any]:
        """The object that ``baseline --json`` prints for a study."""
        return {
            "method": self.row.method,
            "mode": self.mode,
            "strategy": self.strategy,
            "study": str(self.path),
            "trials": self.trials,
            "search": {"saved_fraction": self.search[0], "drop": self.search[1]},
            "select": {**self.select.to_json(), "looked_at": self.looked_at},
        }


def find_studies(given: Sequence[Path], model: Path) -> list[Path]:
    """Finds study files.

    Args:
        given: Files, or folders that contain some; empty = the studies beside the model.
        model: The model file.

    Raises:
        StudyError: A file is missing, or a folder holds none.
    """
    paths: list[Path] = []
    for path in given:
        if path.is_dir():
            inside = sorted(p for p in path.glob("*.study.db") if _is_search(p))
            if not inside:
                raise StudyError(f"--studies {path}: the folder holds no study of a search")
            paths += inside
        elif path.is_file():
            paths.append(path)
        else:
            raise StudyError(f"--studies {path}: there is no such study")
    if not given:
        paths = sorted(p for p in model.parent.glob("*.study.db") if _is_search(p))
    return list(dict.fromkeys(paths))


def _is_search(path: Path) -> bool:
    """Whether a file is the study of a search of masks."""
    try:
        with Study(path, readonly=True) as study:
            return str(study.about().get("mode")) in MODES
    except StudyError:
        return False


def measure_studies(
    comparer: Comparer,
    paths: Sequence[Path],
    progress: ProgressCallback | None,
    select_confidence: float | None = None,
    *,
    strict: bool = True,
) -> tuple[list[Found], dict[str, str]]:
    """Chooses a plan from every study and measures it on verify.

    Args:
        comparer: Holds the network and the samples.
        paths: The studies.
        progress: Called with how far it is.
        select_confidence: Of the upper limit on select; None = as on verify.
        strict: Whether a study that cannot be used is an error; else it is left out.

    Returns:
        What was found, in the order of the modes, and why the other studies were left out.

    Raises:
        StudyError: A study is damaged, unfinished, or of another model, data or split.
    """
    found: list[Found] = []
    left_out: dict[str, str] = {}
    for path in paths:
        try:
            report_stage(progress, f"study {path.name}")
            found.append(_measure_study(comparer, path, progress, select_confidence))
        except StudyError as error:
            if strict:
                raise
            left_out[str(path)] = str(error)
    found.sort(key=_place)
    return found, left_out


def _place(found: Found) -> tuple[bool, int, int]:
    """Where a row stands: those of searches by rate and distortion come last."""
    strategies, modes = list(STRATEGIES), list(MODES)
    by_divergence = STRATEGIES[found.strategy].by_divergence
    return by_divergence, strategies.index(found.strategy), modes.index(found.mode)


def missing_studies(found: Sequence[Found]) -> list[str]:
    """The searches that the table should have but for which there is no study."""
    known = {(f.mode, f.strategy) for f in found}
    missing = [mode for mode in MODES if (mode, GREEDY) not in known]
    return missing if any(f.strategy == JOINT for f in found) else [*missing, JOINT]


def _measure_study(
    comparer: Comparer,
    path: Path,
    progress: ProgressCallback | None,
    select_confidence: float | None,
) -> Found:
    experiment = comparer.experiment
    with Study(path, readonly=True) as study:
        about = study.about()
        _check_study(experiment, path, about)
        mode, strategy = str(about["mode"]), str(about["strategy"])
        contenders = _contenders(comparer, study, strategy)
        looked_at = 0
        for key in contenders:
            plan = study.plan(key) if key else Plan()
            _check_plan(comparer, plan, path)
            looked_at += bool(key)
            select = comparer.certifier.measure(
                plan,
                experiment.select,
                count_steps(progress, f"select, {path.name}"),
                confidence=select_confidence,
            )
            if len(contenders) == 1 or select.holds(comparer.bound.eps(select.baseline)):
                break
        return Found(
            row=comparer.measure_plan(
                mode if strategy == GREEDY else f"{mode}, {strategy}",
                plan,
                count_steps(progress, f"verify, {path.name}"),
            ),
            mode=mode,
            strategy=strategy,
            path=path,
            plan=plan,
            search=_on_search(study, key),
            select=select,
            looked_at=looked_at,
            trials=study.count(),
            half=_plan_for_half(comparer, study),
        )


def _plan_for_half(comparer: Comparer, study: Study) -> Plan | None:
    key = _chosen(comparer, study, comparer.bound.eps(study.scale()[0]) / 2)
    if not key:
        return None
    plan = study.plan(key)
    _check_plan(comparer, plan, study.path)
    return plan


def _chosen(comparer: Comparer, study: Study, eps: Fraction) -> str | None:
    """Key of the plan that a search chose for a bound; None if it is unknown."""
    chosen, split = study.choice(eps), comparer.experiment.split
    if chosen is None:
        return None
    key, images = chosen
    if images > len(split.search) + len(split.select):
        raise StudyError(
            f"{study.path}: {images} images chose its plan, some of them of verify here: give "
            "--search-samples and --select-samples as large as its search had"
        )
    return key


def _contenders(comparer: Comparer, study: Study, strategy: str) -> list[str]:
    """Keys of candidate plans: the one that the search chose, or its best ones in order.

    Without a recorded choice the last one is off everywhere (an empty key).
    """
    baseline, _ = study.scale()
    eps = comparer.bound.eps(baseline)
    if (key := _chosen(comparer, study, eps)) is not None:
        return [key]
    records = [r for name in STRATEGIES[strategy].last_passes for r in study.records(name)]
    if not records:
        raise StudyError(
            f"{study.path} does not say what it chose for {comparer.bound}: run the same search "
            "with this --eps to its end, it continues"
        )
    found: dict[str, tuple[int, Fraction]] = {}
    for record in records:
        score, saved = record.outcome.score, record.outcome.saved
        if score is not None and saved and baseline - score <= eps:
            found.setdefault(record.plan_key, (-saved, baseline - score))
    return [*sorted(found, key=lambda key: found[key]), ""]


def _on_search(study: Study, key: str) -> tuple[float, float]:
    """Saved fraction and drop of a plan on the search's own samples."""
    baseline, total = study.scale()
    outcome = study.find(key) if key else None
    if outcome is None or outcome.score is None or outcome.saved is None:
        return 0.0, 0.0
    return fraction(outcome.saved, total), float(baseline - outcome.score)


def _check_study(experiment: Experiment, path: Path, about: dict[str, Any]) -> None:
    """Checks that a study's trials are of this model, and did not use verify samples."""
    mode, strategy = str(about.get("mode")), str(about.get("strategy"))
    if mode not in MODES or strategy not in STRATEGIES:
        raise StudyError(f"{path} is not a study of a search of masks: leave it out of --studies")
    if about.get("model") != experiment.model.sha256:
        raise StudyError(
            f"{path} is the study of another model file: compare with the model.spatial.onnx that "
            "it searched"
        )
    if about.get("data fingerprint") != experiment.dataset.fingerprint():
        raise StudyError(f"{path} was searched on other data: give the same --data")
    search = experiment.split.search
    # The study has only a hash of its samples; a smaller search used the first of these.
    sizes = range(len(search), 0, -1)
    if all(about.get("samples") != sha256_bytes(search[:n].tobytes()) for n in sizes):
        raise StudyError(
            f"{path} was searched on images that are not among the {len(search)} search images "
            "here: give the same --seed, and --search-samples as large as its search had"
        )


def _check_plan(comparer: Comparer, plan: PlanLike, path: Path) -> None:
    sites = {site.name: site for site in comparer.sites}
    for name, mask in plan.items():
        if name not in sites:
            raise StudyError(f"{path} holds a plan for site {name}, which the model does not have")
        check_mask_shape(mask, sites[name].shape, name)
