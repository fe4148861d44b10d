"""The key of a study: a hash of everything that determines the outcome of a trial."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from spatialonnx.files import sha256_bytes
from spatialonnx.runtime.session import runtime_version
from spatialonnx.searching.job import SearchJob
from spatialonnx.searching.modes import COARSEST
from spatialonnx.searching.strategies import find_multiples


def study_about(job: SearchJob) -> dict[str, Any]:
    """Everything that determines a trial's outcome, for the study's key and for readers.

    Bounds, budgets and verbosity are not part of it.
    """
    experiment, settings = job.experiment, job.settings
    (size, patterns), *others = settings.patterns.items()
    about: dict[str, Any] = {
        "model": experiment.model.sha256,
        "baseline": None if experiment.baseline is None else experiment.baseline.sha256,
        "data": experiment.data_name,
        "data fingerprint": experiment.dataset.fingerprint(),
        "samples": sha256_bytes(experiment.split.search.tobytes()),
        "seed": experiment.split.seed,
        "mode": settings.mode,
        "strategy": settings.strategy,
        "patch size": size,
        "patterns": sha256_bytes(json.dumps(patterns).encode()),
        "clusters": settings.max_clusters,
        "top": settings.top,
        "coupling": [list(group) for group in job.groups() if len(group) > 1],
        "metric": experiment.metric_name,
        "metric fingerprint": experiment.metric.fingerprint,
        "provider": experiment.runtime.provider,
        "onnxruntime": runtime_version(),
    }
    if experiment.metric.position or experiment.metric.decision is not None:
        about["score"] = [experiment.metric.position, experiment.metric.decision]
    if others:
        about["others"] = [[size, sha256_bytes(repr(own).encode())] for size, own in others]
    if multiples := find_multiples(settings):
        about["thresholds"] = list(multiples)
    if job.initial:
        about["start"] = job.initial.key
    if settings.pattern_limit and settings.mode != COARSEST:
        about["max patterns"] = settings.pattern_limit
    if settings.by_time:
        about |= {"goal": "latency", "threads": experiment.runtime.threads}
    return about


def study_key(job: SearchJob) -> str:
    """Hash of ``study_about``; nothing is run for it."""
    return sha256_bytes(json.dumps(study_about(job), sort_keys=True).encode())


def name_study(job: SearchJob) -> tuple[SearchJob, tuple[str, ...]]:
    """Names the study of a job by a hash of what determines its trials.

    Returns:
        The job with the study beside its output and, if the study is new, the names of studies
        of other options there.
    """
    assert job.files.output is not None
    folder = job.files.output.parent
    stem = job.experiment.model.path.name.removesuffix(".onnx")
    stem = stem.removesuffix(".spatial").removesuffix(".masked")
    path = folder / f"{stem}.{job.settings.mode}.{study_key(job)[:8]}.study.db"
    others = sorted(p.name for p in folder.glob(f"{stem}.*.study.db") if p != path)
    named = replace(job, files=replace(job.files, study=path))
    return named, () if path.exists() else tuple(others)
