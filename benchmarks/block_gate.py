"""Gates for blocks of channels that decide together, which tiles of 16 channels could skip."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from channel_blocks import alike_first
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from spatialonnx.plan.masks import SiteMask
from spatialonnx.tuning.gate import SiteGate
from spatialonnx.tuning.network import GraphNetwork


class BlockGate(SiteGate):
    """The gate of a site whose channels decide in blocks; the probe is a patch's first output.

    A patch is predicted in all channels of a block where none of their probes is above zero. The
    gradients are SiteGate's, with the largest probe of the block as z.
    """

    def __init__(
        self, mask: SiteMask, gate: SiteGate, order: NDArray[np.int64], block: int
    ) -> None:
        """Makes the gate.

        Args:
            mask: Of the site.
            gate: Which it replaces.
            order: The channels, int64 [C]; each `block` of them form a block.
            block: Channels of a block, a divisor of C.
        """
        super().__init__(mask, clip_max=gate.clip_max, slope=gate.slope)
        self.block = block
        self.order = torch.from_numpy(order)
        self.block_of = torch.empty_like(self.order)
        self.block_of[self.order] = torch.arange(len(order)) // block

    def forward(self, x: Tensor) -> Tensor:
        """Maps a map before its ReLU, [N, C, H, W], to the ofmap under the rule."""
        p, height, width = self.patch_size, *x.shape[2:]
        probes = x[:, :, ::p, ::p]
        z = probes[:, self.order].reshape(len(x), -1, self.block, *probes.shape[2:]).amax(2).float()
        soft = (z / self.slope).sigmoid()
        gate = (z > 0).float() + (soft - soft.detach())
        spread = functional.interpolate(gate[:, self.block_of].to(x.dtype), scale_factor=p)
        ofmap = x.clamp(0, self.clip_max)
        y = ofmap * spread[:, :, :height, :width]
        y[:, :, ::p, ::p] = ofmap[:, :, ::p, ::p]
        predictable = self._lay_over(height, width, x.device).predictable
        self.kept = 1 - ((1 - gate) * predictable).sum() * self.block / x.numel()
        self.alive = gate.detach().mean()
        return y


def decide_in_blocks(network: GraphNetwork, images: Iterable[Tensor], block: int) -> None:
    """Replaces the gates of a network whose pattern is one probe, in the first place.

    Args:
        network: Not tuned yet; changed in place.
        images: Batches [N, C, H, W]. Channels whose probes are zero in the same patches of these
            images, without prediction, form a block.
        block: Channels of a block.
    """
    dead: dict[str, list[Tensor]] = {}

    def observe(site: str, x: Tensor, gate: SiteGate) -> None:
        probes = x[:, :, :: gate.patch_size, :: gate.patch_size]
        dead.setdefault(site, []).append((probes <= 0).transpose(0, 1).flatten(1))

    network.eval()
    network.predicts, network.site_observer = False, observe
    with torch.inference_mode():
        for batch in images:
            network(batch)
    network.predicts, network.site_observer = True, None
    plan = network.plan()
    for key, (site, gate) in zip(list(network.gates), network.named_gates(), strict=True):
        order = alike_first(torch.cat(dead[site], 1).numpy(), block)
        network.gates[key] = BlockGate(plan[site], gate, order, block)
