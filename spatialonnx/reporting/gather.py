"""From a study and a model to the facts of a report."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np

from spatialonnx.errors import ModelError
from spatialonnx.graph.ops import read_plan
from spatialonnx.graph.sites import find_sites
from spatialonnx.model.metadata import SearchRecord, get_json, get_metadata, read_search_record
from spatialonnx.model.model_file import ModelFile
from spatialonnx.plan.macs import fraction
from spatialonnx.plan.plan import PlanLike, plan_key
from spatialonnx.reporting.facts import Asked, Point, Run, SiteFacts, Trials
from spatialonnx.reporting.fields import Fields
from spatialonnx.reporting.sources import Search
from spatialonnx.searching.pareto import pareto_front
from spatialonnx.searching.study import Study

_FEW = 5
"""Value of eps * n below which the samples decide little."""


def gather_run(label: str, search: Search) -> Run:
    """Collects what the files say; nothing is measured.

    Args:
        label: A letter that stands for the run.
        search: Its study and its model.

    Raises:
        ModelError: The model's plan or metadata are damaged.
        StudyError: The study is.
    """
    model = search.model
    record = None if model is None else read_search_record(model.proto)
    asked = Asked() if model is None else read_asked(model, record)
    plan = {} if model is None else read_plan(model.proto)
    run = Run(
        label=label,
        title=_title(record.mode, record.strategy) if record else _title("", ""),
        tuned=record is not None and record.strategy == "tune",
        study=None if search.study is None else search.study.name,
        model=None if model is None else model.path.name,
        asked=asked,
        sites=() if model is None else _sites(model, plan),
        provenance={} if model is None else _model_provenance(model, record),
    )
    if search.study is not None:
        with Study(search.study, readonly=True) as study:
            about = Fields(study.about())
            run = replace(
                run,
                title=_title(about.text("mode"), about.text("strategy")),
                trials=read_trials(study, None if model is None else plan),
                sites=tuple(replace(site, drop_alone=_alone(study, site)) for site in run.sites),
                provenance={**run.provenance, **_study_provenance(study, about)},
            )
    return replace(run, notes=tuple(_notes(run)))


def read_asked(model: ModelFile, record: SearchRecord | None) -> Asked:
    """The record of the search in a model's metadata.

    Raises:
        ModelError: They have a bound but no result.
    """
    if record is None:
        return Asked()
    verify = Fields(dict(record.verify))
    saved, drop = verify.number("saved_fraction"), verify.number("drop")
    if record.met is None or saved is None or drop is None:
        raise ModelError(
            f"{model.path.name}: its metadata entry spatialonnx.search is damaged: search again"
        )
    discordant = verify.object("discordant")
    dense = Fields(get_json(model.proto, "baseline")).object("verify")
    return Asked(
        bound=str(record.bound),
        eps=record.eps,
        confidence=record.confidence,
        met=record.met,
        verify=Point(
            "chosen, on verify", saved, drop, verify.pair("drop_ci95"), verify.count("samples")
        ),
        upper=verify.number("drop_upper"),
        baseline=dense.number("score"),
        lost=discordant.count("lost"),
        gained=discordant.count("gained"),
        mcnemar_p=verify.number("mcnemar_p"),
        kl=verify.number("kl"),
        warnings=record.warnings,
    )


def read_trials(study: Study, plan: PlanLike | None) -> Trials:
    """The trials of a study as points, their Pareto front, and the trial of a chosen plan.

    Args:
        study: The study, open.
        plan: The chosen plan; None where it is not known.

    Raises:
        StudyError: The study is empty or damaged.
    """
    baseline, total = study.scale()
    points: dict[str, tuple[float, float]] = {}
    rejected: set[str] = set()
    for record in study.records():
        saved, score = record.outcome.saved, record.outcome.score
        if saved is None or score is None:
            rejected.add(record.plan_key)
        else:
            points[record.plan_key] = (fraction(saved, total), float(baseline - score))
    front = [
        Point(f"{record.pass_name}: {record.target}, {record.option}", saved, drop)
        for saved, drop, record in pareto_front(study)
    ]
    count, forward, seconds = study.totals()
    return Trials(
        count=count,
        forward_samples=forward,
        seconds=seconds,
        verify_reads=study.verify_reads(),
        cloud=np.asarray(list(points.values()), np.float64).reshape(-1, 2),
        rejected=len(rejected - points.keys()),
        front=tuple(front),
        chosen=_chosen(study, plan, baseline, total),
    )


def _chosen(study: Study, plan: PlanLike | None, baseline: Fraction, total: int) -> Point | None:
    if plan is None:
        return None
    outcome = study.find(plan_key(plan))
    if outcome is None or outcome.score is None or outcome.saved is None:
        return None
    drop = float(baseline - outcome.score)
    return Point("chosen, on search", fraction(outcome.saved, total), drop)


def _alone(study: Study, site: SiteFacts) -> float | None:
    """The drop of the site's isolated trial, where the study has it."""
    if site.mask.is_full:
        return None
    outcome = study.find(plan_key({site.name: site.mask}))
    if outcome is None or outcome.score is None:
        return None
    return float(study.scale()[0] - outcome.score)


