"""The share of its MACs that a site must save to gain time on this machine.

A fused site takes a fixed time and a time per MAC that it computes. Both come from three profiled
sessions of the whole network: dense, and with every site fused under two plans whose thresholds
make a known share of its patches predict. This costs seconds, where timing every site against
itself left dense, as ``deploy`` does, costs minutes for a large network.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from spatialonnx.graph.fuse import dense_form, explain_unfusable, fuse_sites
from spatialonnx.graph.ops import Predictor, find_predictors, write_plan
from spatialonnx.graph.sites import Site
from spatialonnx.plan.masks import SiteMask, uniform_mask
from spatialonnx.runtime.session import Runtime
from spatialonnx.runtime.timing import (
    WARMUP,
    NodeTimes,
    ProfiledSession,
    count_runs,
    time_alternately,
)
from spatialonnx.simulate.segments import SegmentedNetwork
from spatialonnx.simulate.site_timing import LAYOUT_OPS

PATCH_SIZE, PATTERN = 2, 0b0001
"""One probe per 2 x 2 patch, the same in all channels: what the kernels skip best."""
_SHARES = (0.5, 0.85)
"""Share of the patches that predict under the two plans."""
_ROUNDS, _BURST = 4, 3
_LARGE = 5 * 10**9
"""MACs of a batch from which single runs are timed: caches are refilled within one."""
_QUANTILE = 0.25
"""Quantile of a node's runs: other load only adds time."""
_RENAMED = re.compile(r"(_nchwc|_token_\d+)+$")
"""What ONNX Runtime appends to the names of nodes and tensors when it changes their layout."""


@dataclass(frozen=True)
class BreakEven:
    """The time of a site for one image, in seconds.

    Attributes:
        dense: Left dense.
        fixed: Fused, whatever it saves.
        computed: Fused, beside that, when it computes all of its MACs.
    """

    dense: float
    fixed: float
    computed: float

    def fused(self, saved: float) -> float:
        """Its time when it is fused and saves this share of its MACs."""
        return self.fixed + self.computed * (1 - saved)

    def needed(self, guard: float = 1.0) -> float | None:
        """The share of its MACs that it must save to be faster by a factor.

        Args:
            guard: The factor.

        Returns:
            The share; None where no share is enough.
        """
        if self.fixed >= self.dense / guard:
            return None
        return max(0.0, 1 - (self.dense / guard - self.fixed) / max(self.computed, 1e-12))


@dataclass(frozen=True)
class Pace:
    """The times of a network and its sites on this machine.

    Attributes:
        seconds: The dense network, for one image.
        sites: The sites that can be fused, by name.
        spread: How far apart equal runs of the dense network are, as a fraction of their median.
    """

    seconds: float
    sites: Mapping[str, BreakEven]
    spread: float = 0.0


