"""The prediction rule as a torch module (the contract's section 2; CAL section III).

`SpatialPredict` in ONNX Runtime simulates the rule on a computed ofmap; this module does the same
where a network is trained: predicted outputs are zero and carry no gradient.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from spatialonnx.masks import SiteMask

__all__ = ["PredictZeros"]


class PredictZeros(nn.Module):
    """Sets predicted outputs of an ofmap to zero; gradient flows through the kept ones alone.

    Args:
        site_mask: Patch size p and patterns, broadcastable to [C, nH, nW].
    """

    bits: Tensor

    def __init__(self, site_mask: SiteMask) -> None:
        super().__init__()
        self.patch_size = site_mask.patch_size
        positions = np.arange(self.patch_size**2).reshape(-1, 1, 1, 1)
        bits = (site_mask.mask.astype(np.int64)[None] >> positions) & 1
        # [p * p, C or 1, nH or 1, nW or 1]: the ONNX file carries the plan, not the state dict.
        self.register_buffer("bits", torch.from_numpy(bits.astype(bool)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps an ofmap [N, C, H, W] to one of the same shape."""
        return torch.where(self._kept(x.detach()), x, torch.zeros((), dtype=x.dtype))

    def _kept(self, x: Tensor) -> Tensor:
        """Tells for each output whether it stays as computed: bool [N, C, H, W]."""
        p = self.patch_size
        height, width = x.shape[2:]
        # NaN is not zero: a comparison with != tells so. Padding is neither probe nor work.
        beyond = (0, -width % p, 0, -height % p)
        nonzero = functional.pad(x != 0, beyond)
        inside = functional.pad(torch.ones_like(x[:1, :1], dtype=torch.bool), beyond)
        computed = torch.zeros_like(nonzero[:, :, ::p, ::p])
        probed = torch.zeros((), dtype=torch.bool)
        for bit, (row, column) in zip(self.bits, self._positions(), strict=True):
            if bit.any():
                computed |= nonzero[:, :, row::p, column::p] & bit
                probed = probed | (inside[:, :, row::p, column::p] & bit)
        computed |= ~probed  # a blind patch is computed in full
        kept = torch.empty_like(nonzero)
        for bit, (row, column) in zip(self.bits, self._positions(), strict=True):
            kept[:, :, row::p, column::p] = computed | bit
        return kept[:, :, :height, :width]

    def _positions(self) -> list[tuple[int, int]]:
        p = self.patch_size
        return [(i // p, i % p) for i in range(p * p)]

    def extra_repr(self) -> str:
        """Returns the patch size for the network's printed form."""
        return f"patch_size={self.patch_size}"
