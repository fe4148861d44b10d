"""Choosing which sites are fused: each is timed inside the model, on real images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from spatialonnx.deployment.deployment import DeployedSite, DeployJob
from spatialonnx.graph.ops import read_plan
from spatialonnx.measure.experiment import Experiment
from spatialonnx.measure.network import Network
from spatialonnx.plan.macs import fraction
from spatialonnx.plan.patterns import full_pattern
from spatialonnx.runtime.progress import ProgressCallback
from spatialonnx.runtime.timing import Images, Schedule
from spatialonnx.simulate.latency_table import WORTH_TIMING, read_table, site_shapes
from spatialonnx.simulate.site_timing import ROUNDS, time_sites

_SURELY = 0.9
"""A site is not timed where its gain by the latency table is below this part of the guard."""
_TIMED_IMAGES = 64
_PASSES = 4
"""How often the remaining sites are timed again after neighbours became dense."""


def timed_images(job: DeployJob) -> Images:
    """Batches of images that sites are timed on; from the search part, never from verify."""
    search = job.experiment.split.search
    count = max(1, min(_TIMED_IMAGES, len(search)) // job.batch)
    indices = np.resize(search, count * job.batch)
    return [job.experiment.dataset.images(part) for part in np.split(indices, count)]


def measure_sites(experiment: Experiment, network: Network, images: Images) -> list[DeployedSite]:
    """Measures what every site predicts and its share of the network; no form is chosen yet.

    Args:
        experiment: A masked model and its data.
        network: The model, opened.
        images: The images to run.
    """
    report = experiment.sites
    skipped = dict.fromkeys(network.plan, 0)
    for batch in images:
        outputs = network.run(batch, network.plan)
        for name in skipped:
            skipped[name] += int(outputs[f"{name}/skipped"].sum())
    samples = sum(len(batch) for batch in images)
    sites = []
    for site in report.sites:
        count = int(np.prod([d or 0 for d in site.shape], dtype=np.int64))
        reason = "its mask is full" if network.plan[site.name].is_full else ""
        sites.append(
            DeployedSite(
                name=site.name,
                form="dense",
                reason=reason,
                predicted=fraction(skipped[site.name], samples * count),
                share=fraction(count * site.macs_per_output, report.conv_macs or 0),
            )
        )
    return sites


def choose_forms(
    job: DeployJob,
    sites: Sequence[DeployedSite],
    unfusable: Mapping[str, str],
    images: Images,
    progress: ProgressCallback | None,
) -> list[DeployedSite]:
    """Decides which sites are fused; every other one is left dense, with the reason.

    All sites that could be fused are, then each is timed against itself left dense. Those that
    gain too little become dense; that changes what their neighbours cost, so the rest is timed
    again until all that is left gains.

    Args:
        job: What to do.
        sites: What each predicts.
        unfusable: Why sites cannot be fused, by site.
        images: What they are timed on.
        progress: Called with how far it is.
    """
    proto, runtime = job.experiment.model.proto, job.experiment.runtime
    unfusable = {**_cannot_pay(job, sites), **unfusable}
    chosen = {site.name: _before_timing(job, site, unfusable) for site in sites}
    for _ in range(_PASSES):
        fused = [site.name for site in chosen.values() if site.form == "fused"]
        if job.fuse == "none" or not fused:
            break
        dense = [name for name in chosen if name not in fused]
        times = time_sites(
            proto,
            fused,
            dense,
            images,
            runtime,
            shares={site.name: site.share for site in sites},
            schedule=Schedule(ROUNDS, job.cold),
            progress=progress,
        )
        lost = 0
        for name, time in times.items():
            chosen[name] = replace(chosen[name], time=time)
            if job.fuse == "auto" and time.gain < job.guard:
                reason = f"its gain is below the guard, {job.guard:g}"
                chosen[name] = replace(chosen[name], form="dense", reason=reason)
                lost += 1
        if not lost:
            break
    return list(chosen.values())


def _cannot_pay(job: DeployJob, sites: Sequence[DeployedSite]) -> dict[str, str]:
    """Sites that cannot gain by the latency table, with the reason."""
    if job.latency_table is None or job.fuse != "auto":
        return {}
    experiment = job.experiment
    table = read_table(job.latency_table, experiment.runtime)
    shapes = site_shapes(experiment.model.proto, experiment.sites.sites)
    plan = read_plan(experiment.model.proto)
    reasons = {}
    for site in sites:
        times, mask = table.shapes.get(shapes.get(site.name, "")), plan[site.name]
        if times is None or mask.is_full:
            continue
        used = set(np.unique(mask.patterns).tolist()) - {full_pattern(mask.patch_size)}
        fused = times.fused(times.nearest(mask.patch_size, len(used)), 1 - site.predicted)
        if fused is not None and times.dense < _SURELY * job.guard * fused:
            gain = times.dense / max(fused, 1e-12)
            reasons[site.name] = f"it cannot pay: a gain of {gain:.2f} by the latency table"
    return reasons


def _before_timing(
    job: DeployJob, site: DeployedSite, unfusable: Mapping[str, str]
) -> DeployedSite:
    if site.reason:
        return site
    if job.fuse == "none":
        return replace(site, reason="--fuse none")
    if site.name in unfusable:
        return replace(site, reason=unfusable[site.name])
    if job.fuse == "auto" and site.predicted < WORTH_TIMING:
        share = f"{100 * site.predicted:.1f} %"
        return replace(site, reason=f"predicting {share} of its outputs cannot pay: not timed")
    return replace(site, form="fused", reason="--fuse all" if job.fuse == "all" else "gains")
