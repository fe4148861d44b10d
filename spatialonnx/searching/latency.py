"""Latency as the goal of a search: the time that a site's predictions save, instead of MACs.

A fused site takes its dense time plus an overhead, minus a fixed time per predicted MAC. Both
numbers are measured inside the model, once per search, with few and with many outputs predicted. A
site that saves less than its overhead saves nothing: deploy leaves it dense.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from spatialonnx.errors import StudyError, UsageError
from spatialonnx.graph.fuse import explain_unfusable
from spatialonnx.graph.ops import find_predictors, write_plan
from spatialonnx.graph.sites import Site
from spatialonnx.measure.experiment import Experiment
from spatialonnx.measure.network import Network
from spatialonnx.measure.samples import Samples
from spatialonnx.plan.masks import SiteMask, make_mask, uniform_mask
from spatialonnx.plan.patterns import full_pattern
from spatialonnx.plan.plan import PlanLike
from spatialonnx.runtime.progress import ProgressCallback
from spatialonnx.searching.ranking import Contender
from spatialonnx.searching.study import Study
from spatialonnx.simulate.site_timing import SiteTime, time_sites

TIMED_IMAGES = 16
MOST_PLANS = 200
"""Number of plans, those that save the most MACs, whose times are compared for the final choice."""
_TELLING = 0.02
"""Share of a site's MACs by which two savings must differ for a slope."""
_UNIT = 1e-12
"""Seconds per unit of an option's saving: searches compare integers."""
Batch = NDArray[np.float32]


@dataclass(frozen=True)
class SiteSpeed:
    """The time that predicting at a site saves.

    Attributes:
        macs: MACs of the site, for one image.
        overhead: Additional seconds per image of the fused site when nothing is predicted.
        per_mac: Seconds that one predicted MAC saves.
    """

    macs: int
    overhead: float
    per_mac: float

    def saved(self, macs: float) -> float:
        """Seconds per image saved by predicting this many MACs of it; at least 0."""
        return max(0.0, self.per_mac * macs - self.overhead)


@dataclass(frozen=True)
class LatencyModel:
    """The time that predictions save, by site."""

    speeds: Mapping[str, SiteSpeed]

    def saved(self, macs: Mapping[str, float]) -> float:
        """Seconds saved per image, from the MACs predicted at each site."""
        return sum(self.speeds[site].saved(count) for site, count in macs.items())

    def benefit(self, sites: Sequence[str], saved: int, samples: int) -> int:
        """The benefit in time of MACs saved at a layer, or at coupled ones.

        Args:
            sites: The layer, or the coupled ones, which share the MACs in proportion to their size.
            saved: The MACs, on all samples.
            samples: Number of samples.
        """
        total = sum(self.speeds[site].macs for site in sites) or 1
        share = {s: saved / samples * self.speeds[s].macs / total for s in sites}
        return round(self.saved(share) / _UNIT)

    def to_text(self) -> str:
        """The text form for the study: a continued search must use the same times."""
        return json.dumps({site: asdict(speed) for site, speed in self.speeds.items()})

    @staticmethod
    def from_text(text: str) -> LatencyModel:
        """Reads what ``to_text`` wrote.

        Raises:
            StudyError: It is damaged.
        """
        try:
            found = {
                str(site): SiteSpeed(int(v["macs"]), float(v["overhead"]), float(v["per_mac"]))
                for site, v in json.loads(text).items()
            }
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise StudyError("the study's site times are damaged: start another one") from None
        return LatencyModel(found)


