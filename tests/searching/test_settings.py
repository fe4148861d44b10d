"""Options that decide trials: what fits together."""

import pytest

from spatialonnx.errors import PlanError, UsageError
from spatialonnx.searching.settings import Settings, choose_patterns, parse_thresholds


def test_all_patterns_unless_told():
    assert Settings().patterns == {2: tuple(range(1, 15))}
    assert choose_patterns([2], None, ()) == {2: tuple(range(1, 15))}
    assert choose_patterns([2], (3, 3), ()) == {2: (7, 11, 13, 14)}
    assert choose_patterns([2], None, ("1001", "0110")) == {2: (6, 9)}
    both = choose_patterns([2, 3], (7, 8), ())
    assert both[2] == (7, 11, 13, 14) and len(both[3]) == 36 + 9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "uniform"}, "--mode uniform: use uniform-layer"),
        ({"goal": "energy"}, "--goal energy: use macs or latency"),
        ({"max_clusters": -1}, "0 or more"),
        ({"max_clusters": 4}, "max-granularity alone"),
        ({"top": 0}, "1 or more"),
        ({"thresholds": (0.0, -1.0)}, "0 or more"),
        ({"thresholds": (0.0, 0.1), "mode": "uniform-filter"}, "per channel"),
    ],
)
def test_what_does_not_fit_together(options, message):
    with pytest.raises(UsageError, match=message):
        Settings(**options)


def test_thresholds_are_numbers_with_0():
    assert parse_thresholds("0.2,0.1") == parse_thresholds([0.1, 0.2]) == (0.0, 0.1, 0.2)
    assert parse_thresholds(None) is None
    with pytest.raises(UsageError, match="--thresholds"):
        parse_thresholds("few")


def test_patterns_that_do_not_fit():
    with pytest.raises(PlanError, match="patch size 5"):
        Settings(patterns={5: (1,)})
    with pytest.raises(UsageError, match="not both"):
        choose_patterns([2], (1, 2), ("1001",))
    with pytest.raises(UsageError, match="one patch size"):
        choose_patterns([2, 3], None, ("1001",))
    with pytest.raises(PlanError, match="of patch size 2, not 3"):
        choose_patterns([3], None, ("1001",))