def measure_pace(
    proto: onnx.ModelProto,
    sites: Sequence[Site],
    images: NDArray[np.float32],
    runtime: Runtime,
    *,
    fixed: int | None = None,
) -> Pace:
    """Times a network dense, and with every site fused at two shares of predicted outputs.

    Args:
        proto: A model with SpatialPredict nodes, of floats or of 8-bit values.
        sites: Its sites.
        images: Some images, a multiple of ``fixed``.
        runtime: Provider and threads.
        fixed: Images that the model takes at once; None where any number will do, which is timed
            image by image.
    """
    unfusable = explain_unfusable(proto)
    fused = [site.name for site in sites if site.name not in unfusable]
    batch = fixed or 1
    batches = np.split(images, len(images) // batch)
    parts = batches if fixed else [images]
    network = SegmentedNetwork(proto, parts[0], runtime, fixed=fixed is not None)
    found = [_find_plan(network, parts, share) for share in _SHARES]
    del network
    models = [dense_form(proto)]
    models += [fuse_sites(write_plan(proto, plan), fused, list(unfusable)) for plan, _ in found]
    profiled = [ProfiledSession(model, runtime) for model in models]
    large = batch * sum(site_macs(site) for site in sites) > _LARGE
    warmup, burst = (1, 1) if large else (WARMUP, _BURST)
    timings = time_alternately(
        [p.session for p in profiled], batches, _ROUNDS, warmup=warmup, burst=burst
    )
    count = count_runs(_ROUNDS, warmup, burst)
    dense, *both = (p.node_times(count).between(warmup, count) for p in profiled)
    own = _times_of_sites(dense, sites, find_predictors(proto))
    # Reordering around fused sites is spread over them.
    layout = [(_layout(nodes) - _layout(dense)) / max(len(fused), 1) for nodes in both]
    paces = {}
    for name in fused:
        if all(name in nodes.seconds for nodes in both):
            points = [
                (saved[name], (_median(nodes, name) + extra) / batch)
                for (_, saved), nodes, extra in zip(found, both, layout, strict=True)
            ]
            paces[name] = _fit(own[name] / batch, points)
    return Pace(timings[0].median / batch, paces, timings[0].spread)


def _find_plan(
    network: SegmentedNetwork, parts: Sequence[NDArray[np.float32]], share: float
) -> tuple[dict[str, SiteMask], dict[str, float]]:
    """A plan under which about this share of every site's patches predict, and what it saves.

    The thresholds are quantiles of the probes, site after site, because what one site predicts
    changes the maps of the next.
    """
    activations = [network.advance(0, network.start(images))[0] for images in parts]
    plan: dict[str, SiteMask] = {}
    saved: dict[str, float] = {}
    for number, predictor in enumerate(network.predictors, start=1):
        ofmaps = [network.ofmap(number, part) for part in activations]
        probes = np.concatenate([ofmap[:, :, ::PATCH_SIZE, ::PATCH_SIZE] for ofmap in ofmaps])
        threshold = max(float(np.quantile(np.nan_to_num(probes), share)), 0.0)
        mask = uniform_mask(PATCH_SIZE, PATTERN, threshold)
        advanced = [network.advance(number, part, mask) for part in activations]
        activations = [part for part, _ in advanced]
        skipped = sum(int(counts.sum()) for _, counts in advanced if counts is not None)
        plan[predictor.site] = mask
        saved[predictor.site] = skipped / sum(ofmap.size for ofmap in ofmaps)
    return plan, saved


def _fit(dense: float, points: Sequence[tuple[float, float]]) -> BreakEven:
    """A line through two points: share saved against fused time."""
    (low, slow), (high, fast) = points
    computed = dense
    if high - low > 0.05 and slow > fast:
        computed = (slow - fast) / (high - low)
    fixed = max(fast - computed * (1 - high), 0.0)
    return BreakEven(dense, fixed, computed)


def _times_of_sites(
    dense: NodeTimes, sites: Sequence[Site], predictors: Sequence[Predictor]
) -> dict[str, float]:
    """The dense time of every site.

    ONNX Runtime names an optimised Conv after the Conv or after the tensor that it writes. A site
    whose node is not found gets a part of all that was found, by its MACs.
    """
    outputs = {p.site: {p.source, p.output} for p in predictors}
    by_name = {_RENAMED.sub("", name): name for name in dense.seconds}
    found: dict[str, float] = {}
    for site in sites:
        names = {site.conv, *outputs.get(site.name, set())}
        own = {by_name[name] for name in names if name in by_name}
        if own:
            found[site.name] = sum(_median(dense, name) for name in own)
    macs = {site.name: site_macs(site) for site in sites}
    total = sum(macs[name] for name in found)
    rate = sum(found.values()) / total if total else 0.0
    return {site.name: found.get(site.name, rate * macs[site.name]) for site in sites}


def site_macs(site: Site) -> int:
    """MACs of a site for one image; 0 where its map is dynamic."""
    return site.macs_per_output * int(np.prod([d or 0 for d in site.shape], dtype=np.int64))


def _median(nodes: NodeTimes, name: str) -> float:
    return float(np.quantile(nodes.seconds[name], _QUANTILE))


def _layout(nodes: NodeTimes) -> float:
    return sum(_median(nodes, name) for name in nodes.seconds if nodes.ops[name] in LAYOUT_OPS)
