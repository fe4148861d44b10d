"""What a search works on, whether it can, and the key of its study."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spatialonnx.data.dataset import Dataset
from spatialonnx.data.opening import public_name
from spatialonnx.data.split import Split
from spatialonnx.errors import ModelError, UsageError
from spatialonnx.files import sha256_bytes
from spatialonnx.graph.ops import find_predictors, read_plan
from spatialonnx.graph.sites import Site, find_sites
from spatialonnx.measure.certify import check_confidence
from spatialonnx.measure.metrics import Metric
from spatialonnx.measure.samples import Samples
from spatialonnx.model.metadata import get_json
from spatialonnx.model.model_file import ModelFile
from spatialonnx.model.stages import check_replaceable, missed_path
from spatialonnx.plan.bounds import Bound
from spatialonnx.plan.plan import Plan, plan_key
from spatialonnx.runtime.session import Runtime, runtime_version
from spatialonnx.searching.coupling import find_groups
from spatialonnx.searching.modes import MODES, Groups
from spatialonnx.searching.rate_distortion.operating_points import check_start
from spatialonnx.searching.settings import Settings
from spatialonnx.searching.targets import Layout


@dataclass(frozen=True, eq=False)
class Job:
    """Everything a search works on.

    Attributes:
        model: A model of stage spatial (or masked: its plan is ignored, but see ``start``).
        dataset: The pool.
        split: Its parts.
        seed: What the split was made with, for the record.
        bounds: In increasing order.
        settings: What decides the trials.
        metric: What scores outputs.
        runtime: Provider and threads.
        baseline: The original network, where the model was tuned with its masks on.
        confidence: Of the upper limit that must meet the bound; None = the drop itself.
        select_confidence: The same on select, where plans are chosen: a margin against choosing
            a plan that only looks good there; None = as ``confidence``.
        study: The journal's file.
        output: Where the model goes; several bounds put ``.eps...`` into the name.
        force: Replace files that are not ours.
        time_budget: Seconds of trials.
        max_trials: Trials run now.
        memory: Bytes that stored activations may take; None = half of what is free.
        literal: One full pass a trial: the oracle.
    """

    model: ModelFile
    dataset: Dataset
    split: Split
    seed: int
    bounds: tuple[Bound, ...]
    settings: Settings
    metric: Metric
    runtime: Runtime
    study: Path
    output: Path
    baseline: ModelFile | None = None
    confidence: float | None = None
    select_confidence: float | None = None
    force: bool = False
    time_budget: float | None = None
    max_trials: int | None = None
    memory: int | None = None
    literal: bool = False

    @property
    def search_samples(self) -> Samples:
        """The images that trials run on."""
        return Samples(self.dataset, self.split.search)

    @property
    def start(self) -> Plan:
        """What a joint search begins with: the masks that a network was tuned with, else nothing.

        Without them such a network is no better than with masks it does not know.
        """
        if self.baseline is None or self.settings.strategy != "joint":
            return Plan()
        return read_plan(self.model.proto).predicting


def check_job(job: Job) -> None:
    """Finds what cannot work before anything is run.

    Raises:
        ModelError: The model holds no SpatialPredict op, or its metadata are damaged.
        OutputError: An output cannot, or must not, be written.
        UsageError: The confidence is none, the mode does not fit maps of dynamic size, the masks
            of a tuned network do not fit the search, or two options do not fit together.
    """
    get_json(job.model.proto, "baseline")
    if not find_predictors(job.model.proto) or job.model.stage == "deploy":
        raise ModelError(
            f"{job.model.path} holds no SpatialPredict op: run spatialonnx insert on the original "
            "model, then search model.spatial.onnx"
        )
    check_confidence(job.confidence)
    check_confidence(job.select_confidence)
    if job.literal and job.settings.strategy == "joint":
        raise UsageError("--literal goes with --strategy greedy and exhaustive")
    mode, sites = MODES[job.settings.mode], find_sites(job.model.proto).sites
    if mode.by_patch:
        layout = Layout(sites, job.settings.patch_size)
        for site in layout.sites:
            layout.grid(site)
    if job.start:
        groups = find_groups(job.settings.couple, job.model.proto, sites)
        check_start(job.start, groups, mode, {x.patch_size: x for x in find_layouts(job, sites)})
    for path in output_paths(job):
        check_replaceable(path, job.model.sha256, force=job.force)
        check_replaceable(missed_path(path), job.model.sha256, force=job.force)


def study_about(job: Job, groups: Groups) -> dict[str, Any]:
    """Everything that decides a trial's outcome, for the study's key and for a reader."""
    settings = job.settings
    return {
        "model": job.model.sha256,
        "baseline": None if job.baseline is None else job.baseline.sha256,
        "data": data_name(job),
        "data fingerprint": job.dataset.fingerprint(),
        "samples": sha256_bytes(job.split.search.tobytes()),
        "seed": job.seed,
        "mode": settings.mode,
        "strategy": settings.strategy,
        "patch size": settings.patch_size,
        "patterns": sha256_bytes(json.dumps(settings.patterns).encode()),
        "clusters": settings.max_clusters,
        **(
            {"others": [[size, sha256_bytes(repr(own).encode())] for size, own in settings.others]}
            if settings.others
            else {}
        ),
        "top": settings.top,
        "coupling": [list(group) for group in groups if len(group) > 1],
        "metric": metric_name(job),
        "metric fingerprint": sha256_bytes(job.metric.name.encode()),
        "provider": job.runtime.provider,
        "onnxruntime": runtime_version(),
        **({"start": plan_key(job.start)} if job.start else {}),
        **({"goal": "latency", "threads": job.runtime.threads} if by_time(job) else {}),
    }


def find_layouts(job: Job, sites: tuple[Site, ...]) -> list[Layout]:
    """How a job cuts maps, one layout a patch size."""
    settings = job.settings
    sizes = [settings.patch_size, *(size for size, _ in settings.others)]
    return [Layout(sites, size, settings.max_clusters) for size in sizes]


def by_time(job: Job) -> bool:
    """Whether sites are weighed by measured time."""
    return job.settings.goal == "latency"


def data_name(job: Job) -> str:
    """What files may say of the data: a built-in set's name, never a path or code."""
    return public_name(job.dataset.name) or "own data"


def metric_name(job: Job) -> str:
    """What files may say of the metric: a built-in one's name, never code."""
    return job.metric.name if job.metric.counts else "own function"


def planned_key(job: Job) -> str:
    """The key of a job's study, before anything is run."""
    sites = find_sites(job.model.proto).sites
    return study_key(job, find_groups(job.settings.couple, job.model.proto, sites))


def study_key(job: Job, groups: Groups) -> str:
    """Hash of ``study_about``."""
    return sha256_bytes(json.dumps(study_about(job, groups), sort_keys=True).encode())


def output_paths(job: Job) -> tuple[Path, ...]:
    """Where the model of every bound goes, should the bound be met."""
    if len(job.bounds) == 1:
        return (job.output,)
    name = job.output.name.removesuffix(".onnx").removesuffix(".masked")
    return tuple(
        job.output.with_name(f"{name}.eps{bound.file_text}.masked.onnx") for bound in job.bounds
    )
