"""Times the sites of a model for a latency table: inside the model, on real images.

Every site is timed against itself left dense, all others being fused, under masks that predict
little. Then all sites predict more, and more: without thresholds, and with thresholds that rise.
How many outputs a site keeps is counted each time, so a shape gets a curve, from kept outputs to
seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray

from spatialonnx.graph.fuse import explain_unfusable, fuse_sites
from spatialonnx.graph.ops import find_predictors, write_plan
from spatialonnx.graph.sites import Site
from spatialonnx.measure.experiment import Experiment
from spatialonnx.measure.network import Network
from spatialonnx.measure.samples import Samples
from spatialonnx.plan.masks import SiteMask, make_mask, uniform_mask
from spatialonnx.plan.patterns import full_pattern
from spatialonnx.plan.plan import PlanLike
from spatialonnx.runtime.progress import ProgressCallback, report_stage
from spatialonnx.runtime.session import Runtime
from spatialonnx.runtime.timing import (
    WARMUP,
    Images,
    ProfiledSession,
    Schedule,
    count_runs,
    time_alternately,
)
from spatialonnx.simulate.latency_table import ShapeTimes, mask_kind, site_shapes
from spatialonnx.simulate.site_timing import ROUNDS, SiteTime, time_sites

TIMED_IMAGES = 16
_MULTIPLES = (0.5, 2.0)
"""Thresholds of the plans that predict more, as multiples of a channel's mean activation."""
_OFF = (3, 1)
"""Channels that are off for every one that predicts, in the plans that predict less."""
_QUANTILE = 0.25
"""Quantile of a node's runs: other load only adds time."""
Means = Mapping[str, NDArray[np.float64]]
"""The mean positive activation of every channel, by site."""


@dataclass(frozen=True, eq=False)
class _Timed:
    """What is timed.

    Attributes:
        proto: The model with SpatialPredict nodes.
        network: The same, opened.
        sites: Its sites that can be fused.
        unfusable: Those that cannot.
        images: The images to run.
        runtime: Threads.
    """

    proto: onnx.ModelProto
    network: Network
    sites: tuple[Site, ...]
    unfusable: tuple[str, ...]
    images: Images
    runtime: Runtime


def measure_shapes(
    experiment: Experiment,
    sizes: Sequence[int],
    patterns: int,
    means: Means,
    progress: ProgressCallback | None = None,
) -> dict[str, ShapeTimes]:
    """Times every shape among the sites of a model.

    Args:
        experiment: A model with SpatialPredict nodes; how fast a site is depends on the images.
        sizes: Patch sizes.
        patterns: Patterns that the channels of a site share.
        means: The mean positive activation of every channel, by site; empty = no thresholds are
            timed.
        progress: Called with what is timed.
    """
    proto = experiment.model.proto
    network = Network(proto, experiment.runtime)
    predicting = {p.site for p in find_predictors(proto)}
    reasons = explain_unfusable(proto)
    every = experiment.sites.sites
    sites = tuple(s for s in every if s.name in predicting and s.name not in reasons)
    if not sites:
        return {}
    images = timed_images(network, experiment.search)
    timed = _Timed(proto, network, sites, tuple(reasons), images, experiment.runtime)
    names = site_shapes(proto, sites)
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    alone: dict[str, list[SiteTime]] = {}
    for size in sizes:
        plans = _plans(timed, size, patterns, means)
        first = _time_alone(timed, plans[0], progress)
        report_stage(progress, f"timing masks of patch size {size}")
        for site, points in _time_plans(timed, plans, first).items():
            shape = names[site]
            alone.setdefault(shape, []).append(first[site])
            kinds = found.setdefault(shape, {})
            kinds.setdefault(mask_kind(size, patterns), []).extend(points)
    per_image = 1 / len(images[0])
    return {
        shape: ShapeTimes(
            float(np.median([time.dense for time in alone[shape]])) * per_image,
            float(np.median([time.layout for time in alone[shape]])) * per_image,
            {
                kind: tuple(sorted((kept, s * per_image) for kept, s in points))
                for kind, points in kinds.items()
            },
        )
        for shape, kinds in found.items()
    }


