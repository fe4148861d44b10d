"""Formats of numbers, the same in HTML and Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

NONE = "–"


def percent(value: float | None) -> str:
    """A fraction as per cent."""
    return NONE if value is None else f"{100 * value:.1f} %"


def percent2(value: float | None) -> str:
    """A small fraction as per cent."""
    return NONE if value is None else f"{100 * value:.2f} %"


def points(value: float | None) -> str:
    """A difference of fractions as percentage points."""
    return NONE if value is None else f"{100 * value:.2f} points"


def interval(value: tuple[float, float] | None) -> str:
    """An interval of a drop, in percentage points."""
    return NONE if value is None else f"{100 * value[0]:+.2f} to {100 * value[1]:+.2f}"


def ratios(value: tuple[float, float] | None) -> str:
    """An interval of a ratio."""
    return NONE if value is None else f"{value[0]:.3f} to {value[1]:.3f}"


def count(value: float | None) -> str:
    """A whole number."""
    return NONE if value is None else f"{value:,.0f}"


def macs(value: int | None) -> str:
    """MACs of one image."""
    return NONE if value is None else f"{value / 1e6:,.2f} M"


def duration(value: float | None) -> str:
    """Seconds, minutes or hours."""
    if value is None:
        return NONE
    if value < 120:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


def ms(value: float | None) -> str:
    """Milliseconds."""
    return NONE if value is None else f"{value:.3f} ms"


def factor(value: float | None) -> str:
    """A factor with two decimals."""
    return NONE if value is None else f"{value:.2f}"


def shape(value: Sequence[int | None]) -> str:
    """A shape; ``?`` where dynamic."""
    return " x ".join("?" if dim is None else str(dim) for dim in value)


def size(value: Sequence[int | None]) -> int:
    """Number of elements of a shape, for sorting; dynamic sides count as 1."""
    return math.prod(dim or 1 for dim in value)


def unbroken(function: Callable[..., str]) -> Callable[..., str]:
    """The same words, never broken over two lines."""
    return lambda value: function(value).replace(" ", "\u00a0")


WORDS: dict[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (percent, percent2, points, interval, ratios, count, macs, duration, ms, factor, shape)
}
"""For templates, by name."""

HTML_WORDS: dict[str, Callable[..., Any]] = {
    **WORDS,
    **{f.__name__: unbroken(f) for f in (percent, percent2, points, macs, duration, ms, shape)},
    "size": size,
}
"""The same for the page, where a number and its unit stay together."""
