"""Masks: which pattern every patch of a site uses.

The patterns of a mask are a uint16 array, broadcastable to [C, nH, nW], in one of the four shapes
of the report's modes (section 5.2.2): one pattern per layer [1, 1, 1], per patch position
[1, nH, nW], per channel [C, 1, 1] or per patch [C, nH, nW].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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
        patterns: uint16, broadcastable to [C, nH, nW], read-only.
        threshold: A probe counts as zero when its value is at most this; float32 [1] or [C],
            0 or more, in the units of the ofmap, read-only. None = only zeros count, the
            report's rule; a threshold of zeros becomes None, since a ReLU leaves nothing below.
    """

    patch_size: int
    patterns: NDArray[np.uint16]
    threshold: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        """Checks everything that can be checked without the site's shape."""
        full = full_pattern(self.patch_size)
        patterns = np.asarray(self.patterns)
        if patterns.ndim != 3 or patterns.size == 0:
            raise PlanError(
                "a mask has three dimensions, [C or 1, rows or 1, columns or 1], not "
                f"{patterns.shape}"
            )
        if patterns.dtype != np.uint16:
            raise PlanError(f"a mask holds uint16, not {patterns.dtype}")
        low, high = int(patterns.min()), int(patterns.max())
        if low < 1 or high > full:
            raise PlanError(
                f"pattern {low if low < 1 else high} in a mask is not a pattern of patch size "
                f"{self.patch_size}: use 1 to {full}"
            )
        object.__setattr__(self, "patterns", _frozen(patterns))
        object.__setattr__(self, "threshold", _check_threshold(self.threshold))

    def __eq__(self, other: object) -> bool:
        """Equal patch size, patterns of equal shape, and thresholds."""
        return isinstance(other, SiteMask) and self._contents == other._contents

    def __hash__(self) -> int:
        """Hashes what ``==`` compares."""
        return hash(self._contents)

    @property
    def _contents(self) -> tuple[object, ...]:
        threshold = None if self.threshold is None else self.threshold.tobytes()
        return self.patch_size, self.patterns.shape, self.patterns.tobytes(), threshold

    @property
    def is_full(self) -> bool:
        """Whether no patch can predict."""
        return bool((self.patterns == full_pattern(self.patch_size)).all())


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    copy = np.array(array, order="C")
    copy.flags.writeable = False
    return copy


def _check_threshold(threshold: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
    if threshold is None:
        return None
    values = np.asarray(threshold)
    if values.ndim != 1 or values.size == 0 or values.dtype != np.float32:
        raise PlanError(
            f"a threshold is float32 of shape [1] or [C], not {values.dtype} of shape "
            f"{list(values.shape)}"
        )
    if not np.isfinite(values).all() or values.min() < 0:
        raise PlanError("a threshold is a finite number, 0 or more")
    return _frozen(values) if values.any() else None


def patch_grid(height: int, width: int, patch_size: int) -> tuple[int, int]:
    """Rows and columns of patches that cover a map: ceil(H / p), ceil(W / p)."""
    check_patch_size(patch_size)
    return -(-height // patch_size), -(-width // patch_size)


def uniform_mask(patch_size: int, pattern: int, threshold: float = 0.0) -> SiteMask:
    """One pattern, and one threshold, for a whole layer: shapes [1, 1, 1] and [1]."""
    check_pattern(pattern, patch_size)
    patterns = np.full((1, 1, 1), pattern, np.uint16)
    return SiteMask(patch_size, patterns, np.full(1, threshold, np.float32))


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
        PlanError: The mask is not broadcastable to [C, nH, nW] in one of the four shapes, or its
            threshold to [C].
    """
    channels, height, width = shape
    got = mask.patterns.shape
    if got[0] != 1 and channels is not None and got[0] != channels:
        raise PlanError(f"site {site}: mask of shape {list(got)} for {channels} channels")
    thresholds = 1 if mask.threshold is None else len(mask.threshold)
    if thresholds != 1 and channels is not None and thresholds != channels:
        raise PlanError(f"site {site}: {thresholds} thresholds for {channels} channels")
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