def _plans(timed: _Timed, size: int, patterns: int, means: Means) -> list[dict[str, SiteMask]]:
    """The plans that are timed, from the one that predicts least to the one that predicts most.

    Where the channels of a site differ, a search switches more and more of them on; where they
    all share one pattern, it takes away probes.
    """
    full = full_pattern(size)
    one_probe = [1 << k for k in range(min(patterns, size * size))]
    few = (
        [[full ^ 1]]
        if patterns == 1
        else [one_probe + off * len(one_probe) * [full] for off in _OFF]
    )
    plans = [
        {site.name: _mask(site, size, chosen) for site in timed.sites}
        for chosen in (*few, one_probe)
    ]
    higher = [
        {
            name: replace(mask, threshold=(means[name] * multiple).astype(np.float32))
            for name, mask in plans[-1].items()
        }
        for multiple in (_MULTIPLES if means else ())
    ]
    return [*plans, *higher]


def _mask(site: Site, size: int, patterns: Sequence[int]) -> SiteMask:
    """The patterns, alternating from channel to channel."""
    channels = site.shape[0]
    if len(patterns) == 1 or not channels:
        return uniform_mask(size, patterns[0])
    return make_mask(size, np.resize(patterns, channels)[:, None, None])


def _time_alone(
    timed: _Timed, plan: PlanLike, progress: ProgressCallback | None
) -> dict[str, SiteTime]:
    """Every site against itself left dense."""
    return time_sites(
        write_plan(timed.proto, plan),
        [site.name for site in timed.sites],
        timed.unfusable,
        timed.images,
        timed.runtime,
        shares={},
        progress=progress,
    )


def _time_plans(
    timed: _Timed, plans: Sequence[PlanLike], first: Mapping[str, SiteTime]
) -> dict[str, list[tuple[float, float]]]:
    """What every site keeps and takes under every plan, all sites fused, in alternation.

    The first plan was timed before, against the dense sites; the others are taken relative to it.
    """
    fused = [site.name for site in timed.sites]
    sessions = [
        ProfiledSession(
            fuse_sites(write_plan(timed.proto, plan), fused, timed.unfusable), timed.runtime
        )
        for plan in plans
    ]
    burst = Schedule(ROUNDS).burst
    time_alternately([s.session for s in sessions], timed.images, ROUNDS, burst=burst)
    size = count_runs(ROUNDS, WARMUP, burst)
    nodes = [s.node_times(size).between(WARMUP, size).seconds for s in sessions]
    kept = [_kept(timed, plan) for plan in plans]
    points: dict[str, list[tuple[float, float]]] = {}
    for site in fused:
        seconds = [float(np.quantile(own[site], _QUANTILE)) for own in nodes]
        scale = first[site].fused / seconds[0] if seconds[0] > 0 else 1.0
        points[site] = [
            (own[site], taken * scale) for own, taken in zip(kept, seconds, strict=True)
        ]
    return points


def _kept(timed: _Timed, plan: PlanLike) -> dict[str, float]:
    """The share of its outputs that every site computes."""
    predicted = predicted_macs(timed.network, timed.sites, timed.images, plan)
    return {site.name: 1 - predicted[site.name] / site_macs(site) for site in timed.sites}


def site_macs(site: Site) -> int:
    """MACs of a site for one image, at least 1."""
    outputs = int(np.prod([d or 0 for d in site.shape], dtype=np.int64))
    return max(1, site.macs_per_output * outputs)


def timed_images(network: Network, samples: Samples) -> list[NDArray[np.float32]]:
    """Batches of one image each, [1, C, H, W], unless the model has another fixed size."""
    size = network.fixed_batch or 1
    indices = np.resize(samples.indices, TIMED_IMAGES * size)
    return [samples.dataset.images(part) for part in np.split(indices, TIMED_IMAGES)]


def predicted_macs(
    network: Network, sites: Sequence[Site], images: Images, plan: PlanLike
) -> dict[str, float]:
    """Mean MACs of predicted outputs per image, by site.

    Args:
        network: The model, opened.
        sites: Its sites.
        images: The images to run.
        plan: Masks of the sites that predict, the others being off.
    """
    counts = {site.name: 0 for site in sites}
    for batch in images:
        outputs = network.run(batch, plan)
        for name in counts:
            counts[name] += int(outputs[f"{name}/skipped"].sum())
    samples = sum(len(batch) for batch in images)
    return {site.name: counts[site.name] * site.macs_per_output / samples for site in sites}
