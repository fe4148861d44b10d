"""Runs all stages of optimising in their order, and chooses the result."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from spatialonnx.errors import ModelError, SetupError
from spatialonnx.files import write_bytes
from spatialonnx.measure.opening import open_experiment
from spatialonnx.model.metadata import read_search_record
from spatialonnx.model.model_file import ModelFile, load_model, save_model
from spatialonnx.optimizing.job import OptimizeJob, has_torch
from spatialonnx.optimizing.outcome import (
    DENSE_FLOAT,
    DENSE_INT8,
    OURS,
    NetworkRow,
    Optimization,
    choose_best,
    row_of,
    with_times,
)
from spatialonnx.optimizing.results_folder import StageResult
from spatialonnx.optimizing.stages import Stages, is_missed
from spatialonnx.optimizing.verdict import FLOAT, INT8, Verdict, describe_verdict
from spatialonnx.reporting.measure import Measuring
from spatialonnx.reporting.plots import require_report_extra
from spatialonnx.reporting.run import make_report
from spatialonnx.reporting.sources import find_sources
from spatialonnx.runtime.machine import describe_machine, instruction_set, versions
from spatialonnx.runtime.progress import ProgressCallback, report_stage
from spatialonnx.searching.run import explain_split


def optimize_model(job: OptimizeJob, progress: ProgressCallback | None = None) -> Optimization:
    """Does what a job says; see ``spatialonnx.optimize``.

    Args:
        job: The job.
        progress: Called with how far it is.

    Raises:
        ModelError: 8 bit is asked for, and the network cannot be quantised.
        OutputError: Another call is writing to the folder.
        SpatialOnnxError: Anything else that a user can fix.
    """
    stages = Stages(job, progress)
    with stages.results.locked():
        return _optimize(job, stages, progress)


def _optimize(job: OptimizeJob, stages: Stages, progress: ProgressCallback | None) -> Optimization:
    """Does it, the folder being this call's."""
    start = time.monotonic()
    if (note := job.experiment.metric.continuing_note) is not None:
        report_stage(progress, note, warning=True)
    spatial = stages.insert()
    verdict = stages.verdict(spatial)
    if not job.dry_run:  # of which it is the result
        report_stage(progress, describe_verdict(verdict), warning=True)
    if job.precision == INT8 and INT8 not in verdict.precisions:
        raise ModelError("this network cannot be quantised (see above): use --precision float32")
    experiment = job.experiment
    result = Optimization(
        folder=job.folder,
        source=experiment.model.path,
        bound=experiment.bounds[0],
        metric=experiment.metric.name,
        samples=len(experiment.verify),
        verdict=verdict,
        machine={
            "machine": describe_machine(),
            "versions": versions(),
            "isa": {name: instruction_set(name) for name in verdict.precisions},
            "threads": experiment.runtime.threads,
        },
    )
    if not job.dry_run:
        result = _run_stages(job, stages, spatial, result, progress)
    return replace(result, seconds=time.monotonic() - start)


@dataclass
class _Way:
    """The way to the deployed model, stage by stage.

    Attributes:
        masked: The model with the plan.
        deployed: What ``deploy`` gave.
        complete: Whether no budget ended a search.
        notes: What a user should know.
    """

    masked: StageResult | None = None
    deployed: StageResult | None = None
    complete: bool = True
    notes: list[str] = field(default_factory=list)


def _run_stages(
    job: OptimizeJob,
    stages: Stages,
    spatial: StageResult,
    result: Optimization,
    progress: ProgressCallback | None,
) -> Optimization:
    """Everything after the early verdict."""
    int8 = stages.quantize(spatial) if INT8 in result.verdict.precisions else None
    way = _Way()
    tuned = _tune(job, stages, way)
    for precision in _order(job, result.verdict):
        source = int8 if precision == INT8 else spatial
        assert source is not None
        _find_ours(job, stages, source, tuned, precision, result.verdict, way)
        if way.deployed is not None and way.deployed.path is not None:
            break
    certified = [s for s in (int8, way.masked, way.deployed) if s is not None]
    found = [text for stage in certified for text in stage.facts["verify"].get("warnings", ())]
    way.notes += explain_split(job.experiment)
    way.notes += [f"warning: {text}" for text in dict.fromkeys(found)]
    rows = _rows(job, stages, int8, way)
    timed = stages.bench([row.path for row in rows[1:]])
    rows = with_times(rows, timed.facts)
    best = choose_best(rows, job.precision)
    path, place = None, stages.results.path(f"{job.stem}.optimized.onnx")
    if best is None:
        place.unlink(missing_ok=True)  # an earlier call's, under another bound
    else:
        path = place
        # The original may have come as an object, without a file.
        model = job.experiment.model if best.name == DENSE_FLOAT else load_model(best.path)
        save_model(model.proto, path)
    result = replace(
        result,
        rows=tuple(rows),
        best=best,
        path=path,
        notes=tuple(way.notes),
        complete=way.complete,
    )
    page, why_not = _write_report(job, result, way, timed.path, progress)
    stale = ["deploy.json"] if way.deployed is None else []
    for name in (*stale, *(["report.html", "report.md"] if page is None else [])):
        (job.folder / name).unlink(missing_ok=True)  # an earlier call's
    notes = (*way.notes, *([f"no report: {why_not}"] if why_not else []))
    result = replace(result, report=page, notes=notes)
    _write_json(job, result)
    return result


