"""The prediction rule in numpy, patch by patch: slow, readable, and what decides who is right.

Every kernel, on the CPU or a GPU, is compared with these functions on the cases of
``support.cases``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Predicted(NamedTuple):
    """What SpatialPredict gives: y [N, C, H, W], skipped and false_zero int64 [N, C]."""

    y: NDArray[Any]
    skipped: NDArray[np.int64]
    false_zero: NDArray[np.int64]


def spatial_predict(
    x: NDArray[Any],
    mask: NDArray[np.uint16],
    patch_size: int,
    threshold: NDArray[Any] | None = None,
    zero: int = 0,
) -> Predicted:
    """Applies the rule to ofmaps that are already computed.

    In a patch all of whose probes count as zero, everything else is set to zero. Probes beyond the
    border do not count; a patch without any probe inside the map is blind and stays as it is.

    Args:
        x: Ofmaps after their ReLU, [N, C, H, W]: float32, uint8 or int8.
        mask: Patterns, uint16, broadcastable to [C, nH, nW].
        patch_size: 2, 3 or 4.
        threshold: Largest value that counts as zero, [1] or [C]; of 8-bit maps in steps above
            the zero point. None = the zero alone.
        zero: The zero point of an 8-bit map.
    """
    samples, channels, height, width = x.shape
    rows, columns = -(-height // patch_size), -(-width // patch_size)
    patterns = np.broadcast_to(mask, (channels, rows, columns))
    y = x.copy()
    skipped = np.zeros((samples, channels), np.int64)
    false_zero = np.zeros((samples, channels), np.int64)
    for n, c, row, column in np.ndindex(samples, channels, rows, columns):
        positions = list(_positions(row, column, height, width, patch_size))
        pattern = int(patterns[c, row, column])
        probes = [at for bit, at in positions if pattern >> bit & 1]
        others = [at for bit, at in positions if not pattern >> bit & 1]
        if not probes or not all(_is_zero(x[n, c][at], c, threshold, zero) for at in probes):
            continue
        for at in others:
            skipped[n, c] += 1
            false_zero[n, c] += int(x[n, c][at] != zero)
            y[n, c][at] = zero
    return Predicted(y, skipped, false_zero)


def patch_codes(
    x: NDArray[Any], patch_size: int, threshold: NDArray[Any] | None = None, zero: int = 0
) -> NDArray[np.uint16]:
    """Which values of every patch count as zero: bit r * p + c, never set beyond the border.

    Returns:
        Codes, uint16 [N, C, nH, nW].
    """
    samples, channels, height, width = x.shape
    rows, columns = -(-height // patch_size), -(-width // patch_size)
    codes = np.zeros((samples, channels, rows, columns), np.uint16)
    for n, c, row, column in np.ndindex(codes.shape):
        code = 0
        for bit, at in _positions(row, column, height, width, patch_size):
            code |= int(_is_zero(x[n, c][at], c, threshold, zero)) << bit
        codes[n, c, row, column] = code
    return codes


def _is_zero(value: Any, channel: int, threshold: NDArray[Any] | None, zero: int) -> bool:
    """NaN counts as zero under no threshold; minus zero does."""
    if threshold is None:
        return bool(value == zero)
    limit = threshold[channel if len(threshold) > 1 else 0]
    if np.issubdtype(value.dtype, np.floating):
        return bool(np.float32(value) <= limit)  # float32 holds every float16
    return int(value) <= zero + int(limit)


def _positions(
    row: int, column: int, height: int, width: int, patch_size: int
) -> Iterator[tuple[int, tuple[int, int]]]:
    """The positions of a patch that are inside the map, each with its bit in a pattern."""
    for bit in range(patch_size * patch_size):
        r, c = divmod(bit, patch_size)
        at = (row * patch_size + r, column * patch_size + c)
        if at[0] < height and at[1] < width:
            yield bit, at