def _sites(model: ModelFile, plan: PlanLike) -> tuple[SiteFacts, ...]:
    report = find_sites(model.proto)
    facts = []
    for site in report.sites:
        known = [dim for dim in site.shape if dim is not None]
        macs = math.prod(known) * site.macs_per_output if len(known) == 3 else None
        share = None if macs is None or not report.conv_macs else fraction(macs, report.conv_macs)
        facts.append(SiteFacts(site.name, site.shape, macs, share, plan[site.name]))
    return tuple(facts)


def _title(mode: str, strategy: str) -> str:
    return ", ".join(part for part in (mode, strategy) if part) or "a plan by hand"


def _model_provenance(model: ModelFile, record: SearchRecord | None) -> dict[str, str]:
    metadata = get_metadata(model.proto)
    values = {
        "masked model": f"{model.path.name}, sha256 {model.sha256}",
        "made from": f"sha256 {metadata.get('source_sha256', 'unknown')}",
        "data": metadata.get("data", ""),
    }
    if record is not None:
        sizes = ", ".join(map(str, record.samples or ()))
        values |= {
            "data": record.data or values["data"],
            "split": f"seed {record.seed}; search, select, verify: {sizes}" if sizes else "",
            "metric": record.metric,
            "goal": record.goal,
            "onnxruntime of the search": record.onnxruntime,
        }
    values["preprocessing"] = metadata.get("input", "")
    return {key: value for key, value in values.items() if value}


def _study_provenance(study: Study, about: Fields) -> dict[str, str]:
    words = about.words()
    known = study.meta()
    values = {
        "study": f"{study.path.name}, key {known.get('key', 'unknown')}",
        "searched model": f"sha256 {words.pop('model', 'unknown')}",
        "data": words.pop("data", ""),
        "data fingerprint": words.pop("data fingerprint", ""),
        "onnxruntime of the search": words.pop("onnxruntime", ""),
        "metric": words.pop("metric", ""),
        "options": ", ".join(
            f"{key} {words[key]}"
            for key in (
                "mode",
                "strategy",
                "patch size",
                "clusters",
                "top",
                "goal",
                "seed",
                "provider",
                "threads",
            )
            if key in words
        ),
    }
    return {key: value for key, value in values.items() if value}


def _notes(run: Run) -> list[str]:
    notes = []
    asked = run.asked
    if run.model is None:
        notes.append(
            "No model that this study chose lies beside it, so there is no chosen plan to show: "
            "name the masked model too."
        )
    elif run.study is None and asked.eps is not None and not run.tuned:
        notes.append("The study of this model was not found: its trials are not shown.")
    if asked.eps is None and run.model is not None:
        notes.append("The plan was made by hand: nothing bounds its drop.")
    if asked.eps is not None and all(site.mask.is_full for site in run.sites):
        notes.append("Nothing feasible was found: the plan is off everywhere.")
    samples = None if asked.verify is None else asked.verify.samples
    if asked.eps is not None and samples and asked.eps * samples < _FEW:
        notes.append(
            f"The bound is less than {_FEW} of the {samples} verify samples: they cannot tell."
        )
    reads = 0 if run.trials is None else run.trials.verify_reads
    if reads > 1:
        notes.append(
            f"Verify was read {reads} times for this study. Whoever chooses by what it says makes "
            "its figures too good."
        )
    return notes
