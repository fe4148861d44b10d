"""Counting multiply-accumulates.

One output of a Conv costs (Cin / groups) * kh * kw MACs; the bias and the ReLU are free (report,
section 2.2.2). All counts are Python integers: totals over samples may pass 2**53.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import prod


def macs_per_output(weight_shape: Sequence[int]) -> int:
    """MACs of one output of a Conv.

    Args:
        weight_shape: Shape of the Conv's weight, [Cout, Cin / groups, k...].
    """
    return prod(int(d) for d in weight_shape[1:])


def fraction(part: int, whole: int) -> float:
    """``part / whole``, formed last and exactly rounded; 0 where there is nothing."""
    return float(Fraction(part, whole)) if whole else 0.0
