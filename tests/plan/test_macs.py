"""Counting MACs, exactly."""

import pytest

from spatialonnx.plan.macs import fraction, macs_per_output


@pytest.mark.parametrize(
    ("weight", "per_output"),
    [
        ((96, 3, 11, 11), 363),  # conv1 of AlexNet
        ((32, 1, 3, 3), 9),  # depthwise
        ((256, 48, 5, 5), 1200),  # grouped: the second dimension is already Cin / groups
        ((5, 2, 3), 6),
        ((2**20, 2**20, 2**21, 3), 3 * 2**41),
    ],
)
def test_macs_of_one_output(weight, per_output):
    assert macs_per_output(weight) == per_output


def test_a_fraction_is_formed_last():
    assert fraction(10**30 + 1, 10**30) == 1.0
    assert fraction(1, 3) == 1 / 3
    assert fraction(5, 0) == 0.0
