"""Profiling: a few trials per layer convert lost signal into distortion."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median

from spatialonnx.plan.plan import Plan, PlanLike
from spatialonnx.searching.benefit import Benefit
from spatialonnx.searching.rate_distortion.distortion import (
    Layer,
    interpolate,
    make_layer,
    rising,
)
from spatialonnx.searching.rate_distortion.operating_points import OperatingPoint
from spatialonnx.searching.targets import Layout
from spatialonnx.searching.trials import Candidate, Trial, Trials

PROFILE = "profile"
Curve = list[tuple[float, float]]
"""Lost signal and distortion of the points that were measured."""

NEGLIGIBLE = 1e-9
"""Distortion, in nats, of a plan that has none."""
_MEASURED, _MEASURED_UNDER_THRESHOLDS = (0.3, 0.75), (0.2, 0.5)
"""Points of a layer that are measured, as fractions of their number, for every patch size. The last
ones under thresholds lose more than any plan allows."""
_LEAST = 0.05
"""Least distortion of a layer of a tuned network, as a fraction of the other layers'."""


def profile_layers(
    trials: Trials,
    groups: Sequence[Sequence[str]],
    tables: Sequence[Sequence[Sequence[OperatingPoint]]],
    layouts: Mapping[int, Layout],
    benefit: Benefit,
    initial: PlanLike,
    begun: Trial,
) -> list[Layer]:
    """Measures a few operating points of every layer and interpolates the others.

    Args:
        trials: Runs and journals candidates.
        groups: The layers: coupled sites.
        tables: The operating points of every layer, one list per patch size, the initial masks
            first.
        layouts: How maps are cut, by patch size.
        benefit: The benefit of saving MACs.
        initial: The initial plan.
        begun: The trial of the initial plan.
    """
    # With an initial plan, a trial starts where it differs from the last one: deepest layers first.
    order = list(reversed(range(len(groups))) if initial else range(len(groups)))
    chosen = [
        (k, part, p) for k in order for part, own in enumerate(tables[k]) for p in _measured(own)
    ]
    candidates = (
        Candidate("+".join(groups[k]), point.label, {**initial, **masks_of(point, layouts)})
        for k, _, point in chosen
    )
    curves: dict[int, list[Curve]] = {k: [[] for _ in tables[k]] for k in order}
    measured = trials.run(PROFILE, candidates, len(chosen), reject=False)
    for (k, part, point), trial in zip(chosen, measured, strict=True):
        distortion = (trial.outcome.kl or 0.0) - (begun.outcome.kl or 0.0)
        curves[k][part].append((point.lost, distortion))
    least = least_distortion(curves.values()) if initial else 0.0
    return [
        interpolate_layer(groups[k], tables[k], curves[k], least, benefit)
        for k in range(len(groups))
    ]


def _measured(own: Sequence[OperatingPoint]) -> list[OperatingPoint]:
    """The points of a layer and patch size, its initial masks first, that are measured."""
    last = len(own) - 2
    if last < 0:
        return []
    has_thresholds = any(piece.threshold for point in own for piece in point.pieces)
    parts = _MEASURED_UNDER_THRESHOLDS if has_thresholds else _MEASURED
    return [own[1 + i] for i in sorted({round(part * last) for part in parts})]


def least_distortion(profiles: Iterable[Sequence[Curve]]) -> float:
    """The least distortion of the last measured point of a layer, in nats.

    A point may bring the logits of a tuned network nearer to the original's than its initial plan
    does. Every point still needs a positive cost, because corrections are relative.
    """
    last = [curve[-1][1] for found in profiles for curve in found if curve]
    costs = [distortion for distortion in last if distortion > 0]
    return _LEAST * median(costs) if costs else NEGLIGIBLE


def interpolate_layer(
    sites: Sequence[str],
    tables: Sequence[Sequence[OperatingPoint]],
    curves: Sequence[Curve],
    least: float,
    benefit: Benefit,
) -> Layer:
    """A layer with the distortion of the points that were not measured."""
    points = [tables[0][0]]
    distortion = [0.0]
    for (_, *own), measured in zip(tables, curves, strict=True):
        most = measured[-1][0] if measured else 0.0
        curve = rising(
            [(lost, max(cost, least * lost / most if most else 0.0)) for lost, cost in measured]
        )
        points += own
        distortion += [interpolate(point.lost, curve) for point in own]
    begun = benefit(sites, points[0].saved, points[0].patch_size)
    gains = [benefit(sites, point.saved, point.patch_size) - begun for point in points]
    return make_layer("+".join(sites), points, distortion, gains)


def masks_of(point: OperatingPoint, layouts: Mapping[int, Layout]) -> PlanLike:
    """The masks of an operating point."""
    return layouts[point.patch_size].plan(point.pieces) if point.pieces else Plan()