def measure_latency(
    experiment: Experiment,
    patch_size: int,
    patterns: Sequence[int],
    *,
    by_channel: bool = False,
    progress: ProgressCallback | None = None,
) -> LatencyModel:
    """Times every site with few and with many of its outputs predicted.

    The kernel computes the probes of a block of channels together, then the rest of each patch for
    the channels that fired. Both steps are slower if the channels' patterns differ, so for a mode
    in which they may differ, different patterns are timed.

    Args:
        experiment: The model with SpatialPredict nodes; how fast a site is depends on the images.
        patch_size: Side of a patch.
        patterns: Patterns of the search; the one with the fewest probes predicts the most.
        by_channel: Whether the channels of a site may take different patterns.
        progress: Called with what is timed.

    Raises:
        UsageError: The runtime is not the CPU.
    """
    if experiment.runtime.provider != "cpu":
        raise UsageError("--goal latency times SpatialConv on the CPU: use --provider cpu")
    proto, runtime = experiment.model.proto, experiment.runtime
    network = Network(proto, runtime)
    images = timed_images(network, experiment.search)
    full = full_pattern(patch_size)
    many = sorted(patterns, key=lambda pattern: (pattern.bit_count(), pattern))
    used = 2 if by_channel else 1
    predicting = {p.site for p in find_predictors(proto)}
    every = experiment.sites.sites
    found = []
    for chosen in ((full ^ 1, full ^ 2)[:used], many[:used]):
        plan = {
            site.name: _mixed_mask(site, patch_size, chosen)
            for site in every
            if site.name in predicting
        }
        saved = predicted_macs(network, every, images, plan)
        masked = write_plan(proto, plan)
        unfusable = explain_unfusable(masked)
        sites = [site.name for site in every if site.name not in unfusable]
        times = time_sites(
            masked, sites, list(unfusable), images, runtime, shares={}, progress=progress
        )
        found.append((saved, times))
    per_image = 1 / len(images[0])
    return LatencyModel(
        {
            site.name: _fit(
                site,
                [
                    (saved[site.name], times[site.name], per_image)
                    for saved, times in found
                    if site.name in times
                ],
            )
            for site in every
        }
    )


def _mixed_mask(site: Site, patch_size: int, patterns: Sequence[int]) -> SiteMask:
    """The patterns, alternating from channel to channel."""
    channels = site.shape[0]
    if len(patterns) == 1 or not channels:
        return uniform_mask(patch_size, patterns[0])
    return make_mask(patch_size, np.resize(patterns, channels)[:, None, None])


def _fit(site: Site, points: Sequence[tuple[float, SiteTime, float]]) -> SiteSpeed:
    """Fits a line through two points: predicted MACs against time, both for one image."""
    macs = site.macs_per_output * int(np.prod([d or 0 for d in site.shape], dtype=np.int64))
    if len(points) < 2:
        return SiteSpeed(macs, 0.0, 0.0)
    (few, slow, scale), (many, fast, _) = points
    dense = (slow.dense + fast.dense) / 2 * scale
    before, after = ((time.fused + time.layout) * scale for time in (slow, fast))
    per_mac = dense / max(macs, 1)
    if many - few > _TELLING * macs and before > after:
        per_mac = (before - after) / (many - few)
    return SiteSpeed(macs, after + per_mac * many - dense, per_mac)


def timed_images(network: Network, samples: Samples) -> list[Batch]:
    """Batches of one image each, unless the model has another fixed size."""
    size = network.fixed_batch or 1
    indices = np.resize(samples.indices, TIMED_IMAGES * size)
    return [samples.dataset.images(part) for part in np.split(indices, TIMED_IMAGES)]


def predicted_macs(
    network: Network, sites: Sequence[Site], images: Sequence[Batch], plan: PlanLike
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


def fastest_first(
    latency: LatencyModel, experiment: Experiment, study: Study, contenders: Sequence[Contender]
) -> list[Contender]:
    """The trials that save the most MACs, the one that saves the most time first.

    How much each site predicts depends on the others, so it is counted for every plan.
    """
    network = Network(experiment.model.proto, experiment.runtime)
    images = timed_images(network, experiment.search)
    sites = experiment.sites.sites

    def saved(contender: Contender) -> float:
        return latency.saved(predicted_macs(network, sites, images, study.plan(contender.key)))

    return sorted(contenders[:MOST_PLANS], key=saved, reverse=True)
