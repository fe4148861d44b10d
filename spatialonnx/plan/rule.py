"""The prediction rule and the patch grid, in numpy.

In a patch all of whose probes are zero, every other output is predicted to be zero. Positions
beyond the border are neither probes nor predicted. A patch without a probe inside the map is
blind: it is computed in full. With a threshold, a probe counts as zero if it is at most the
threshold; NaN does not.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from spatialonnx.plan.masks import SiteMask, patch_grid

Scalar = TypeVar("Scalar", bound=np.generic)


def split_patches(
    maps: NDArray[Scalar], patch_size: int, fill: bool | float = 0
) -> NDArray[Scalar]:
    """Cuts maps into patches: [..., H, W] as [..., nH, p, nW, p].

    Args:
        maps: Maps.
        patch_size: p.
        fill: Value of positions beyond the border.
    """
    *outer, height, width = maps.shape
    rows, columns = patch_grid(height, width, patch_size)
    beyond = [(0, rows * patch_size - height), (0, columns * patch_size - width)]
    padded = np.pad(maps, [(0, 0)] * len(outer) + beyond, constant_values=fill)
    return padded.reshape(*outer, rows, patch_size, columns, patch_size)


def spread_patches(
    patches: NDArray[Scalar], patch_size: int, height: int, width: int
) -> NDArray[Scalar]:
    """Gives every output the value of its patch: [..., nH, nW] as [..., H, W]."""
    full = patches.repeat(patch_size, axis=-2).repeat(patch_size, axis=-1)
    return full[..., :height, :width]


def inside_bits(height: int, width: int, patch_size: int) -> NDArray[np.uint16]:
    """Bits of the positions of every patch that lie inside the map, uint16 [nH, nW]."""
    return pack_patches(np.ones((height, width), np.bool_), patch_size)


def pack_patches(maps: NDArray[np.bool_], patch_size: int) -> NDArray[np.uint16]:
    """Packs maps of bits into patterns: [..., H, W] as uint16 [..., nH, nW]."""
    weights = 1 << np.arange(patch_size * patch_size).reshape(patch_size, patch_size)
    bits = split_patches(maps, patch_size)
    packed: NDArray[np.uint16] = np.einsum("...rpcq,pq->...rc", bits, weights).astype(np.uint16)
    return packed


def fires(codes: NDArray[np.uint16], probes: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Which patches predict.

    Args:
        codes: Bits of the outputs of a patch that are zero.
        probes: Bits of its probes inside the map; broadcastable to ``codes``.

    Returns:
        bool, of the broadcast shape.
    """
    fired: NDArray[np.bool_] = ((codes & probes) == probes) & (probes != 0)
    return fired


def probe_positions(mask: SiteMask, channels: int, height: int, width: int) -> NDArray[np.bool_]:
    """Which outputs of a map are probes, bool [C, H, W]."""
    p = mask.patch_size
    rows, columns = patch_grid(height, width, p)
    patterns = np.broadcast_to(mask.patterns, (channels, rows, columns))
    bits = (patterns[..., None] >> np.arange(p * p, dtype=np.uint16)) & 1
    grid = bits.astype(np.bool_).reshape(channels, rows, columns, p, p).swapaxes(2, 3)
    return grid.reshape(channels, rows * p, columns * p)[:, :height, :width]


def predicted_outputs(ofmaps: NDArray[Any], mask: SiteMask) -> NDArray[np.bool_]:
    """Which outputs a mask predicts, bool [N, C, H, W].

    Args:
        ofmaps: The map after its ReLU, before prediction, [N, C, H, W].
        mask: The mask of the site.
    """
    channels, height, width = ofmaps.shape[1:]
    limit = 0 if mask.threshold is None else mask.threshold[:, None, None]
    probe = probe_positions(mask, channels, height, width)
    zero = pack_patches(ofmaps <= limit, mask.patch_size)
    fired = fires(zero, pack_patches(probe, mask.patch_size))
    predicted: NDArray[np.bool_] = spread_patches(fired, mask.patch_size, height, width) & ~probe
    return predicted
