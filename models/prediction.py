"""The prediction rule as a torch module (CAL, section III).

`SpatialPredict` in ONNX Runtime simulates the rule on a computed ofmap; this module does the same
during training: predicted outputs are zero and carry no gradient.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spatialonnx.plan.masks import SiteMask

__all__ = ["PredictZeros"]

_SAME_SIZE = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""The integer type that holds the bits of a float, by its size in bytes."""


class PredictZeros(nn.Module):
    """Sets predicted outputs of an ofmap to zero; only the kept ones have a gradient.

    Args:
        site_mask: Patch size p and patterns, broadcastable to [C, nH, nW].
    """

    bits: Tensor

    def __init__(self, site_mask: SiteMask) -> None:
        super().__init__()
        self.patch_size = site_mask.patch_size
        positions = np.arange(self.patch_size**2).reshape(-1, 1, 1, 1)
        bits = (site_mask.patterns.astype(np.int64)[None] >> positions) & 1
        # [p * p, C or 1, nH or 1, nW or 1]: the ONNX file carries the plan, not the state dict.
        self.register_buffer("bits", torch.from_numpy(bits.astype(bool)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps an ofmap [N, C, H, W] to one of the same shape."""
        kept = self._kept(x.detach())
        predicted: Tensor = _KeepSome.apply(x, self.patch_size, kept)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return predicted

    def _kept(self, x: Tensor) -> list[Tensor | None]:
        """Marks the outputs that stay as computed.

        Returns:
            One entry per position of the patch, row by row: [N, C, rows, columns], with -1 (all
            bits set) for outputs that stay and 0 for predicted ones; None where all stay.
        """
        p = self.patch_size
        nonzero = x.bool()  # true for NaN
        computed = torch.zeros_like(nonzero[:, :, ::p, ::p])
        probed = torch.zeros((self.bits.shape[1], *computed.shape[2:]), dtype=torch.bool)
        parts = [_part(nonzero, position, p) for position in range(p * p)]
        for part, bit in zip(parts, self.bits, strict=True):
            if bit.any():
                rows, columns = part.shape[2:]  # fewer at the border, beyond which is padding
                inside = bit[:, :rows, :columns]
                computed[:, :, :rows, :columns] |= part & inside
                probed[:, :rows, :columns] |= inside
        computed |= ~probed  # a blind patch is computed in full
        kept: list[Tensor | None] = []
        for part, bit in zip(parts, self.bits, strict=True):
            rows, columns = part.shape[2:]
            stays = computed[:, :, :rows, :columns] | bit[:, :rows, :columns]
            kept.append(None if bit.all() else stays.to(_SAME_SIZE[x.element_size()]).neg_())
        return kept

    def extra_repr(self) -> str:
        """Returns the patch size for the network's printed form."""
        return f"patch_size={self.patch_size}"


class _KeepSome(torch.autograd.Function):
    """Clears the bits of predicted outputs, and of their gradients.

    Works on bits, which takes a quarter of the time of `torch.where` and also turns NaN and
    infinity into zeros.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, patch_size: int, kept: Sequence[Tensor | None]) -> Tensor:
        ctx.patch_size, ctx.kept = patch_size, kept
        return _clear(x, patch_size, kept)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _clear(gradients[0], ctx.patch_size, ctx.kept), None, None


def _clear(x: Tensor, p: int, kept: Sequence[Tensor | None]) -> Tensor:
    """Returns a copy of [N, C, H, W] with zeros where `kept` is zero."""
    cleared = x.clone()
    for position, bits in enumerate(kept):
        if bits is not None:
            _part(cleared.view(bits.dtype), position, p).bitwise_and_(bits)
    return cleared


def _part(x: Tensor, position: int, p: int) -> Tensor:
    """Views the outputs at one position of every patch: [N, C, rows, columns]."""
    row, column = divmod(position, p)
    return x[:, :, row::p, column::p]
