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

__all__ = ["CANDIDATES", "choose_plan", "most_saved", "starting_plan"]

CANDIDATES = tuple(
    uniform_mask(size, pattern) for size in (2, 3, 4) for pattern in (1, diagonal_pattern(size))
)
"""What ``auto`` chooses from: one probe or the diagonal, patches of 2, 3 and 4."""

_MULTIPLIERS = 60


@dataclass(frozen=True)
class _Option:
    """A mask of one site, as the untuned network would use it.

    Attributes:
        mask: The mask.
        saved: Share of all MACs.
        lost: Energy of the ofmap that is set to zero, as a share of the map's, times the share of
            MACs: a site of few MACs decides little.
    """

    mask: SiteMask
    saved: float
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


def choose_plan(proto: onnx.ModelProto, images: Iterable[Tensor], saved: float) -> Plan:
    """Chooses a pattern and patch size for every site by rate and distortion.

    One Lagrange multiplier weighs MACs saved against energy lost in the untuned network; it is the
    smallest that reaches the MAC budget. Tuning then wins back what is lost.

    Args:
        proto: A model with SpatialPredict nodes.
        images: Batches [N, C, H, W].
        saved: The MAC budget, as a fraction of all MACs.
    """
    options = _measure_options(proto, list(images))
    chosen: dict[str, _Option] = {}
    for step in range(_MULTIPLIERS):
        price = 2.0 ** (step / 2 - 20)
        chosen = {
            site: max(ways, key=lambda way: price * way.saved - way.lost)
            for site, ways in options.items()
        }
        if sum(option.saved for option in chosen.values()) >= saved:
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
        for site, (predicted, lost, energy) in sums.items():
            share = network.site_macs[site] / network.conv_macs
            options[site].append(
                _Option(
                    mask,
                    share * float(predicted) / n,
                    share * float(lost / energy.clamp_min(1e-12)),
                )
            )
    return options
