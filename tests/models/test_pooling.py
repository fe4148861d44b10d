"""The side to which the last map is pooled."""

import pytest

from models.pooling import pooled_side


@pytest.mark.parametrize(
    ("side", "largest", "expected"),
    [(6, 6, 6), (7, 7, 7), (12, 6, 6), (8, 6, 4), (5, 6, 5), (11, 6, 1), (1, 7, 1)],
)
def test_pooled_side(side: int, largest: int, expected: int) -> None:
    assert pooled_side(side, largest) == expected
