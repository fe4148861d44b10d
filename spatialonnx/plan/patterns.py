"""Patterns: p x p bits of one patch, 1 = probe, 0 = may be predicted (report, section 4.1).

A pattern is an integer whose bit ``r * p + c`` (least significant first) belongs to row ``r`` and
column ``c`` of the patch. As text, character ``i`` is bit ``i``: ``1001`` is the 2 x 2 diagonal.
"""

from __future__ import annotations

from collections.abc import Sequence

from spatialonnx.errors import PlanError

PATCH_SIZES = (2, 3, 4)


def check_patch_size(patch_size: int) -> int:
    """Returns ``patch_size`` if it is supported.

    Raises:
        PlanError: It is not 2, 3 or 4.
    """
    if patch_size not in PATCH_SIZES:
        raise PlanError(f"patch size {patch_size} is not supported: use 2, 3 or 4")
    return patch_size


def full_pattern(patch_size: int) -> int:
    """The pattern that probes every position: prediction off."""
    return (1 << (check_patch_size(patch_size) ** 2)) - 1


def diagonal_pattern(patch_size: int) -> int:
    """The pattern of Shomron & Weiser (CAL 2019): probes on the main diagonal."""
    check_patch_size(patch_size)
    return sum(1 << (i * patch_size + i) for i in range(patch_size))


def check_pattern(pattern: int, patch_size: int) -> int:
    """Returns ``pattern`` if it is one of the patterns of this patch size.

    Raises:
        PlanError: It is 0 (nothing to predict from) or has bits beyond the patch.
    """
    full = full_pattern(patch_size)
    if not 0 < pattern <= full:
        raise PlanError(
            f"pattern {pattern} is not a pattern of patch size {patch_size}: use 1 to {full}"
        )
    return pattern


def parse_pattern(text: str) -> tuple[int, int]:
    """Reads a pattern written as 4, 9 or 16 characters 0 and 1.

    Returns:
        The pattern and its patch size.

    Raises:
        PlanError: The text is no such pattern, or has no 1 in it.
    """
    sizes = {p * p: p for p in PATCH_SIZES}
    if len(text) not in sizes or set(text) - {"0", "1"}:
        raise PlanError(
            f"pattern {text!r} is not 4, 9 or 16 characters 0 and 1 (row by row, 1 = probe), "
            "for example 1001, the 2 x 2 diagonal"
        )
    patch_size = sizes[len(text)]
    return check_pattern(int(text[::-1], 2), patch_size), patch_size


def pattern_text(pattern: int, patch_size: int) -> str:
    """Writes a pattern as text: character ``i`` is bit ``i``."""
    check_pattern(pattern, patch_size)
    return f"{pattern:0{patch_size * patch_size}b}"[::-1]


def patterns_with_ones(patch_size: int, low: int, high: int) -> tuple[int, ...]:
    """All patterns with ``low`` to ``high`` probes, inclusive, in increasing order.

    The report's ones_range (section 5.2.3.2). The full pattern is left out: it is "off".

    Raises:
        PlanError: The range is empty or outside 1 .. p*p - 1.
    """
    most = check_patch_size(patch_size) ** 2 - 1
    if not 1 <= low <= high <= most:
        raise PlanError(
            f"ones range {low}:{high} is not within 1:{most}, the range of patch size {patch_size}"
        )
    return tuple(
        pattern
        for pattern in range(1, full_pattern(patch_size))
        if low <= pattern.bit_count() <= high
    )


def patch_sizes(text: str) -> tuple[int, ...]:
    """Reads ``2`` or ``2,3,4``; each size once, in increasing order.

    Raises:
        PlanError: One of them is not 2, 3 or 4.
    """
    try:
        sizes = {int(part) for part in text.split(",")}
    except ValueError:
        raise PlanError(
            f"--patch-size {text!r}: use 2, 3 or 4, or several, for example 2,3,4"
        ) from None
    return tuple(sorted(check_patch_size(size) for size in sizes))


def parse_patch_size(text: str) -> int:
    """Reads one patch size.

    Raises:
        PlanError: The text is not a patch size, or several.
    """
    size, *others = patch_sizes(text)
    if others:
        raise PlanError(f"--patch-size {text}: give one patch size")
    return size


def parse_ones_range(text: str) -> tuple[int, int]:
    """Reads ``lo:hi`` (inclusive) or a single number.

    Raises:
        PlanError: The text is neither.
    """
    low, colon, high = text.partition(":")
    try:
        return int(low), int(high if colon else low)
    except ValueError:
        raise PlanError(f"ones range {text!r} is not lo:hi, for example 1:3") from None


def parse_patterns(texts: Sequence[str], patch_size: int) -> tuple[int, ...]:
    """Reads an explicit list of patterns of one patch size; the full pattern is refused.

    Raises:
        PlanError: One of them is not a pattern of this patch size, or is full.
    """
    patterns = []
    for text in texts:
        pattern, size = parse_pattern(text)
        if size != patch_size:
            raise PlanError(f"pattern {text} is of patch size {size}, not {patch_size}")
        if pattern == full_pattern(size):
            raise PlanError(f"pattern {text} is full: it predicts nothing and needs no trial")
        patterns.append(pattern)
    return tuple(sorted(set(patterns)))
