"""Counting MACs, exactly."""

import numpy as np
import pytest

from spatialonnx.plan.macs import conv_macs, fraction, macs_per_output, saved_macs


@pytest.mark.parametrize(
    ("weight", "output", "per_output", "total"),
    [
        # conv1 of AlexNet: 3 x 11 x 11 MACs for each of 96 x 55 x 55 outputs.
        ((96, 3, 11, 11), (96, 55, 55), 363, 105_415_200),
        # A depthwise 3 x 3 Conv: 9 MACs per output.
        ((32, 1, 3, 3), (32, 112, 112), 9, 3_612_672),
        # Grouped: the weight's second dimension is already Cin / groups.
        ((256, 48, 5, 5), (256, 27, 27), 1200, 223_948_800),
        ((5, 2, 3), (5, 10), 6, 300),
    ],
)
def test_macs_of_a_conv(weight, output, per_output, total):
    assert macs_per_output(weight) == per_output
    assert conv_macs(weight, output) == total


def test_totals_beyond_the_precision_of_floats_are_exact():
    skipped = np.array([[2**40, 1], [0, 2]], np.int64)
    assert saved_macs(skipped, 2**20 + 1) == (2**40 + 3) * (2**20 + 1)
    assert isinstance(conv_macs((2**20, 2**20, 3, 3), (2**20, 2**10, 2**10)), int)


def test_a_fraction_is_formed_last():
    assert fraction(10**30 + 1, 10**30) == 1.0
    assert fraction(1, 3) == 1 / 3
    assert fraction(5, 0) == 0.0
