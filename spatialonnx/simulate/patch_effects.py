"""What trials do to the patches of one site, derived from the patches' zero codes alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spatialonnx.plan.masks import SiteMask, patch_grid
from spatialonnx.plan.patterns import full_pattern
from spatialonnx.plan.rule import inside_bits

_NEVER = 0xFFFF
"""Sentinel: matches no patch that holds a non-zero."""
_CELLS = 1 << 22
"""Patches x samples x trials that are processed together."""


class PatchMap:
    """The positions of the patches of one ofmap.

    Attributes:
        shape: C, H, W.
        patch_size: Side of a patch.
        inside: Bits of the positions inside the ofmap, uint16 [C * nH * nW].
        pixels: Flat positions in C * H * W of every patch's outputs, int64 [C * nH * nW, p * p];
            those beyond the border repeat the patch's first one.
    """

    def __init__(self, shape: tuple[int, int, int], patch_size: int) -> None:
        """Computes the positions for a map."""
        channels, height, width = shape
        rows, columns = patch_grid(height, width, patch_size)
        bit = np.arange(patch_size * patch_size)
        y = np.arange(rows)[:, None, None] * patch_size + bit // patch_size
        x = np.arange(columns)[None, :, None] * patch_size + bit % patch_size
        valid = (y < height) & (x < width)
        first = y[..., :1] * width + x[..., :1]
        pixels = np.where(valid, y * width + x, first).reshape(rows * columns, -1)
        offsets = np.arange(channels)[:, None, None] * (height * width)
        self.shape = channels, height, width
        self.patch_size = patch_size
        self.inside = np.tile(inside_bits(height, width, patch_size).reshape(-1), channels)
        self.pixels = (offsets + pixels).reshape(len(self.inside), -1)

    def __len__(self) -> int:
        """Number of patches."""
        return len(self.inside)

    def patches_of(self, shape: tuple[int, ...], entries: NDArray[np.int64]) -> NDArray[np.int64]:
        """The patches that entries of a mask apply to.

        Args:
            shape: Shape of the mask, broadcastable to [C, nH, nW].
            entries: Flat positions in the mask, [e].

        Returns:
            Flat patches, [e, patches per entry].
        """
        channels = self.shape[0]
        plane = len(self) // channels
        by_channel, by_patch = shape[0] > 1, shape[1] * shape[2] > 1
        if by_patch or plane == 1:
            if by_channel or channels == 1:
                return entries[:, None]
            return entries[:, None] + np.arange(channels) * plane
        if by_channel or channels == 1:
            return entries[:, None] * plane + np.arange(plane)
        return np.arange(len(self))[None, :]


@dataclass(frozen=True, eq=False)
class TrialGroup:
    """Trials that set the same patches, for example the options of one target.

    Attributes:
        key: Identifies the group.
        threshold: Values up to it count as zero, [1] or [C]; None = only zeros.
        trials: Their positions among all trials, [t].
        patches: Flat patches that they set, [s]; a slice where it is all of them.
        inside: Bits inside the ofmap, uint16 [s].
        probes: Probes inside the ofmap, uint16 [t, s]; ``_NEVER`` where there is none.
        others: Positions inside the ofmap that are not probes, uint16 [t, s].
        weights: Outputs predicted in a patch that is predicted, uint8 [t, s].
    """

    key: bytes
    threshold: NDArray[np.float32] | None
    trials: NDArray[np.int64]
    patches: NDArray[np.int64] | slice
    inside: NDArray[np.uint16]
    probes: NDArray[np.uint16]
    others: NDArray[np.uint16]
    weights: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class PatchEffects:
    """The effects of some trials of a group on some samples.

    Attributes:
        trials: Positions of the trials, [t].
        skipped: Predicted outputs over the samples, int64 [t].
        changed: Patches that are predicted and hold a non-zero value, bool [t, samples, s].
    """

    trials: NDArray[np.int64]
    skipped: NDArray[np.int64]
    changed: NDArray[np.bool_]


def group_trials(masks: Sequence[SiteMask], patch_map: PatchMap) -> list[TrialGroup]:
    """Groups consecutive masks that set the same patches and have the same threshold.

    Args:
        masks: Of the map's patch size, none of them full.
        patch_map: The site's map.
    """
    full = full_pattern(patch_map.patch_size)
    found: list[tuple[bytes, tuple[int, ...], NDArray[np.int64], list[int]]] = []
    for trial, mask in enumerate(masks):
        entries = np.flatnonzero(mask.patterns != full)
        threshold = b"" if mask.threshold is None else mask.threshold.tobytes()
        key = repr((mask.patterns.shape, threshold)).encode() + entries.tobytes()
        if not found or found[-1][0] != key:
            found.append((key, mask.patterns.shape, entries, []))
        found[-1][3].append(trial)
    return [
        _make_group(key, patch_map, shape, entries, masks, trials)
        for key, shape, entries, trials in found
    ]


def _make_group(
    key: bytes,
    patch_map: PatchMap,
    shape: tuple[int, ...],
    entries: NDArray[np.int64],
    masks: Sequence[SiteMask],
    trials: list[int],
) -> TrialGroup:
    patches = patch_map.patches_of(shape, entries)
    patterns = np.stack([masks[t].patterns.reshape(-1)[entries] for t in trials])
    patterns = np.repeat(patterns, patches.shape[1], axis=1)
    flat = patches.reshape(-1)
    inside = patch_map.inside[flat]
    probes, others = patterns & inside, inside & ~patterns
    every = len(flat) == len(patch_map) and bool((flat[1:] > flat[:-1]).all())
    return TrialGroup(
        key=key,
        threshold=masks[trials[0]].threshold,
        trials=np.asarray(trials),
        patches=slice(None) if every else flat,
        inside=inside,
        probes=np.where(probes == 0, np.uint16(_NEVER), probes),
        others=others,
        weights=np.bitwise_count(others),
    )


def find_effects(
    group: TrialGroup, codes: NDArray[np.uint16], zeros: NDArray[np.uint16]
) -> Iterator[PatchEffects]:
    """Finds the effects of a group's trials on some samples, a few trials at a time.

    Args:
        group: The trials.
        codes: Codes of all patches of the samples under the group's threshold,
            [samples, C * nH * nW].
        zeros: The same for exact zeros.
    """
    if group.threshold is None:
        yield from _effects_of_zeros(group, codes)
        return
    own, zero = codes[:, group.patches], zeros[:, group.patches]
    step = max(1, _CELLS // max(own.size, 1))
    for start in range(0, len(group.trials), step):
        chosen = slice(start, start + step)
        probes, others = group.probes[chosen, None], group.others[chosen, None]
        fires = (own & probes) == probes
        skipped = (fires.sum(axis=1) * group.weights[chosen]).sum(axis=1)
        # Under a threshold a probe may keep a value: only the other positions can change.
        changed = fires & ((zero & others) != others)
        yield PatchEffects(group.trials[chosen], skipped, changed)


def _effects_of_zeros(group: TrialGroup, codes: NDArray[np.uint16]) -> Iterator[PatchEffects]:
    """The same without a threshold, where a patch of zeros never changes."""
    own = codes[:, group.patches]
    all_zero = own == group.inside
    all_zeros = all_zero.sum(axis=0)
    own = np.where(all_zero, np.uint16(0), own)
    small = len(own) < 256
    step = max(1, _CELLS // max(own.size, 1))
    for start in range(0, len(group.trials), step):
        chosen = slice(start, start + step)
        probes = group.probes[chosen]
        changed = (own & probes[:, None]) == probes[:, None]
        # Sums in the integers' own small type are several times as fast.
        hits = changed.view(np.uint8).sum(axis=1, dtype=np.uint8 if small else np.int32)
        fires = hits + all_zeros * (probes != _NEVER)
        skipped = (fires * group.weights[chosen]).sum(axis=1)
        yield PatchEffects(group.trials[chosen], skipped, changed)
