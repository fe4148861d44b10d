r"""Code histograms: what every pattern would save, and lose, counted from one dense pass.

One histogram of zero codes for every target and border class (the set R of positions of a patch
that lie inside the ofmap: interior, right, bottom, corner), then superset sums:

    skipped(m) = sum over R of |R \ m| * (patches whose zeros include m & R)
    lost(m)    = sum over R and over i in R \ m of (x_i^2 of the patches whose zeros include m & R)

and nothing where m & R is empty: such a patch is blind. One pass over the data so answers for all
2^(p*p) patterns m at once, exactly. Where the zeros include m & R, the positions of m & R add
nothing to the sum of squares: it is that of the whole patch, one histogram more, not p * p.

Under a threshold a probe may keep a value. What the probes of a patch keep is taken as their share
of the squares of all values up to the threshold in patches of that code: one histogram more.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from spatialonnx.errors import PlanError
from spatialonnx.plan.masks import patch_grid
from spatialonnx.plan.patterns import full_pattern
from spatialonnx.plan.rule import inside_bits

DENSE = 1 << 22
"""Bins up to which histograms are arrays; above, only the codes that occur are kept."""
BYTES_A_BIN = 32
"""Of a histogram that is an array."""
_BYTES_A_CODE = 80
"""Of one that keeps the codes that occur, while new ones are entered."""


class CodeHistogram:
    """Counts zero codes of one site, target by target.

    Attributes:
        patch_size: Side of a patch.
        targets: Number of targets.
        borders: The border classes: bits inside the ofmap, one integer a class.
    """

    def __init__(
        self,
        patch_size: int,
        shape: tuple[int, int, int],
        labels: NDArray[Any] | None = None,
        *,
        energy: bool = False,
        room: int | None = None,
    ) -> None:
        """Starts with nothing counted.

        Args:
            patch_size: Side of a patch.
            shape: C, H, W of the ofmap.
            labels: The target of every patch, integers from 0, broadcastable to [C, nH, nW];
                negative = none. Default: the whole layer is one target.
            energy: Whether ``lost`` will be asked for.
            room: Bytes that it may take; None = no limit. ``is_full`` says where it needs more.

        Raises:
            PlanError: The labels do not fit the map.
        """
        self.patch_size = patch_size
        self._shape = shape
        self._codes = full_pattern(patch_size) + 1
        self._grid = patch_grid(shape[1], shape[2], patch_size)
        wanted = (shape[0], *self._grid)
        given = np.zeros((1, 1, 1), np.int64) if labels is None else labels
        try:
            spread = np.broadcast_to(given, wanted)
        except ValueError:
            raise PlanError(
                f"labels of shape {list(given.shape)} do not fit patches of {list(wanted)}"
            ) from None
        self.targets = int(spread.max(initial=-1)) + 1
        inside = inside_bits(shape[1], shape[2], patch_size)
        self.borders, border = np.unique(inside, return_inverse=True)
        bins = spread * len(self.borders) + border.reshape(self._grid)
        self._base = np.where(spread < 0, -1, bins).reshape(-1).astype(np.int64)
        self._choose()
        self._most_codes = DENSE if room is None else max(room // _BYTES_A_CODE, 1)
        self._limited = room is not None
        self._energy = energy
        size = self.targets * len(self.borders) * self._codes
        self._dense = size <= (DENSE if room is None else min(DENSE, room // BYTES_A_BIN))
        self._keys = np.arange(size if self._dense else 0)
        self._counts = np.zeros(len(self._keys), np.int64)
        self._squares = np.zeros(len(self._keys) if energy else 0)
        self._small = np.zeros(len(self._keys) if energy else 0)
        self._has_small = False
        self._pending: list[tuple[NDArray[Any], ...]] = []
        self._waiting = 0

    def _choose(self) -> None:
        """Finds the patches that have a target, and where their bins begin."""
        has_target = self._base >= 0
        # A slice where all of them do: it copies nothing.
        self._chosen = slice(None) if has_target.all() else has_target
        self._first = self._base[self._chosen] * self._codes

    def keep(self, targets: int) -> None:
        """Forgets all targets but the first ones.

        Args:
            targets: How many are kept.
        """
        self._merge()
        row = len(self.borders) * self._codes
        end = targets * row if self._dense else int(np.searchsorted(self._keys, targets * row))
        self._keys, self._counts = self._keys[:end].copy(), self._counts[:end].copy()
        self._squares, self._small = self._squares[:end].copy(), self._small[:end].copy()
        self._base[self._base >= targets * len(self.borders)] = -1
        self._choose()
        self.targets = min(targets, self.targets)

    def add(
        self,
        codes: NDArray[np.uint16],
        squares: NDArray[np.float64] | None = None,
        small: NDArray[np.float64] | None = None,
    ) -> None:
        """Counts some samples.

        Args:
            codes: Zero codes of the dense ofmap, [n, C, nH, nW].
            squares: The sum of squares of every patch, see ``patch_squares``, where ``lost`` will
                be asked for.
            small: The same of the values that count as zero; None where only zeros do.
        """
        flat = codes.reshape(len(codes), len(self._base))
        chosen = self._chosen
        keys = (self._first + flat[:, chosen]).reshape(-1)
        if self._energy:
            if squares is None:
                raise ValueError("a histogram with energy needs the patches' squares")
            squares = squares.reshape(flat.shape)[:, chosen].reshape(len(keys))
            if small is not None:
                small = small.reshape(flat.shape)[:, chosen].reshape(len(keys))
                self._has_small = True
        if self._dense:
            self._enter(keys, squares, small)
            return
        none = np.zeros(0)
        zeros = np.zeros(len(keys) if small is None and self._energy else 0)
        self._pending.append(
            (keys, none if squares is None else squares, zeros if small is None else small)
        )
        self._waiting += len(keys)
        # Sorting as many new keys as are known already costs little for each.
        if self._waiting > (
            self._most_codes // 4 if self._limited else max(len(self._keys), DENSE)
        ):
            self._merge()

    def _merge(self) -> None:
        """Enters the keys that wait; only the codes that occur are kept."""
        if not self._pending:
            return
        keys, squares, small = (np.concatenate(p) for p in zip(*self._pending, strict=True))
        self._pending.clear()
        self._waiting = 0
        known, where = np.unique(np.concatenate([self._keys, keys]), return_inverse=True)
        old = where[: len(self._keys)]
        self._counts = _spread(self._counts, old, len(known))
        if self._energy:
            self._squares = _spread(self._squares, old, len(known))
            self._small = _spread(self._small, old, len(known))
        self._keys = known
        counted = (squares, small) if self._energy else (None, None)
        self._enter(where[len(old) :], *counted)

    @property
    def bins(self) -> int:
        """Bins that are kept as arrays; 0 where only the codes that occur are."""
        return len(self._keys) if self._dense else 0

    @property
    def is_full(self) -> bool:
        """Whether it has no room for more codes: fewer targets must be kept."""
        return self._limited and not self._dense and 2 * len(self._keys) > self._most_codes

    def skipped(
        self,
        first: int = 0,
        last: int | None = None,
        patterns: NDArray[np.int64] | None = None,
    ) -> NDArray[np.int64]:
        """Outputs that every pattern predicts, over all samples counted.

        Args:
            first: The first target.
            last: The one behind the last; None = all from ``first`` on.
            patterns: Which patterns, int64 [k]; None = all 2^(p*p).

        Returns:
            int64 [targets, k].
        """
        last = self.targets if last is None else last
        self._merge()
        supersets = superset_sums(self._histogram(self._counts, first, last))
        patterns = np.arange(self._codes) if patterns is None else patterns
        total = np.zeros((last - first, len(patterns)), np.int64)
        for k, inside in enumerate(self.borders.tolist()):
            probes = patterns & inside
            outputs = np.bitwise_count(inside & ~patterns) * (probes != 0)
            total += supersets[:, k, probes] * outputs.astype(np.int64)
        return total

    def lost(
        self,
        first: int = 0,
        last: int | None = None,
        patterns: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float64]:
        """Sum of squares of the values that every pattern would set to zero.

        Args:
            first: The first target.
            last: The one behind the last; None = all from ``first`` on.
            patterns: Which patterns, int64 [k]; None = all 2^(p*p).

        Returns:
            float64 [targets, k].
        """
        if not self._energy:
            raise ValueError("this histogram counts no energy")
        last = self.targets if last is None else last
        self._merge()
        supersets = superset_sums(self._histogram(self._squares, first, last))
        patterns = np.arange(self._codes) if patterns is None else patterns
        kept = None
        if self._has_small:
            # Of one value that counts as zero, in the mean over those of the patch.
            shares = np.maximum(np.bitwise_count(np.arange(self._codes)), 1)
            kept = superset_sums(self._histogram(self._small, first, last) / shares)
        total = np.zeros((last - first, len(patterns)))
        for k, inside in enumerate(self.borders.tolist()):
            probes = patterns & inside
            lost = supersets[:, k, probes]
            if kept is not None:
                lost = np.maximum(lost - kept[:, k, probes] * np.bitwise_count(probes), 0.0)
            total += lost * ((probes != 0) & (inside & ~patterns != 0))
        return total

    def _enter(
        self,
        positions: NDArray[np.int64],
        squares: NDArray[np.float64] | None,
        small: NDArray[np.float64] | None,
    ) -> None:
        _add_at(self._counts, positions, None)
        if squares is not None:
            _add_at(self._squares, positions, squares)
        if small is not None:
            _add_at(self._small, positions, small)

    def _histogram(self, values: NDArray[Any], first: int, last: int) -> NDArray[Any]:
        """Values by target, border class and code, [targets, classes, codes]."""
        row = len(self.borders) * self._codes
        if self._dense:
            chosen = values[first * row : last * row]
            return chosen.reshape(last - first, len(self.borders), self._codes)
        low, high = np.searchsorted(self._keys, [first * row, last * row])
        found = np.zeros((last - first) * row, values.dtype)
        found[self._keys[low:high] - first * row] = values[low:high]
        return found.reshape(last - first, len(self.borders), self._codes)


def _add_at(
    total: NDArray[Any], positions: NDArray[np.int64], values: NDArray[np.float64] | None
) -> None:
    """Adds values, or ones, to bins; where bins are more than values, only those that get one."""
    if len(positions) < len(total):
        np.add.at(total, positions, 1 if values is None else values)
    else:
        total += np.bincount(positions, values, minlength=len(total))


def patch_squares(ofmap: NDArray[np.float32], patch_size: int) -> NDArray[np.float64]:
    """Sum of squares of every patch, float64 [n, C, nH, nW], finite; beyond the border are zeros.

    What is not finite counts as the largest float32.
    """
    sums = _patch_sums(np.square(ofmap, dtype=np.float64), patch_size)
    if np.isfinite(sums).all():
        return sums
    finite = np.nan_to_num(ofmap, nan=float(np.finfo(np.float32).max))
    return _patch_sums(np.square(finite, dtype=np.float64), patch_size)


def _patch_sums(values: NDArray[np.float64], p: int) -> NDArray[np.float64]:
    """The sum of every patch: first along its rows, then of these."""
    n, channels, height, width = values.shape
    rows, columns = patch_grid(height, width, p)
    across = np.zeros((n, channels, height, columns))
    for column in range(p):
        part = values[..., column::p]
        across[..., : part.shape[-1]] += part
    sums = np.zeros((n, channels, rows, columns))
    for row in range(p):
        part = across[:, :, row::p]
        sums[:, :, : part.shape[2]] += part
    return sums


def superset_sums(values: NDArray[Any]) -> NDArray[Any]:
    """For every set s, the sum over all sets that include s (the fast zeta transform).

    Args:
        values: By set, a bit an element, along the last axis of length 2^k; other axes at will.

    Returns:
        Sums of the same shape.
    """
    sums = values.copy()
    size = sums.shape[-1]
    step = 1
    while step < size:
        halves = sums.reshape(*sums.shape[:-1], size // (2 * step), 2, step)
        halves[..., 0, :] += halves[..., 1, :]
        step *= 2
    return sums


def _spread(values: NDArray[Any], positions: NDArray[np.int64], size: int) -> NDArray[Any]:
    """Values moved to new positions along the last axis, zeros elsewhere."""
    result = np.zeros((*values.shape[:-1], size), values.dtype)
    result[..., positions] = values
    return result
