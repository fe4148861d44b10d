"""Options that decide trials: what fits together."""

import pytest

from spatialonnx.errors import PlanError, UsageError
from spatialonnx.searching.settings import Settings, choose_patterns


def test_all_patterns_unless_told():
    assert Settings().patterns == tuple(range(1, 15))
    assert len(Settings(patch_size=3).patterns) == 510
    assert choose_patterns(2, None, ()) == tuple(range(1, 15))
    assert choose_patterns(2, (3, 3), ()) == (7, 11, 13, 14)
    assert choose_patterns(2, None, ("1001", "0110")) == (6, 9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "uniform"}, "--mode uniform: use uniform-layer"),
        ({"strategy": "random"}, "--strategy random: use greedy"),
        ({"strategy": "exhaustive", "mode": "uniform-patch"}, "uniform-layer alone"),
        ({"max_clusters": -1}, "0 or more"),
        ({"max_clusters": 4}, "max-granularity alone"),
        ({"top": 0}, "1 or more"),
    ],
)
def test_what_does_not_fit_together(options, message):
    with pytest.raises(UsageError, match=message):
        Settings(**options)


def test_patterns_that_do_not_fit():
    with pytest.raises(PlanError, match="patch size 5"):
        Settings(patch_size=5)
    with pytest.raises(UsageError, match="not both"):
        choose_patterns(2, (1, 2), ("1001",))
    with pytest.raises(PlanError, match="of patch size 2, not 3"):
        choose_patterns(3, None, ("1001",))
