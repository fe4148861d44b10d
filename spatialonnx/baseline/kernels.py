"""SnaPEA's kernel profiling: each kernel in isolation, with each threshold and head.

Akhlaghi et al., ISCA 2018, Algorithm 1. A threshold is given by the share of a kernel's outputs
that are not zero and that it would set to zero; a head, by its share of the kernel's weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spatialonnx.baseline.site_op import SiteInputs, SiteOp
from spatialonnx.baseline.snapea_graph import Guess
from spatialonnx.baseline.suffix_network import Block, SuffixNetwork
from spatialonnx.errors import StudyError, UsageError

_NEAR = np.float32(1e-5)
"""Fraction of a site's largest output below which an output counts as zero."""
_MOST_SUMS = 1 << 25
"""Number of sums from which thresholds are taken."""

Sums = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Grid:
    """The candidates that every kernel tries, besides exact.

    Attributes:
        heads: Shares of a kernel's weights that are added up before the guess.
        losses: Shares of a kernel's non-zero outputs that are guessed to be zero.
    """

    heads: tuple[float, ...] = (0.125,)
    losses: tuple[float, ...] = (0.01, 0.03, 0.1)

    def __post_init__(self) -> None:
        """Checks the shares.

        Raises:
            UsageError: A share is not between 0 and 1, or there is none.
        """
        for option, shares in (("--heads", self.heads), ("--losses", self.losses)):
            if not shares or not all(0 < share < 1 for share in shares):
                raise UsageError(f"{option}: give shares between 0 and 1, such as 0.125,0.25")

    @property
    def pairs(self) -> list[tuple[float, float]]:
        """All candidates."""
        return [(head, loss) for head in self.heads for loss in self.losses]


@dataclass(frozen=True, eq=False)
class SiteProfile:
    """The results of a site's candidates, each kernel in isolation; [T, C] arrays.

    Attributes:
        heads: MACs before the guess.
        threshold: The sum up to which an output is guessed to be zero.
        macs: MACs of the kernel's outputs, over the samples.
        right: Right samples.
        exact: MACs of every kernel when it stops exactly, [C].
    """

    heads: NDArray[np.int64]
    threshold: NDArray[np.float32]
    macs: NDArray[np.int64]
    right: NDArray[np.int64]
    exact: NDArray[np.int64]

    def to_text(self) -> str:
        """As JSON, exactly."""
        return json.dumps({name: array.tolist() for name, array in vars(self).items()})

    @classmethod
    def from_text(cls, text: str) -> SiteProfile:
        """Reads what ``to_text`` wrote.

        Raises:
            StudyError: The text is damaged.
        """
        try:
            value = json.loads(text)
            ints = [np.asarray(value[n], np.int64) for n in ("heads", "macs", "right", "exact")]
            profile = cls(ints[0], np.asarray(value["threshold"], np.float32), *ints[1:])
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
            raise StudyError("a kernel profile is damaged: name another --study") from None
        shapes = {profile.heads.shape, profile.threshold.shape, profile.macs.shape}
        if len(shapes) != 1 or profile.macs.ndim != 2 or profile.right.shape not in shapes:
            raise StudyError("a kernel profile is damaged: name another --study")
        if profile.exact.shape != profile.macs.shape[1:]:
            raise StudyError("a kernel profile is damaged: name another --study")
        return profile

    def rank(self, kernel: int, dense_right: int, eps: Fraction, samples: int) -> list[int]:
        """A kernel's candidates within the bound, the fewest MACs first; -1 = exact, always last.

        Candidates that cost no less than exact, which loses nothing, are left out.
        """
        kept = [
            t
            for t in range(len(self.macs))
            if Fraction(dense_right - int(self.right[t, kernel]), max(samples, 1)) <= eps
            and self.macs[t, kernel] < self.exact[kernel]
        ]
        kept.sort(key=lambda t: (self.macs[t, kernel], -self.right[t, kernel], t))
        return [*kept, -1]

    def guess(self, choice: Sequence[int]) -> Guess:
        """The op's inputs for each kernel's candidate, -1 = exact."""
        kernels = np.arange(len(self.exact))
        chosen = np.asarray(choice)
        on = chosen >= 0
        heads = np.where(on, self.heads[np.maximum(chosen, 0), kernels], 0)
        threshold = np.where(on, self.threshold[np.maximum(chosen, 0), kernels], np.float32(0))
        return Guess(heads.astype(np.int64), threshold.astype(np.float32))


