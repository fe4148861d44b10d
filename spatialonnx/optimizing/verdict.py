"""The early verdict: what every site must save to gain on this machine, and what it may save.

It takes a code histogram, a few trials of one site at a time and a few timed runs, and comes before
any search. Where no site can gain, no search is worth its time.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np

from spatialonnx.data.classes import has_class_folders
from spatialonnx.deployment.quantize import quantize_samples
from spatialonnx.errors import ModelError
from spatialonnx.measure.doubts import doubts
from spatialonnx.measure.experiment import Experiment
from spatialonnx.measure.samples import Samples
from spatialonnx.model.metadata import fixed_batch
from spatialonnx.model.model_file import ModelFile
from spatialonnx.optimizing.break_even import Pace, measure_pace, site_macs
from spatialonnx.plan.macs import fraction
from spatialonnx.runtime.machine import saturates_int8
from spatialonnx.runtime.progress import ProgressCallback, report_stage
from spatialonnx.searching.rate_distortion.code_tables import Choices
from spatialonnx.searching.rate_distortion.families import find_operating_points
from spatialonnx.searching.rate_distortion.operating_points import OperatingPoint
from spatialonnx.searching.rate_distortion.profile import masks_of
from spatialonnx.searching.settings import Settings
from spatialonnx.searching.strategies import find_multiples
from spatialonnx.searching.targets import Grain, Layout
from spatialonnx.simulate.latency_table import GUARD
from spatialonnx.simulate.segmented import SegmentSimulator

FLOAT, INT8 = "float32", "int8"
_MACS = 10**11
"""MACs of the images that a verdict looks at: 300 of a small network, few of a large one."""
_FEWEST, _MOST = 12, 300
_BATCHES = 3
"""Batches of these, at least: what opens a network runs several batches through it."""
_TIMED_MACS = 4 * 10**10
"""MACs of the images that are timed."""
_FEWEST_TIMED, _MOST_TIMED = 2, 8
_CALIBRATED = 64
_BUSY = 0.3
"""Spread of equal runs above which the times are doubted."""
"""Images that 8-bit ranges are calibrated on at most: only the time matters here."""
_PATIENCE = 30.0
"""Seconds of trials; the sites that are left then are taken to save whatever a pattern saves."""
_CALM = 0.97
"""Time, as a multiple of the dense network's, above which a search is not worth its time."""


@dataclass(frozen=True)
class SiteVerdict:
    """What one site must and may save, as shares of its own MACs.

    Attributes:
        name: The site.
        share: Its MACs as a fraction of all Convs'.
        most: The most that it may save within the bound while all other sites are off.
        tried: Whether trials say so; otherwise no pattern saves more, whatever it costs.
        needed: By precision, the least that it must save to gain; None where it cannot gain.
    """

    name: str
    share: float
    most: float
    tried: bool
    needed: Mapping[str, float | None]

    def may_gain(self, precision: str) -> bool:
        """Whether the bound lets it save enough."""
        needed = self.needed.get(precision)
        return needed is not None and self.most >= needed


