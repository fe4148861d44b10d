"""The plan that a network is tuned with: by hand, its own, or what the MAC budget favours."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx
import torch
from torch import Tensor

from spatialonnx.errors import UsageError
from spatialonnx.graph.ops import find_predictors, read_plan
from spatialonnx.plan.masks import SiteMask, uniform_mask
from spatialonnx.plan.patterns import diagonal_pattern
from spatialonnx.plan.plan import Plan
from spatialonnx.tuning.gate import SiteGate
from spatialonnx.tuning.network import GraphNetwork

__all__ = [
    "CANDIDATES",
    "TUNING_GAIN",
    "check_budget",
    "choose_plan",
    "most_saved",
    "starting_plan",
]

CANDIDATES = tuple(
    uniform_mask(size, pattern) for size in (2, 3, 4) for pattern in (1, diagonal_pattern(size))
)
"""What ``auto`` chooses from: one probe or the diagonal, patches of 2, 3 and 4."""

TUNING_GAIN = 1.5
"""What tuning multiplies the saved MACs of a plan by. One probe per 2 x 2 patch, for example, saves
32 to 39 % of the measured networks' MACs before tuning, and 50 to 60 % after it."""

_MULTIPLIERS = 60


@dataclass(frozen=True)
class _Option:
    """A mask of one site, as the untuned network would use it.

    Attributes:
        mask: The mask.
        saved: Share of all MACs.
        most: Share of all MACs, were every patch predicted.
        lost: Energy of the ofmap that is set to zero, as a share of the map's, times the share of
            MACs: a site of few MACs decides little.
    """

    mask: SiteMask
    saved: float
    most: float
    lost: float


def starting_plan(proto: onnx.ModelProto, by_hand: SiteMask | None) -> Plan:
    """Returns the plan that a model carries, or a mask by hand in every site.

    Raises:
        UsageError: Nothing predicts.
    """
    if by_hand is not None:
        return Plan({p.site: by_hand for p in find_predictors(proto)})
    plan = Plan(read_plan(proto))
    if not plan.predicting:
        raise UsageError(
            "the model carries no plan: give --pattern 1000 (one probe per 2 x 2 patch in every "
            "site), --plan auto, or a model that spatialonnx search made"
        )
    return plan


def most_saved(network: GraphNetwork) -> float:
    """Largest share of all MACs that a network's gates can save: every patch predicted."""
    return sum(
        gate.most_predictable(*network.site_shapes[site][1:]) * network.site_weights[site]
        for site, gate in network.named_gates()
    )


def check_budget(saved: float, most: float, advice: str = "") -> None:
    """Makes sure that a MAC budget can be reached.

    Args:
        saved: The MAC budget, as a fraction of all MACs.
        most: What can be saved, were every patch predicted.
        advice: What else the user may do.

    Raises:
        UsageError: It cannot.
    """
    if saved >= most:
        raise UsageError(
            f"--saved {saved:g}: these patterns can save at most {100 * most:.1f} %, were every "
            f"patch predicted; ask for less{advice}"
        )


def choose_plan(proto: onnx.ModelProto, images: Iterable[Tensor], saved: float) -> Plan:
    """Chooses a pattern and patch size for every site by rate and distortion.

    One Lagrange multiplier weighs MACs saved against energy lost in the untuned network. It is the
    smallest whose plan tuning can be expected to bring to the MAC budget: patches die in training,
    so a plan that reaches the budget before it is coarser than it needs to be.

    Args:
        proto: A model with SpatialPredict nodes.
        images: Batches [N, C, H, W].
        saved: The MAC budget, as a fraction of all MACs.

    Raises:
        UsageError: No plan of these patterns can save as much.
    """
    options = _measure_options(proto, list(images))
    check_budget(saved, sum(max(way.most for way in ways) for ways in options.values()))
    chosen: dict[str, _Option] = {}
    for step in range(_MULTIPLIERS):
        price = 2.0 ** (step / 2 - 20)
        chosen = {
            site: max(ways, key=lambda way: price * way.saved - way.lost)
            for site, ways in options.items()
        }
        before = sum(option.saved for option in chosen.values())
        if TUNING_GAIN * before >= saved and sum(way.most for way in chosen.values()) > saved:
            break
    return Plan({site: option.mask for site, option in chosen.items()})


def _measure_options(proto: onnx.ModelProto, images: list[Tensor]) -> dict[str, list[_Option]]:
    sites = [p.site for p in find_predictors(proto)]
    options: dict[str, list[_Option]] = {site: [] for site in sites}
    for mask in CANDIDATES:
        network = GraphNetwork(proto, dict.fromkeys(sites, mask)).eval()
        network.predicts = False
        sums = {site: torch.zeros(3, dtype=torch.float64) for site in sites}

        def look(site: str, x: Tensor, gate: SiteGate, sums: dict[str, Tensor] = sums) -> None:
            ofmap = x.clamp(0, gate.clip_max)
            left = gate(x)
            assert gate.kept is not None
            energy = ofmap.double().square().sum()
            sums[site] += torch.stack(
                [
                    (1 - gate.kept.double()) * len(x),
                    energy - left.double().square().sum(),
                    energy,
                ]
            )

        network.site_observer = look
        with torch.inference_mode():
            for batch in images:
                network(batch)
        n = sum(len(batch) for batch in images)
        gates = dict(network.named_gates())
        for site, (predicted, lost, energy) in sums.items():
            share = network.site_macs[site] / network.conv_macs
            predictable = gates[site].most_predictable(*network.site_shapes[site][1:])
            options[site].append(
                _Option(
                    mask,
                    share * float(predicted) / n,
                    share * predictable,
                    share * float(lost / energy.clamp_min(1e-12)),
                )
            )
    return options
