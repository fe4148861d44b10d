"""Deploying a masked model: sites that gain become SpatialConv, and the result is certified again.

A site left dense predicts nothing, so what is deployed is another plan than the one searched; a
network tuned with its masks on can lose much where prediction is switched off. The file that is
written is therefore measured itself, on verify. Where it misses the bound, the sites left dense
keep their SpatialPredict, which restores the plan and costs time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx

from spatialonnx.data.opening import public_name
from spatialonnx.deployment.deployment import DeployedSite, DeployJob, Deployment, Watch
from spatialonnx.deployment.forms import choose_forms, measure_sites, timed_images
from spatialonnx.errors import ModelError
from spatialonnx.graph.fuse import dense_form, fuse_sites
from spatialonnx.graph.insert import check_model
from spatialonnx.graph.site_equivalence import compare_sites, require_equal
from spatialonnx.measure.certify import Certifier, Measured
from spatialonnx.measure.evaluate import Network
from spatialonnx.measure.samples import Samples, check_images
from spatialonnx.model.metadata import get_json, set_metadata
from spatialonnx.model.model_file import save_model
from spatialonnx.model.stages import check_replaceable, missed_path
from spatialonnx.runtime.machine import describe_machine, instruction_set, versions
from spatialonnx.runtime.timing import Images, Ratio, compare_timings, open_timed, time_alternately

_CHECKED_IMAGES = 4
OWN_DATA = "own data"
"""What a search records of data that are no built-in set."""


def deploy_model(job: DeployJob, watch: Watch | None = None) -> Deployment:
    """Fuses the sites of a masked model that gain, certifies the result and writes it.

    Args:
        job: What to do.
        watch: Who is told how far it got.

    Returns:
        What was done. A model that misses its bound is kept as ``*.missed.onnx``
        (``bound_met``); of one that is not faster than the original, nothing is written
        (``path``), unless ``fuse`` asked for it.

    Raises:
        SpatialOnnxError: Anything that a user can mend.
    """
    watch = watch or Watch()
    check_replaceable(job.output, job.model.sha256, force=job.force)
    original = dense_form(job.model.proto) if job.baseline is None else job.baseline.proto
    watch.say("measuring what every site predicts")
    network = Network(job.model.proto, job.runtime)
    check_images(Samples(job.dataset, job.split.search), network.image_shape)
    fixed = network.fixed_batch
    job = replace(job, batch=fixed or job.batch)
    images = timed_images(job)
    sites = measure_sites(job.model.proto, network, images)
    del network
    sites = choose_forms(job, sites, images, watch)
    watch.say("comparing fused sites with simulated ones")
    some = images[0] if fixed else np.concatenate(images)[:_CHECKED_IMAGES]
    fused = [site.name for site in sites if site.form == "fused"]
    differences = tuple(compare_sites(job.model.proto, fused, some, job.runtime))
    require_equal(differences)
    proto, verify = _certify(job, original, sites, watch)
    met = None if job.eps is None else verify.holds(job.eps)
    if met is False and any(site.form == "dense" and _predicts(site) for site in sites):
        watch.say("the bound is missed: sites left dense predict again")
        sites = [_simulated(site) for site in sites]
        proto, verify = _certify(job, original, sites, watch)
        met = None if job.eps is None else verify.holds(job.eps)
    watch.say("timing it and the original in turns")
    ratio = _time(job, original, proto, images)
    result = Deployment(job, tuple(sites), verify, met, ratio, differences, None, proto)
    return _write(replace(result, notes=tuple(_notes(result))))


def _predicts(site: DeployedSite) -> bool:
    return site.predicted > 0


def _simulated(site: DeployedSite) -> DeployedSite:
    if site.form != "dense" or not _predicts(site):
        return site
    reason = f"{site.reason}; without its predictions the bound is missed"
    return replace(site, form="simulated", reason=reason)


def _certify(
    job: DeployJob, original: onnx.ModelProto, sites: Sequence[DeployedSite], watch: Watch
) -> tuple[onnx.ModelProto, Measured]:
    """Makes the model of some forms and measures it on verify, beside the original."""
    fused = [site.name for site in sites if site.form == "fused"]
    dense = [site.name for site in sites if site.form == "dense"]
    proto = fuse_sites(job.model.proto, fused, dense)
    set_metadata(proto, stage="deploy", source_sha256=job.model.sha256)
    check_model(proto, "the deployed model")
    _check_interface(job.model.proto, proto)
    watch.say("verify")
    certifier = Certifier(
        proto,
        metric=job.metric,
        runtime=job.runtime,
        baseline=original,
        confidence=job.confidence,
    )
    samples = Samples(job.dataset, job.split.verify)
    return proto, certifier.measure(None, samples, watch.samples)


def _check_interface(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    ours_alone = (".stage", ".source_sha256")
    kept = {e.key: e.value for e in before.metadata_props if not e.key.endswith(ours_alone)}
    ours = {e.key: e.value for e in after.metadata_props}
    if (
        list(before.graph.input) != list(after.graph.input)
        or list(before.graph.output) != list(after.graph.output)
        or not kept.items() <= ours.items()
    ):
        raise ModelError("the model's inputs, outputs or metadata were not kept: report this")


def _time(
    job: DeployJob, original: onnx.ModelProto, proto: onnx.ModelProto, images: Images
) -> Ratio:
    sessions = [open_timed(model, job.runtime) for model in (original, proto)]
    theirs, ours = time_alternately(sessions, images, job.runs)
    return compare_timings(ours, theirs)


def _notes(result: Deployment) -> list[str]:
    job = result.job
    notes = []
    searched = get_json(job.model.proto, "search").get("data")
    if searched not in (None, public_name(job.dataset.name) or OWN_DATA):
        notes.append(
            f"the plan was searched on {searched} and is certified on {job.dataset.name}: give "
            "the same data, or verify may hold images that the search chose by"
        )
    if job.eps is None:
        notes.append("the plan was made by hand: nothing bounds its drop")
    if job.fuse != "auto" and not result.is_faster:
        notes.append(f"--fuse {job.fuse}: the model is written although it is not faster")
    return notes


def _write(result: Deployment) -> Deployment:
    job, path = result.job, result.job.output
    if result.bound_met is False:
        path = missed_path(path)
        check_replaceable(path, job.model.sha256, force=job.force)
    elif job.fuse == "auto" and not result.is_faster:
        return result
    set_metadata(
        result.proto,
        deploy={
            "fused": result.names("fused"),
            "dense": result.names("dense"),
            "simulated": result.names("simulated"),
            "ratio": result.ratio.value,
            "ratio_ci95": [result.ratio.low, result.ratio.high],
            "batch": job.batch,
            "threads": job.runtime.threads,
            "processor": describe_machine()["processor"],
            "isa": instruction_set(),
            "versions": versions(),
            "verify": result.verify.to_json(),
            "bound_met": result.bound_met,
        },
    )
    save_model(result.proto, path)
    return replace(result, path=path)