def profile_site(
    suffix: SuffixNetwork,
    op: SiteOp,
    inputs: SiteInputs,
    grid: Grid,
    told: Callable[[], None] = lambda: None,
) -> SiteProfile:
    """Measures each candidate of each kernel of a site in isolation.

    Args:
        suffix: The samples, and the network after the site.
        op: The site.
        inputs: Its inputs.
        grid: The candidates.
        told: Called after every block of samples.
    """
    guesses = find_guesses(suffix, op, inputs, grid)
    candidates, kernels = len(guesses), op.kernels
    macs = np.zeros((candidates, kernels), np.int64)
    gain = np.zeros((candidates, kernels), np.int64)
    exact = np.zeros(kernels, np.int64)
    off_right = suffix.scorer.off_right
    assert off_right is not None
    for block in suffix.blocks_before(op.site):
        tensors = inputs.of(block.images)
        exact += op.run(tensors, None)[1].sum(axis=0)
        false = []
        for t, guess in enumerate(guesses):
            y, done = op.run(tensors, guess)
            macs[t] += done.sum(axis=0)
            false.append(find_false_zeros(y, block.ofmap))
        gain += _try_alone(suffix, block, np.stack(false), off_right[block.rows])
        told()
    return SiteProfile(
        heads=np.stack([guess.heads for guess in guesses]),
        threshold=np.stack([guess.threshold for guess in guesses]),
        macs=macs,
        right=int(off_right.sum()) + gain,
        exact=exact,
    )


def find_false_zeros(y: NDArray[np.float32], ofmap: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where a site gives zero and the dense network clearly does not, shaped as ``y``."""
    false: NDArray[np.bool_] = (y == 0) & (ofmap > _NEAR * ofmap.max(initial=0))
    return false


def find_guesses(suffix: SuffixNetwork, op: SiteOp, inputs: SiteInputs, grid: Grid) -> list[Guess]:
    """Heads and thresholds of all candidates of a site, thresholds from the first samples."""
    heads = {share: max(1, round(share * op.taps)) for share in grid.heads}
    parts: dict[float, list[Any]] = {share: [] for share in heads}
    positive: list[Any] = []
    size = 0
    for block in suffix.blocks_before(op.site):
        tensors = inputs.of(block.images)
        positive.append(_by_kernel(block.ofmap) > 0)
        for share, head in heads.items():
            sums = op.head_sums(tensors, np.full(op.kernels, head))
            parts[share].append(_by_kernel(sums))
        size += block.ofmap.size
        if size > _MOST_SUMS:
            break
    fires = np.concatenate(positive, axis=1)
    guesses = []
    for share, loss in grid.pairs:
        sums = np.concatenate(parts[share], axis=1)
        threshold = [
            np.quantile(own[on], loss, method="lower") if on.any() else np.inf
            for own, on in zip(sums, fires, strict=True)
        ]
        own_heads = np.full(op.kernels, heads[share], np.int64)
        guesses.append(Guess(own_heads, np.asarray(threshold, np.float32)))
    return guesses


def _by_kernel(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """[n, C, H, W] as [C, n * H * W]."""
    return maps.swapaxes(0, 1).reshape(maps.shape[1], -1)


def _try_alone(
    suffix: SuffixNetwork, block: Block, false: NDArray[np.bool_], off_right: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """The change in right samples of a block, per candidate and kernel.

    Args:
        suffix: The network after the site.
        block: The samples.
        false: Outputs that a candidate sets to zero wrongly, [T, n, C, H, W].
        off_right: Which samples the dense network has right.

    Returns:
        int64 [T, C].
    """
    runs: dict[tuple[int, int, bytes], int] = {}
    trials: list[tuple[int, NDArray[np.bool_], int | None]] = []
    found = np.argwhere(false.any(axis=(3, 4)))
    where = np.zeros(len(found), np.int64)
    for i, (t, sample, kernel) in enumerate(found.tolist()):
        zero = false[t, sample, kernel]
        key = (sample, kernel, np.packbits(zero).tobytes())
        if key not in runs:
            runs[key] = len(trials)
            trials.append((sample, zero, kernel))
        where[i] = runs[key]
    gain = np.zeros((len(false), false.shape[2]), np.int64)
    if trials:
        right, _ = suffix.run(block, trials)
        change = right[where].astype(np.int64) - off_right[found[:, 1]]
        np.add.at(gain, (found[:, 0], found[:, 2]), change)
    return gain
