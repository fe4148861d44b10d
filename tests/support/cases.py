"""The shared cases of the prediction rule: ofmaps and masks that every kernel has to get right.

One list for SpatialPredict, PatchCodes and SpatialConv, on the CPU and on GPUs. A case is data; its
arrays are made from its name, so that they are the same everywhere.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Granularity = Literal["uniform-layer", "uniform-filter", "uniform-patch", "max-granularity"]
Values = Literal["relu", "zeros", "dense", "nan", "minus-zero", "signed"]
Thresholds = Literal["none", "one", "per-channel"]

GRANULARITIES: tuple[Granularity, ...] = (
    "uniform-layer",
    "uniform-filter",
    "uniform-patch",
    "max-granularity",
)
THRESHOLDS: tuple[Thresholds, ...] = ("none", "one", "per-channel")
VALUES: tuple[Values, ...] = ("relu", "zeros", "dense", "nan", "minus-zero", "signed")


@dataclass(frozen=True)
class Case:
    """One ofmap and one mask.

    Attributes:
        name: What is special about it; unique.
        shape: [N, C, H, W] of the ofmap.
        patch_size: 2, 3 or 4.
        granularity: The shape of the mask, named as the search mode: one pattern for the layer,
            per patch position (uniform-filter), per channel (uniform-patch) or per patch.
        values: What the ofmap holds: ``relu`` has whole patches of zeros beside active ones;
            ``nan`` and ``minus-zero`` sprinkle those over it; ``signed`` is before a ReLU.
        pattern: The one pattern of the mask; None = random ones, the full pattern among them.
        thresholds: Whether there are any, and whether channels share one.
    """

    name: str
    shape: tuple[int, int, int, int]
    patch_size: int
    granularity: Granularity = "uniform-layer"
    values: Values = "relu"
    pattern: int | None = None
    thresholds: Thresholds = "none"

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return -(-self.shape[2] // self.patch_size), -(-self.shape[3] // self.patch_size)

    def rng(self) -> np.random.Generator:
        """A generator seeded by the name."""
        return np.random.default_rng(zlib.crc32(self.name.encode()))

    def x(self) -> NDArray[np.float32]:
        """The ofmap, float32 [N, C, H, W]."""
        return make_values(self.rng(), self.shape, self.patch_size, self.values)

    def mask(self) -> NDArray[np.uint16]:
        """The mask, uint16, three dimensions."""
        shape = mask_shape(self.granularity, self.shape, self.patch_size)
        if self.pattern is not None:
            return np.full(shape, self.pattern, np.uint16)
        return make_mask(self.rng(), shape, self.patch_size)

    def threshold(self) -> NDArray[np.float32] | None:
        """The thresholds, [1] or [C]; None where there are none."""
        return _threshold_within(self.x(), self.thresholds)


def mask_shape(
    granularity: Granularity, shape: tuple[int, int, int, int], patch_size: int
) -> tuple[int, int, int]:
    """The shape of a mask of this granularity for an ofmap [N, C, H, W]."""
    rows, columns = -(-shape[2] // patch_size), -(-shape[3] // patch_size)
    return {
        "uniform-layer": (1, 1, 1),
        "uniform-filter": (1, rows, columns),
        "uniform-patch": (shape[1], 1, 1),
        "max-granularity": (shape[1], rows, columns),
    }[granularity]


def make_mask(
    rng: np.random.Generator, shape: tuple[int, int, int], patch_size: int
) -> NDArray[np.uint16]:
    """Random patterns, about one in eight of them full."""
    full = (1 << patch_size * patch_size) - 1
    patterns = rng.integers(1, full, shape, endpoint=True)
    # Sparse patterns predict more often: keep about a third of the ones, and never none.
    thinned = patterns & rng.integers(0, full, shape, endpoint=True)
    patterns = np.where(thinned > 0, thinned, patterns)
    patterns[rng.random(shape) < 0.125] = full
    return patterns.astype(np.uint16)


def _threshold_within(x: NDArray[np.float32], thresholds: Thresholds) -> NDArray[np.float32] | None:
    """Values of the ofmap, so that some positions are equal to them; 0 for every fourth channel."""
    if thresholds == "none":
        return None
    maps = [x] if thresholds == "one" else list(x.swapaxes(0, 1))
    chosen = np.zeros(len(maps), np.float32)
    for c, values in enumerate(maps):
        positive = np.sort(values[values > 0], axis=None)
        chosen[c] = 0.0 if c % 4 == 3 else positive[len(positive) // 2] if len(positive) else 0.25
    return chosen


def make_values(
    rng: np.random.Generator, shape: tuple[int, int, int, int], patch_size: int, values: Values
) -> NDArray[np.float32]:
    """An ofmap float32 [N, C, H, W] of the kind that ``Case.values`` names."""
    x = rng.standard_normal(shape).astype(np.float32)
    if values == "signed":
        return x
    if values == "zeros":
        return np.zeros(shape, np.float32)
    if values == "dense":
        return np.abs(x) + np.float32(0.5)
    # Activity comes in patches: half of them are silent, the others half zero.
    samples, channels, height, width = shape
    rows, columns = -(-height // patch_size), -(-width // patch_size)
    silent = rng.random((samples, channels, rows, columns)) < 0.5
    silent = silent.repeat(patch_size, 2).repeat(patch_size, 3)[:, :, :height, :width]
    x = np.maximum(x, 0.0)
    # Not every position of a silent patch is zero: those are the false zeros.
    x[silent & (rng.random(shape) < 0.9)] = 0.0
    if values == "nan":
        x[rng.random(shape) < 0.1] = np.nan
    if values == "minus-zero":
        x[(x == 0) & (rng.random(shape) < 0.5)] = -0.0
    return x


def _every_granularity() -> list[Case]:
    return [
        Case(f"{granularity}-p{p}-{h}x{w}", (2, 3, h, w), p, granularity)
        for granularity in GRANULARITIES
        for p in (2, 3, 4)
        for h, w in ((12, 12), (13, 11), (7, 7))
    ]


CASES: tuple[Case, ...] = (
    *_every_granularity(),
    # Borders: a patch whose only probe lies beyond the right, the bottom, or both is blind.
    *(
        Case(
            f"blind-p{p}-bit{bit}",
            (1, 2, p * 2 + 1, p * 3 + 1),
            p,
            "uniform-layer",
            "relu",
            1 << bit,
        )
        for p in (2, 3, 4)
        for bit in (0, p - 1, p * (p - 1), p * p - 1)
    ),
    *(
        Case(f"zeros-blind-p{p}", (1, 2, p + 1, p + 1), p, "uniform-layer", "zeros", 1 << p * p - 1)
        for p in (2, 3, 4)
    ),
    # Maps smaller than a patch in one direction or both.
    Case("tiny-1x1", (2, 2, 1, 1), 2, "uniform-layer"),
    Case("tiny-1x7", (2, 2, 1, 7), 3, "max-granularity"),
    Case("tiny-9x1", (2, 2, 9, 1), 4, "uniform-filter"),
    Case("tiny-3x2", (2, 2, 3, 2), 4, "uniform-patch"),
    Case("tiny-2x3", (2, 2, 2, 3), 4, "max-granularity"),
    # Batches.
    Case("batch-0", (0, 3, 6, 6), 2, "max-granularity"),
    Case("batch-1", (1, 5, 6, 6), 2, "uniform-patch"),
    Case("batch-7", (7, 2, 6, 5), 3, "uniform-filter"),
    Case("no-channels", (2, 0, 6, 6), 2, "uniform-patch"),
    Case("no-height", (2, 3, 0, 6), 2, "uniform-layer"),
    Case("no-width", (2, 3, 6, 0), 2, "max-granularity"),
    # Values.
    *(
        Case(f"values-{values}-p2", (2, 3, 9, 10), 2, "max-granularity", values)
        for values in VALUES
    ),
    *(Case(f"values-{values}-p3", (2, 3, 9, 10), 3, "uniform-patch", values) for values in VALUES),
    *(
        Case(f"values-{values}-p4", (2, 3, 9, 10), 4, "uniform-layer", values, 0x8421)
        for values in VALUES
    ),
    # Prediction off, and the sparsest pattern.
    *(
        Case(f"full-p{p}", (2, 3, 9, 9), p, "uniform-layer", "relu", (1 << p * p) - 1)
        for p in (2, 3, 4)
    ),
    *(Case(f"one-probe-p{p}", (2, 3, 9, 9), p, "uniform-layer", "zeros", 1) for p in (2, 3, 4)),
    # Widths around the words and vectors of the kernels, and more rows than one band holds.
    *(
        Case(f"width-{w}-p{p}", (1, 1, 5, w), p, "max-granularity")
        for p in (2, 3, 4)
        for w in (15, 16, 17, 31, 33, 47, 48, 49, 63, 64, 65, 96, 127, 130)
    ),
    *(Case(f"tall-p{p}", (1, 2, 67, 33), p, "max-granularity") for p in (2, 3, 4)),
    *(Case(f"wide-p{p}", (1, 1, p + 1, 1100), p, "uniform-filter") for p in (2, 3, 4)),
    Case("wider-than-bands", (1, 1, 3, 2100), 2, "max-granularity"),
    # Enough planes for several tasks.
    Case("many-planes", (3, 200, 8, 8), 2, "uniform-patch"),
    # Thresholds.
    *(
        Case(f"threshold-{granularity}-p{p}", (2, 5, 13, 11), p, granularity, thresholds=thresholds)
        for granularity, thresholds in zip(
            GRANULARITIES, ("one", "per-channel", "per-channel", "one"), strict=True
        )
        for p in (2, 3, 4)
    ),
    *(
        Case(
            f"threshold-{values}", (2, 5, 9, 67), 2, "max-granularity", values, None, "per-channel"
        )
        for values in VALUES
    ),
    Case("threshold-batch-0", (0, 3, 6, 6), 2, "max-granularity", thresholds="per-channel"),
    Case("threshold-no-channels", (2, 0, 6, 6), 2, "uniform-patch", thresholds="per-channel"),
    Case("threshold-tall", (1, 2, 67, 33), 3, "max-granularity", thresholds="per-channel"),
    Case("threshold-wide", (1, 2, 3, 2100), 2, "max-granularity", thresholds="per-channel"),
    Case("threshold-many-planes", (3, 200, 8, 8), 2, "uniform-patch", thresholds="per-channel"),
)


ZERO_POINTS = {np.uint8: (0, 3), np.int8: (-128, 0)}
"""Zero points of 8-bit maps: the least value, as a ReLU leaves it, and another one."""
STEP = 0.05
"""Quantisation step of ``quantised``."""


def make_threshold(
    rng: np.random.Generator, channels: int, dtype: type[np.generic] = np.float32
) -> NDArray[np.generic]:
    """Thresholds, one per channel and some of them 0, or one for all channels."""
    count = channels if rng.random() < 0.7 else 1
    values = np.where(rng.random(count) < 0.3, 0, rng.random(count))
    if dtype == np.float32:
        return values.astype(np.float32)
    steps = np.floor(values / STEP)
    steps[rng.random(count) < 0.1] = 255
    return steps.astype(np.uint8)


def quantised(x: NDArray[np.float32], dtype: type[np.generic], zero: int) -> NDArray[np.generic]:
    """An ofmap in 8 bit; NaN is the zero point."""
    limits = np.iinfo(dtype)  # type: ignore[type-var]
    steps = np.rint(np.nan_to_num(x) / STEP) + zero
    return np.clip(steps, limits.min, limits.max).astype(dtype)
