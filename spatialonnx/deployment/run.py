"""Deploying a masked model: sites that gain become SpatialConv, and the result is certified again.

A site left dense predicts nothing, so the deployed plan differs from the searched one, and a
network tuned with its masks on can lose much where prediction is switched off. The deployed model
is therefore measured on verify. Where it misses the bound, the sites left dense predict again,
fused or with their SpatialPredict, which restores the plan and costs time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

import onnx

from spatialonnx.data.opening import DataLike
from spatialonnx.deployment.deployment import (
    DeployedSite,
    DeployJob,
    Deployment,
    Form,
    Fuse,
)
from spatialonnx.deployment.forms import choose_forms, measure_sites, timed_images
from spatialonnx.graph.fuse import dense_form, explain_unfusable, fuse_sites
from spatialonnx.graph.site_equivalence import check_sites
from spatialonnx.measure.certify import Certifier
from spatialonnx.measure.experiment import Experiment
from spatialonnx.measure.fitting import DEPLOYING
from spatialonnx.measure.measured import Measured
from spatialonnx.measure.network import Network
from spatialonnx.measure.opening import ExperimentOptions, open_experiment
from spatialonnx.measure.original import explain_baseline
from spatialonnx.measure.samples import check_images
from spatialonnx.model.checking import check_interface, check_model
from spatialonnx.model.metadata import is_tuned, read_search_record, set_metadata
from spatialonnx.model.model_file import ModelLike, as_model
from spatialonnx.runtime.progress import ProgressCallback, count_steps, report_stage
from spatialonnx.runtime.timing import (
    RUNS,
    Images,
    Ratio,
    Schedule,
    compare_timings,
    open_timed,
    time_alternately,
)
from spatialonnx.simulate.latency_table import GUARD

_CHECKED_IMAGES = 4
_LEAST_GAIN = 0.8
"""Gain below which a site that must predict is simulated instead of fused."""


def deploy(
    model: ModelLike,
    data: DataLike | None = None,
    *,
    guard: float = GUARD,
    fuse: Fuse = "auto",
    batch: int = 1,
    runs: int = RUNS,
    cold: bool = False,
    latency_table: str | Path | None = None,
    progress: ProgressCallback | None = None,
    **options: Unpack[ExperimentOptions],
) -> Deployment:
    """Fuses the sites of a masked model that gain, and certifies the result.

    Args:
        model: A masked model: a path, or an ``onnx.ModelProto``.
        data: The data that the plan was searched on; None = the built-in set that the model
            names.
        guard: A site is fused if that makes it at least this many times faster.
        fuse: ``auto`` (sites that gain), ``all`` or ``none``.
        batch: Images per timed run.
        runs: Rounds in which the whole model and its rivals are timed.
        cold: Whether they are timed run by run, with the caches that the others left, and not in
            bursts.
        latency_table: File of a latency table that a search wrote: sites that cannot gain by it
            are not timed.
        progress: Called with how far it is.
        **options: See ``ExperimentOptions``. Seed, sizes of the split, metric and confidence
            are the search's unless given; ``provider`` is ``cpu`` unless given.

    Returns:
        The deployed model with its figures; look at ``bound_met`` and ``is_faster``.

    Raises:
        SpatialOnnxError: Anything that a user can fix.
    """
    source = as_model(model)
    record = read_search_record(source.proto)
    # SpatialConv saves time on the CPU.
    options["provider"] = options.get("provider", "cpu")
    experiment = open_experiment(source, data, options, record=record, copies=DEPLOYING)
    table = None if latency_table is None else Path(latency_table)
    return deploy_model(DeployJob(experiment, guard, fuse, batch, runs, cold, table), progress)


def deploy_model(job: DeployJob, progress: ProgressCallback | None = None) -> Deployment:
    """Runs the job of a deployment.

    Args:
        job: The job.
        progress: Called with how far it is.

    Raises:
        SpatialOnnxError: Anything that a user can fix.
    """
    experiment = job.experiment
    proto, baseline = experiment.model.proto, experiment.baseline
    dense = dense_form(proto)
    original = dense if baseline is None else baseline.proto
    quantized = any(site.is_quantized for site in experiment.sites.sites)
    report_stage(progress, "measuring what every site predicts")
    network = Network(experiment.model.shared, experiment.runtime)
    check_images(experiment.search, network.image_shape)
    fixed = network.fixed_batch
    job = replace(job, batch=fixed or job.batch)
    images = timed_images(job)
    sites = measure_sites(experiment, network, images)
    del network
    report_stage(progress, "comparing fused sites with simulated ones")
    few = experiment.split.search[:_CHECKED_IMAGES]
    some = images[0] if fixed else experiment.dataset.images(few)
    unfusable = explain_unfusable(proto)
    wanted = [site.name for site in sites if not site.reason and site.name not in unfusable]
    checked = check_sites(proto, wanted, some, experiment.runtime)
    # A site that differs is never fused, and the others are.
    different = {name: str(found) for name, found in checked.items() if not found.is_equal}
    unfusable |= different
    sites = choose_forms(job, sites, unfusable, images, progress)
    deployed, verify = _certify(experiment, original, sites, progress)
    met = _is_met(job, verify)
    # A tuned network depends on its predictions: without a bound to check, all of them stay.
    tuned = is_tuned(proto) or (baseline is not None and not experiment.baseline_found)
    needed = met is False or (met is None and tuned)
    if needed and any(site.form == "dense" and _predicts(site) for site in sites):
        report_stage(progress, "sites left dense predict again")
        sites = [_predicting(site, unfusable) for site in sites]
        deployed, verify = _certify(experiment, original, sites, progress)
        met = _is_met(job, verify)
    report_stage(progress, "timing it and the original in turns")
    # The rival of an 8-bit model is the dense one in 8 bit, and its float original too.
    rivals = [original]
    if quantized:
        rivals = [dense] if baseline is None else [dense, original]
    ratio, *others = _time(job, rivals, deployed, images)
    result = Deployment(
        job=job,
        model=deployed,
        sites=tuple(sites),
        verify=verify,
        bound_met=met,
        ratio=ratio,
        differences=tuple(checked[s.name] for s in sites if s.form == "fused"),
        float_ratio=next(iter(others), None),
    )
    set_metadata(deployed, deploy=result.summary())
    odd = [f"site {name}: {why}: please report this model" for name, why in different.items()]
    return replace(result, notes=(*_notes(result), *odd))


def _is_met(job: DeployJob, verify: Measured) -> bool | None:
    return None if job.bound is None else verify.holds(job.bound.eps(verify.baseline))


def _predicts(site: DeployedSite) -> bool:
    return site.predicted > 0


def _predicting(site: DeployedSite, unfusable: Mapping[str, str]) -> DeployedSite:
    """A site that was left dense, with its predictions: fused, unless that is much slower."""
    if site.form != "dense" or not _predicts(site):
        return site
    slow = site.time is not None and site.time.gain < _LEAST_GAIN
    reason = f"{site.reason}; its predictions are needed for the accuracy"
    form: Form = "simulated" if slow or site.name in unfusable else "fused"
    return replace(site, form=form, reason=reason)


def _certify(
    experiment: Experiment,
    original: onnx.ModelProto,
    sites: Sequence[DeployedSite],
    progress: ProgressCallback | None,
) -> tuple[onnx.ModelProto, Measured]:
    """Builds the model with these forms and compares it with the original on verify."""
    fused = [site.name for site in sites if site.form == "fused"]
    dense = [site.name for site in sites if site.form == "dense"]
    source = experiment.model
    proto = fuse_sites(source.proto, fused, dense)
    set_metadata(proto, stage="deploy", source_sha256=source.sha256)
    check_model(proto, "the deployed model")
    check_interface(source.proto, proto)
    verify = experiment.verify
    certifier = Certifier(
        proto,
        metric=experiment.metric,
        runtime=experiment.runtime,
        baseline=original,
        confidence=experiment.confidence,
        batch=experiment.batch,
    )
    return proto, certifier.measure(None, verify, count_steps(progress, verify.part))


def _time(
    job: DeployJob, rivals: Sequence[onnx.ModelProto], proto: onnx.ModelProto, images: Images
) -> list[Ratio]:
    """The time of the deployed model as a multiple of each rival's, all timed in alternation."""
    sessions = [open_timed(model, job.experiment.runtime) for model in (*rivals, proto)]
    burst = Schedule(job.runs, job.cold).burst
    *theirs, ours = time_alternately(sessions, images, job.runs, burst=burst)
    return [compare_timings(ours, timing) for timing in theirs]


def _notes(result: Deployment) -> list[str]:
    job, experiment = result.job, result.job.experiment
    notes = [f"warning: {text}" for text in result.verify.warnings]
    record = read_search_record(experiment.model.proto)
    if record is not None and record.data not in ("", experiment.data_name):
        notes.append(
            f"the plan was searched on {record.data} and is certified on "
            f"{experiment.dataset.name}: give the same data, or verify may hold images that the "
            "search chose by"
        )
    notes += explain_baseline(experiment)
    if job.bound is None:
        notes.append("the plan was made by hand: nothing bounds its drop")
    if job.fuse != "auto" and not result.is_faster:
        notes.append(
            f"--fuse {job.fuse}: the model is written although it is not shown to be faster"
        )
    return notes