@dataclass(frozen=True)
class Verdict:
    """The early verdict on a network.

    Attributes:
        samples: Images that were looked at.
        dense_ms: Time of the dense network for one image, by precision, in milliseconds.
        best: The least time that the bound may give without training, as a multiple of the dense
            network's of the same precision: every site saves the most that it may alone.
        sites: In graph order.
        seconds: Time that the verdict took.
    """

    samples: int
    dense_ms: Mapping[str, float]
    best: Mapping[str, float]
    sites: tuple[SiteVerdict, ...]
    seconds: float

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precisions that were timed."""
        return tuple(self.dense_ms)

    @property
    def fastest(self) -> str:
        """The precision in which the dense network is fastest."""
        return min(self.dense_ms, key=lambda name: self.dense_ms[name])

    def may_pay(self, precision: str) -> bool:
        """Whether a search may pay in a precision."""
        return self.best[precision] < _CALM

    def to_json(self) -> dict[str, Any]:
        """The entry ``verdict`` of what ``optimize --json`` prints."""
        return {
            "samples": self.samples,
            "dense_ms": dict(self.dense_ms),
            "best": dict(self.best),
            "may_pay": {name: self.may_pay(name) for name in self.precisions},
            "sites": [{**vars(site), "needed": dict(site.needed)} for site in self.sites],
            "seconds": self.seconds,
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Verdict:
        """Reads what ``to_json`` gave."""
        return Verdict(
            samples=value["samples"],
            dense_ms=value["dense_ms"],
            best=value["best"],
            sites=tuple(SiteVerdict(**site) for site in value["sites"]),
            seconds=value["seconds"],
        )


def give_verdict(
    experiment: Experiment,
    precisions: Sequence[str],
    *,
    memory: int | None = None,
    progress: ProgressCallback | None = None,
) -> Verdict:
    """Gives the early verdict.

    Args:
        experiment: The spatial model in floats, its data and one bound. Only search images are
            read.
        precisions: ``float32``, and ``int8``, which is left out where it cannot be had.
        memory: Bytes that the process may take; None = half of the free memory.
        progress: Called with how far it is.

    Raises:
        ModelError: The model cannot be cut at its sites.
        DataError: The images do not fit.
    """
    start = time.monotonic()
    macs = experiment.sites.conv_macs or _MACS
    samples = int(np.clip(_MACS // macs, _FEWEST, _MOST))
    few = replace(experiment.split, search=experiment.split.search[:samples])
    batch = min(experiment.batch, max(samples // _BATCHES, 1))
    experiment = replace(experiment, split=few, batch=batch)
    paces = {}
    for precision in precisions:
        report_stage(progress, f"verdict: timing the network in {precision}")
        try:
            paces[precision] = _measure(experiment, precision)
        except ModelError as error:
            if precision != INT8:
                raise
            report_stage(progress, f"8 bit is left out: {error}", warning=True)
    spread = max(pace.spread for pace in paces.values())
    if spread > _BUSY:
        report_stage(
            progress,
            f"warning: equal runs differ by {spread:.0%}: where other programs work on this "
            "machine, the times of the verdict may be far off",
            warning=True,
        )
    sites = _find_sites(experiment, paces, memory, progress)
    best = {
        name: 1 - sum(_saved(site, pace) for site in sites) / pace.seconds
        for name, pace in paces.items()
    }
    return Verdict(
        samples=len(experiment.search),
        dense_ms={name: 1e3 * pace.seconds for name, pace in paces.items()},
        best=best,
        sites=tuple(sites),
        seconds=time.monotonic() - start,
    )


def _measure(experiment: Experiment, precision: str) -> Pace:
    """The pace of the model as it is, or quantised on a few images."""
    fixed = fixed_batch(experiment.model.proto)
    batch = fixed or 1
    search = experiment.split.search
    macs = experiment.sites.conv_macs or _MACS
    timed = int(np.clip(_TIMED_MACS // macs, _FEWEST_TIMED, _MOST_TIMED))
    count = max(timed // batch, 1) * batch
    images = experiment.dataset.images(np.resize(search, count))
    if precision == INT8:
        calibration = Samples(experiment.dataset, search[:_CALIBRATED], "calibration")
        proto, _, _ = quantize_samples(experiment, calibration, reduce_range=saturates_int8())
        model = ModelFile(experiment.model.path, proto, experiment.model.sha256)
        experiment = replace(experiment, model=model)
    sites = experiment.sites.sites
    return measure_pace(experiment.model.proto, sites, images, experiment.runtime, fixed=fixed)


def _find_sites(
    experiment: Experiment,
    paces: Mapping[str, Pace],
    memory: int | None,
    progress: ProgressCallback | None,
) -> list[SiteVerdict]:
    """What every site must and may save."""
    report_stage(progress, "verdict: running the dense network")
    simulator = SegmentSimulator(experiment, memory=memory)
    labels, folders = experiment.search.labels, has_class_folders(experiment.search.dataset)
    metric = experiment.scored().metric
    for text in doubts(metric, simulator.known.dense, labels, folders=folders):
        report_stage(progress, f"warning: {text}", warning=True)
    (bound,) = experiment.bounds
    # One image more: so few of them do not resolve a small bound.
    limit = bound.eps(simulator.baseline) + Fraction(1, simulator.samples)
    settings = Settings()
    layout = Layout(simulator.sites, settings.patch_size)
    choices = Choices(settings.patterns[settings.patch_size], find_multiples(settings))
    deadline = time.monotonic() + _PATIENCE
    found = []
    for number, site in enumerate(simulator.sites, start=1):
        report_stage(progress, f"verdict: site {number} of {len(simulator.sites)}")
        needed = {
            name: pace.sites[site.name].needed(GUARD) if site.name in pace.sites else None
            for name, pace in paces.items()
        }
        points = find_operating_points(simulator, (site.name,), Grain(), layout, choices)
        own = site_macs(site) * simulator.samples
        goal = min((value for value in needed.values() if value is not None), default=None)
        most, tried = _most_within(simulator, layout, points, limit, goal, own, deadline)
        share = fraction(own, simulator.conv_total)
        found.append(SiteVerdict(site.name, share, fraction(most, own), tried, needed))
    return found


def _most_within(
    simulator: SegmentSimulator,
    layout: Layout,
    points: Sequence[OperatingPoint],
    limit: Fraction,
    goal: float | None,
    own: int,
    deadline: float,
) -> tuple[int, bool]:
    """The MACs that the last operating point within the limit saves, found by bisection.

    Returns:
        The MACs, and whether trials say so. Where no point saves what the site needs, and where
        the time is over, they are those of the last point that was not refused.
    """
    low, high = 0, len(points) - 1
    least = None
    if goal is not None:
        least = next((k for k, p in enumerate(points) if p.saved >= goal * own), None)
    if least is None:
        return points[high].saved, False
    middle = max(least, 1)  # first: can it gain at all?
    while low < high:
        if time.monotonic() > deadline:
            return points[high].saved, False
        plan = masks_of(points[middle], {layout.patch_size: layout})
        (outcome,) = simulator.simulate([plan], reject_above=limit)
        holds = outcome.score is not None and simulator.baseline - outcome.score <= limit
        low, high = (middle, high) if holds else (low, middle - 1)
        middle = (low + high + 1) // 2
    return points[low].saved, True


def _saved(site: SiteVerdict, pace: Pace) -> float:
    """Seconds that a site saves at best."""
    times = pace.sites.get(site.name)
    return 0.0 if times is None else max(0.0, times.dense - times.fused(site.most))


def describe_verdict(verdict: Verdict) -> str:
    """The verdict in one line."""
    times = ", ".join(f"dense {name} {ms:.2f} ms" for name, ms in verdict.dense_ms.items())
    parts = []
    for name in verdict.precisions:
        sites = sum(site.may_gain(name) for site in verdict.sites)
        parts.append(
            f"{name}: {sites} of {len(verdict.sites)} sites may gain, at best "
            f"{verdict.best[name]:.2f} of dense"
            + ("" if verdict.may_pay(name) else ", which cannot pay")
        )
    return f"early verdict for an untuned network: {times}; {'; '.join(parts)}"
