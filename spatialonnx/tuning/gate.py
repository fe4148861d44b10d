"""The prediction rule as a differentiable gate: a patch can learn that it matters, and to die.

Forward, the gate is the rule itself: g = 1 where a probe is above the threshold, else 0, and what
is not a probe is multiplied by g. Backward, g passes the derivative of sigmoid((z - t) / slope),
z being the largest probe before its ReLU (straight-through estimator; Bengio, Léonard, Courville,
arXiv 1308.3432). So the gradient of the loss with respect to the outputs of a patch, and the price
of computing it, reach its probes even while the patch is predicted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from spatialonnx.plan.masks import SiteMask, patch_grid

__all__ = ["SLOPE", "SiteGate", "positions"]

SLOPE = 0.5
"""Width of the sigmoid, in units of the ofmap."""


def positions(patch_size: int) -> list[tuple[int, int, int]]:
    """Returns (bit, row, column) of every position of a patch."""
    return [(bit, *divmod(bit, patch_size)) for bit in range(patch_size**2)]


@dataclass(frozen=True, eq=False)
class _Geometry:
    """A mask laid over a map of a given size.

    Attributes:
        probes: By position, bool [C or 1, nH or 1, nW or 1] of the patches that probe there, or
            True or False where all patches agree.
        blind: bool [C or 1, nH, nW], patches without a probe inside the map; None if there is none.
        predictable: float [C or 1, nH, nW], outputs of each patch that may be predicted.
    """

    patch_size: int
    probes: tuple[Tensor | bool, ...]
    blind: Tensor | None
    predictable: Tensor


class SiteGate(nn.Module):
    """ReLU and prediction rule of one site, differentiable.

    After each call `kept` holds the share of the map's outputs that were computed, a tensor that
    passes gradients, and `alive` the share of patches that were not predicted.
    """

    bits: Tensor
    threshold: Tensor | None

    def __init__(
        self,
        mask: SiteMask,
        *,
        clip_max: float = math.inf,
        slope: float = SLOPE,
        learn_thresholds: int = 0,
    ) -> None:
        """Makes the gate of a mask.

        Args:
            mask: Patch size and patterns, broadcastable to [C, nH, nW], and its thresholds.
            clip_max: Upper bound of the ReLU, for example 6.
            slope: Width of the surrogate's sigmoid.
            learn_thresholds: Channels of the map, where each learns a threshold; 0 = none does.
        """
        super().__init__()
        self.patch_size = mask.patch_size
        self.clip_max = clip_max
        self.slope = slope
        self.register_buffer(
            "bits", torch.from_numpy(mask.patterns.astype(np.int32)), persistent=False
        )
        threshold = None if mask.threshold is None else torch.from_numpy(mask.threshold.copy())
        if learn_thresholds:
            start = torch.zeros(1) if threshold is None else threshold
            self.threshold = nn.Parameter(start.expand(learn_thresholds).clone())
        else:
            self.register_buffer("threshold", threshold, persistent=False)
        self.kept: Tensor | None = None
        self.alive: Tensor | None = None
        self._geometry: dict[tuple[int, int, torch.device], _Geometry] = {}

    def forward(self, x: Tensor) -> Tensor:
        """Maps a map before its ReLU, [N, C, H, W], to the ofmap under the rule."""
        geometry = self._lay_over(x.shape[2], x.shape[3], x.device)
        threshold = None if self.threshold is None else self.threshold.clamp_min(0)[:, None, None]
        ofmap, kept, alive = _Gate.apply(x, threshold, geometry, self.clip_max, self.slope)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.kept, self.alive = kept, alive
        result: Tensor = ofmap
        return result

    def learned_threshold(self) -> NDArray[np.float32] | None:
        """Returns the thresholds of the mask, [1] or [C], 0 or more; None where there are none."""
        if self.threshold is None:
            return None
        return self.threshold.detach().clamp_min(0).float().cpu().numpy().copy()

    def most_predictable(self, height: int, width: int) -> float:
        """Returns the largest share of a map's outputs that the rule can predict."""
        geometry = self._lay_over(height, width, self.bits.device)
        channels = geometry.predictable.shape[0]
        return float(geometry.predictable.sum()) / (channels * height * width)

    def _lay_over(self, height: int, width: int, device: torch.device) -> _Geometry:
        key = (height, width, device)
        if key not in self._geometry:
            with torch.inference_mode(False):  # it outlives the pass that first needs it
                self._geometry[key] = _make_geometry(self.bits, self.patch_size, height, width)
        return self._geometry[key]

    def extra_repr(self) -> str:
        """Returns the patch size for the network's printed form."""
        return f"patch_size={self.patch_size}"


def _make_geometry(bits: Tensor, p: int, height: int, width: int) -> _Geometry:
    rows, columns = patch_grid(height, width, p)
    probes: list[Tensor | bool] = []
    inside_probes = torch.zeros((bits.shape[0], rows, columns), device=bits.device)
    inside = torch.zeros((1, rows, columns), device=bits.device)
    for bit, row, column in positions(p):
        probe = ((bits >> bit) & 1).bool()
        within = torch.zeros((rows, columns), device=bits.device)
        within[: len(range(row, height, p)), : len(range(column, width, p))] = 1
        inside += within
        inside_probes += within * probe
        same = bool((probe == probe.flatten()[0]).all())
        probes.append(bool(probe.flatten()[0]) if same else probe)
    blind = inside_probes == 0
    predictable = torch.where(blind, 0, inside - inside_probes)
    return _Geometry(p, tuple(probes), blind if blind.any() else None, predictable)