def _tune(job: OptimizeJob, stages: Stages, way: _Way) -> StageResult | None:
    """The tuned network; None where there is none that keeps the bound."""
    if job.tuned is not None:
        return stages.adopt_tuned()
    if job.train is None:
        return None
    if not has_torch():
        way.notes.append("not tuned: tuning needs PyTorch, run pip install torch")
        return None
    tuned = stages.tune()
    if not is_missed(tuned):
        return tuned
    drop = 100 * tuned.facts["verify"]["drop"]
    way.notes.append(
        f"the tuned network misses the bound (drop {drop:.2f} points): it goes on without tuning"
    )
    return None


def _order(job: OptimizeJob, verdict: Verdict) -> tuple[str, ...]:
    """The precisions in which a plan is looked for, one after another until one is found."""
    if job.precision != "auto":
        return (job.precision,)
    return (INT8, FLOAT) if verdict.fastest == INT8 else (FLOAT,)


def _find_ours(
    job: OptimizeJob,
    stages: Stages,
    spatial: StageResult,
    tuned: StageResult | None,
    precision: str,
    verdict: Verdict,
    way: _Way,
) -> None:
    """Looks for a deployed model in one precision."""
    quantized = precision == INT8
    if tuned is not None:
        masked = stages.quantize_tuned(tuned) if quantized else tuned
        if job.tuned is not None and not quantized:
            masked = stages.certify(tuned)
    elif not verdict.may_pay(precision):
        way.notes.append(
            f"{precision}: no search, because the bound gives at best "
            f"{verdict.best[precision]:.2f} of the dense network's time; training images (--train) "
            "or a larger --eps would help"
        )
        return
    elif quantized and is_missed(spatial):
        drop = 100 * spatial.facts["verify"]["drop"]
        way.notes.append(
            f"int8: no search, because 8 bit alone misses the bound (drop {drop:.2f} points)"
        )
        return
    else:
        masked = stages.search(spatial, quantized=quantized)
        way.complete &= bool(masked.facts["complete"])
    way.masked = masked
    if is_missed(masked):
        drop = 100 * masked.facts["verify"]["drop"]
        way.notes.append(
            f"{precision}: the plan misses the bound on verify (drop {drop:.2f} points)"
        )
        return
    way.deployed = stages.deploy(masked, quantized=quantized, tuned=tuned is not None)
    if way.deployed.path is None:
        missed = is_missed(way.deployed)
        why = "it misses the bound on verify" if missed else "no site gains time"
        way.notes.append(f"{precision}: nothing is deployed, because {why}")


def _score(known: StageResult) -> float:
    """The original's score; an earlier version recorded it as top-1, whatever the metric."""
    baseline = known.facts["baseline"]
    return float(baseline.get("score", baseline["top1"]))


def _rows(
    job: OptimizeJob, stages: Stages, int8: StageResult | None, way: _Way
) -> list[NetworkRow]:
    """The table, not timed yet; the dense float network comes first."""
    known = next((stage for stage in (int8, way.deployed) if stage is not None), None)
    score = stages.dense().facts["score"] if known is None else _score(known)
    dense = {"drop": 0.0, "drop_ci95": (0.0, 0.0), "saved_fraction": 0.0}
    source = job.experiment.model.path
    rows = [row_of(DENSE_FLOAT, source, FLOAT, dense, baseline=score, met=True)]
    if int8 is not None:
        path, met = stages.plain_int8(int8), bool(int8.facts["bound_met"])
        verify = int8.facts["verify"]
        rows.append(row_of(DENSE_INT8, path, INT8, verify, baseline=score, met=met))
    deployed = way.deployed
    if deployed is not None and deployed.path is not None:
        precision, verify = deployed.facts["precision"], deployed.facts["verify"]
        met = bool(deployed.facts["bound_met"])
        rows.append(row_of(OURS, deployed.path, precision, verify, baseline=score, met=met))
    return rows


def _write_json(job: OptimizeJob, result: Optimization) -> Path:
    path = job.folder / "optimize.json"
    write_bytes(path, json.dumps(result.to_json(), indent=1).encode())
    return path


def _write_report(
    job: OptimizeJob,
    result: Optimization,
    way: _Way,
    timed: Path | None,
    progress: ProgressCallback | None,
) -> tuple[Path | None, str]:
    """Writes the page, the table first; without the extra it says what is missing."""
    try:
        require_report_extra()
    except SetupError as error:
        return None, str(error)
    if way.masked is None or way.masked.path is None:
        return None, "there is no plan to show"
    files = [_write_json(job, result), way.masked.path]
    if way.deployed is not None:
        files.append(job.folder / "deploy.json")
        write_bytes(files[-1], json.dumps(dict(way.deployed.facts), indent=1).encode())
    if timed is not None:
        files.append(timed)
    options = job.shared

    def choose(model: ModelFile) -> Measuring:
        record = read_search_record(model.proto)
        against = {**options, "baseline": job.experiment.model}
        experiment = open_experiment(
            model,
            job.experiment.dataset,
            against,  # type: ignore[arg-type]
            record=record,
            refuse=False,
        )
        return Measuring(experiment, samples=job.budgets.counted, alone=False)

    page = make_report(find_sources(files, job.folder), choose, title=job.stem, progress=progress)
    path, _ = page.save(job.folder / "report.html")
    return path, ""
