"""Masks and plans: which pattern every patch of every site uses.

A mask is a uint16 array of patterns, broadcastable to [C, nH, nW], in one of the four shapes of
the report's modes (section 5.2.2): [1, 1, 1] one pattern a layer, [1, nH, nW] one a patch
position, [C, 1, 1] one a channel, [C, nH, nW] one a patch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spatialonnx.errors import PlanError
from spatialonnx.plan.patterns import check_patch_size, check_pattern, full_pattern

Dim = int | None


@dataclass(frozen=True, eq=False)
class SiteMask:
    """The mask of one site.

    Attributes:
        patch_size: Side of a patch in output positions: 2, 3 or 4.
        mask: Patterns, uint16, three dimensions, read-only.
    """

    patch_size: int
    mask: NDArray[np.uint16]

    def __post_init__(self) -> None:
        """Checks everything that can be checked without the site's shape."""
        full = full_pattern(self.patch_size)
        array = np.asarray(self.mask)
        if array.ndim != 3 or array.size == 0:
            raise PlanError(
                f"a mask has three dimensions, [C or 1, rows or 1, columns or 1], not {array.shape}"
            )
        if array.dtype != np.uint16:
            raise PlanError(f"a mask holds uint16, not {array.dtype}")
        low, high = int(array.min()), int(array.max())
        if low < 1 or high > full:
            raise PlanError(
                f"pattern {low if low < 1 else high} in a mask is not a pattern of patch size "
                f"{self.patch_size}: use 1 to {full}"
            )
        array = np.ascontiguousarray(array).copy()
        array.flags.writeable = False
        object.__setattr__(self, "mask", array)

    def __eq__(self, other: object) -> bool:
        """Equal patch size, shape and patterns."""
        return (
            isinstance(other, SiteMask)
            and self.patch_size == other.patch_size
            and np.array_equal(self.mask, other.mask)
        )

    def __hash__(self) -> int:
        """Hashes what ``__eq__`` compares."""
        return hash((self.patch_size, self.mask.shape, self.mask.tobytes()))

    @property
    def is_full(self) -> bool:
        """Whether no patch can predict."""
        return bool((self.mask == full_pattern(self.patch_size)).all())


Plan = Mapping[str, SiteMask]


def patch_grid(height: int, width: int, patch_size: int) -> tuple[int, int]:
    """Rows and columns of patches that cover a map: ceil(H / p), ceil(W / p)."""
    check_patch_size(patch_size)
    return -(-height // patch_size), -(-width // patch_size)


def uniform_mask(patch_size: int, pattern: int) -> SiteMask:
    """One pattern for a whole layer: shape [1, 1, 1]."""
    check_pattern(pattern, patch_size)
    return SiteMask(patch_size, np.full((1, 1, 1), pattern, np.uint16))


def full_mask(patch_size: int) -> SiteMask:
    """Prediction off: shape [1, 1, 1]."""
    return uniform_mask(patch_size, full_pattern(patch_size))


def make_mask(patch_size: int, patterns: ArrayLike) -> SiteMask:
    """A mask from integers, refused where they do not fit into uint16.

    Raises:
        PlanError: The patch size, the shape or a pattern is not allowed.
    """
    values = np.asarray(patterns, np.int64)
    if values.size and (values.min() < 0 or values.max() > 0xFFFF):
        raise PlanError("a mask holds patterns from 1 to 65535")
    return SiteMask(check_patch_size(patch_size), values.astype(np.uint16))


def check_mask_shape(mask: SiteMask, shape: Sequence[Dim], site: str) -> None:
    """Checks a mask against a site's ofmap shape.

    Args:
        mask: The mask.
        shape: Channels, height and width of the ofmap; None where unknown.
        site: The site's name, for the message.

    Raises:
        PlanError: The mask is not broadcastable to [C, nH, nW] in one of the four shapes.
    """
    channels, height, width = shape
    got = mask.mask.shape
    if got[0] != 1 and channels is not None and got[0] != channels:
        raise PlanError(f"site {site}: mask of shape {list(got)} for {channels} channels")
    if got[1:] == (1, 1):
        return
    if height is None or width is None:
        raise PlanError(
            f"site {site}: its height or width is dynamic, so only masks of shape [1, 1, 1] and "
            f"[C, 1, 1] fit, not {list(got)}"
        )
    grid = patch_grid(height, width, mask.patch_size)
    if got[1:] != grid:
        raise PlanError(
            f"site {site}: mask of shape {list(got)}, but patches of size {mask.patch_size} make "
            f"{grid[0]} x {grid[1]} on a map of {height} x {width}"
        )
