"""Latency as the goal of a search: the time that a site's predictions save, instead of MACs.

What a site takes is read from a latency table: dense, and fused under a mask that keeps so many
outputs. A site that gains too little saves nothing: deploy leaves it dense.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spatialonnx.errors import StudyError, UsageError
from spatialonnx.files import check_writable
from spatialonnx.graph.sites import Site
from spatialonnx.measure.experiment import Experiment
from spatialonnx.measure.network import Network
from spatialonnx.plan.plan import PlanLike
from spatialonnx.runtime.progress import ProgressCallback
from spatialonnx.searching.ranking import Contender
from spatialonnx.searching.study import Study
from spatialonnx.simulate.latency_table import (
    LatencyTable,
    ShapeTimes,
    environment,
    mask_kind,
    read_table,
    site_shapes,
    write_table,
)
from spatialonnx.simulate.measuring_latency import (
    Means,
    measure_shapes,
    predicted_macs,
    site_macs,
    timed_images,
)

MANY_PATTERNS = 4
"""Patterns of the masks that are timed where their number has no limit."""
MOST_PLANS = 200
"""Number of plans, those that save the most MACs, whose times are compared for the final choice."""
_UNIT = 1e-12
"""Seconds per unit of an option's saving: searches compare integers."""
_NEVER = ShapeTimes(0.0, 0.0)
"""A site that cannot be fused."""


@dataclass(frozen=True)
class SiteSpeed:
    """The time of a site.

    Attributes:
        macs: MACs of the site, for one image.
        times: The times of its shape.
    """

    macs: int
    times: ShapeTimes

    def saved(self, macs: float, kind: str) -> float:
        """Seconds per image saved by predicting this many MACs of it under a kind of mask."""
        return self.times.saved(kind, 1 - macs / max(self.macs, 1))


@dataclass(frozen=True)
class LatencyModel:
    """The time that predictions save, by site.

    Attributes:
        speeds: By site.
        patterns: Patterns that the channels of a site share.
        measured_by: What the times depend on: processor, kernels, threads and versions.
    """

    speeds: Mapping[str, SiteSpeed]
    patterns: int = 1
    measured_by: str = ""

    def saved(self, macs: Mapping[str, float], plan: PlanLike) -> float:
        """Seconds saved per image, from the MACs predicted at each site under a plan."""
        return sum(
            self.speeds[site].saved(count, mask_kind(plan[site].patch_size, self.patterns))
            for site, count in macs.items()
            if site in plan
        )

    def benefit(self, sites: Sequence[str], saved: int, patch_size: int, *, samples: int) -> int:
        """The benefit in time of MACs saved at a layer, or at coupled ones.

        Args:
            sites: The layer, or the coupled ones, which share the MACs in proportion to their size.
            saved: The MACs, on all samples.
            patch_size: Side of a patch.
            samples: Number of samples.
        """
        total = sum(self.speeds[site].macs for site in sites) or 1
        kind = mask_kind(patch_size, self.patterns)
        return sum(
            round(self.speeds[s].saved(saved / samples * self.speeds[s].macs / total, kind) / _UNIT)
            for s in sites
        )

    def to_text(self) -> str:
        """The text form for the study: a continued search must use the same times."""
        table = LatencyTable({site: speed.times for site, speed in self.speeds.items()})
        macs = {site: speed.macs for site, speed in self.speeds.items()}
        content = {"patterns": self.patterns, "macs": macs, "times": table.to_json()}
        return json.dumps({**content, "measured_by": self.measured_by})

    @staticmethod
    def untimed(sites: Sequence[Site]) -> LatencyModel:
        """What is known of sites that were not timed: predicting them saves nothing."""
        return LatencyModel({site.name: SiteSpeed(site_macs(site), _NEVER) for site in sites})

    @staticmethod
    def from_text(text: str) -> LatencyModel:
        """Reads what ``to_text`` wrote.

        Raises:
            StudyError: It is damaged.
        """
        try:
            content = json.loads(text)
            times = LatencyTable.from_json(content["times"]).shapes
            macs = {str(site): int(count) for site, count in content["macs"].items()}
            speeds = {site: SiteSpeed(count, times[site]) for site, count in macs.items()}
            measured_by = str(content.get("measured_by", ""))
            return LatencyModel(speeds, int(content["patterns"]), measured_by)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            raise StudyError("the study's site times are damaged: start another one") from None


def measure_latency(
    experiment: Experiment,
    sizes: Sequence[int],
    patterns: int,
    means: Callable[[], Means],
    *,
    table: Path | None = None,
    progress: ProgressCallback | None = None,
) -> LatencyModel:
    """The times of a model's sites, measured where a table does not hold them.

    Args:
        experiment: The model with SpatialPredict nodes.
        sizes: Patch sizes.
        patterns: Patterns that the channels of a site share: the kernels work through the channels
            pattern by pattern.
        means: Gives the mean positive activation of every channel, by site.
        table: The file of a latency table, read first and completed.
        progress: Called with what is timed.

    Raises:
        UsageError: The runtime is not the CPU.
        InputError: The table is damaged.
        OutputError: It cannot be written.
    """
    if experiment.runtime.provider != "cpu":
        raise UsageError(
            "--goal latency times SpatialConv and SpatialQConv on the CPU: use --provider cpu"
        )
    sites = experiment.sites.sites
    shapes = site_shapes(experiment.model.proto, sites)
    known = LatencyTable() if table is None else read_table(table, experiment.runtime)
    kinds = tuple(mask_kind(size, patterns) for size in sizes)
    if any(known.lacks(shape, kinds) for shape in shapes.values()):
        if table is not None:
            check_writable(table)
        known = known.joined(measure_shapes(experiment, sizes, patterns, means(), progress))
        # A shape that cannot be fused is not timed again.
        never = {shape: ShapeTimes(0.0, 0.0, dict.fromkeys(kinds, ())) for shape in shapes.values()}
        known = known.joined(never)
        if table is not None:
            write_table(table, experiment.runtime, known)
    return LatencyModel(
        {
            site.name: SiteSpeed(
                site_macs(site), known.shapes.get(shapes.get(site.name, ""), _NEVER)
            )
            for site in sites
        },
        patterns,
        environment(experiment.runtime),
    )


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
        plan = study.plan(contender.key)
        return latency.saved(predicted_macs(network, sites, images, plan), plan)

    return sorted(contenders[:MOST_PLANS], key=saved, reverse=True)