class _Gate(torch.autograd.Function):
    """ReLU, gate and share of computed outputs in one step, with the gradients of the module."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        threshold: Tensor | None,
        geometry: _Geometry,
        clip_max: float,
        slope: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        height, width = x.shape[2:]
        above = _largest_probe(x, geometry)
        clipped = above.clamp_max(clip_max) if clip_max < math.inf else above
        if threshold is not None:
            above, clipped = (z - threshold.to(x.dtype) for z in (above, clipped))
        gate = functional.threshold(clipped, 0.0, 0.0).ne_(0)  # of NaN it is 1
        if geometry.blind is not None:
            gate.masked_fill_(geometry.blind, 1)
        ofmap = x.clamp(0, clip_max) if clip_max < math.inf else x.clamp_min(0)
        spread = functional.interpolate(gate, scale_factor=geometry.patch_size, mode="nearest")
        y = ofmap * spread[:, :, :height, :width]
        if threshold is not None:  # else the probes of a predicted patch are zero anyway
            for probe, row, column in _probes(geometry):
                _part(y, geometry, row, column).copy_(
                    _choose(probe, *(_part(v, geometry, row, column) for v in (ofmap, y)))
                )
        several = len(_probes(geometry)) > 1
        ctx.save_for_backward(ofmap, y, above, x if several else None, threshold)
        ctx.geometry, ctx.clip_max, ctx.slope = geometry, clip_max, slope
        alive = gate.sum(0, dtype=torch.float32)
        each = geometry.predictable.expand_as(alive)
        predicted = (len(x) * each - alive * each).sum() / x.numel()
        return y, 1 - predicted, alive.sum() / gate.numel()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        ofmap, y, above, x, threshold = ctx.saved_tensors
        geometry: _Geometry = ctx.geometry
        of_map, of_kept = gradients[0], gradients[1]
        effect = ofmap * of_map
        for probe, row, column in _probes(geometry):
            part = _part(effect, geometry, row, column)
            part.mul_(0) if probe is True else part.masked_fill_(_cut(probe, part), 0)
        p = geometry.patch_size
        of_gate = functional.avg_pool2d(effect, p, ceil_mode=True, divisor_override=1)
        of_gate += (geometry.predictable * (of_kept / y.numel())).to(of_gate.dtype)
        surrogate = (above / ctx.slope).sigmoid_()
        of_probe = torch.ops.aten.sigmoid_backward(of_gate, surrogate).div_(ctx.slope)
        if geometry.blind is not None:
            of_probe.masked_fill_(geometry.blind, 0)
        result = torch.ops.aten.hardtanh_backward(of_map, y, 0, ctx.clip_max)
        largest_probes = above if x is None else _largest_probe(x, geometry)
        for probe, row, column in _probes(geometry):
            part = _part(result, geometry, row, column)
            added = of_probe[:, :, : part.shape[2], : part.shape[3]]
            if x is not None:
                z = largest_probes[:, :, : part.shape[2], : part.shape[3]]
                largest = _part(x, geometry, row, column) == z
                if probe is not True:
                    largest &= _cut(probe, part)
                added = added * largest
            part.copy_(part + added)  # faster than an addition in place
        of_threshold = None
        if threshold is not None and ctx.needs_input_grad[1]:
            sums = of_probe.float().sum((0, 2, 3))
            of_threshold = -(sums if len(threshold) > 1 else sums.sum(0, keepdim=True))
            of_threshold = of_threshold[:, None, None].to(threshold.dtype)
        return result, of_threshold, None, None, None


def _probes(geometry: _Geometry) -> list[tuple[Tensor | bool, int, int]]:
    """Positions at which some patch probes: (which patches do, row, column)."""
    return [
        (geometry.probes[bit], row, column)
        for bit, row, column in positions(geometry.patch_size)
        if geometry.probes[bit] is not False
    ]


def _part(x: Tensor, geometry: _Geometry, row: int, column: int) -> Tensor:
    """Views the outputs at one position of every patch: [N, C, rows, columns]."""
    return x[:, :, row :: geometry.patch_size, column :: geometry.patch_size]


def _cut(probe: Tensor | bool, part: Tensor) -> Tensor:
    """A position's probes, cut to the patches that have this position inside the map."""
    assert isinstance(probe, Tensor)
    return probe[:, : part.shape[2], : part.shape[3]]


def _choose(probe: Tensor | bool, ofmap: Tensor, gated: Tensor) -> Tensor:
    return ofmap if probe is True else torch.where(_cut(probe, ofmap), ofmap, gated)


def _largest_probe(x: Tensor, geometry: _Geometry) -> Tensor:
    """Largest probe of every patch before the ReLU, [N, C, nH, nW]; -inf without one inside."""
    rows, columns = patch_grid(x.shape[2], x.shape[3], geometry.patch_size)
    largest: Tensor | None = None
    for probe, row, column in _probes(geometry):
        part = _part(x, geometry, row, column)
        if probe is not True:
            part = part.masked_fill(~_cut(probe, part), -math.inf)
        missing = (columns - part.shape[3], rows - part.shape[2])
        if any(missing):
            part = functional.pad(part, (0, missing[0], 0, missing[1]), value=-math.inf)
        largest = part if largest is None else torch.maximum(largest, part)
    assert largest is not None, "a pattern has at least one probe"
    dense = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else None
    return largest.contiguous(memory_format=dense or torch.contiguous_format)
