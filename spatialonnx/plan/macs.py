"""Counting multiply-accumulates.

One output of a Conv costs (Cin / groups) * kh * kw MACs; the bias and the ReLU are free (report,
section 2.2.2). All counts are Python integers: totals over samples may pass 2**53.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import prod

import numpy as np
from numpy.typing import NDArray


def macs_per_output(weight_shape: Sequence[int]) -> int:
    """MACs of one output of a Conv.

    Args:
        weight_shape: Shape of the Conv's weight, [Cout, Cin / groups, k...].
    """
    return prod(int(d) for d in weight_shape[1:])


def conv_macs(weight_shape: Sequence[int], output_shape: Sequence[int]) -> int:
    """MACs of a Conv for one sample.

    Args:
        weight_shape: Shape of the weight, [Cout, Cin / groups, k...].
        output_shape: Shape of the output without the batch dimension, [Cout, spatial...].
    """
    return macs_per_output(weight_shape) * prod(int(d) for d in output_shape)


def saved_macs(skipped: NDArray[np.int64], per_output: int) -> int:
    """MACs of predicted outputs.

    Args:
        skipped: Counts of predicted outputs, any shape.
        per_output: MACs that one output costs.
    """
    return int(skipped.sum(dtype=np.int64)) * per_output


def fraction(part: int, whole: int) -> float:
    """``part / whole``, formed last and exactly rounded; 0 where there is nothing."""
    return float(Fraction(part, whole)) if whole else 0.0
