from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spatialonnx.data.split import Split, split_pool
from spatialonnx.errors import DataError, UsageError


def sizes(split: Split) -> tuple[int, int, int]:
    return len(split.search), len(split.select), len(split.verify)


def test_the_parts_are_cuts_of_numpys_permutation() -> None:
    split = split_pool(10_000, seed=7)
    order = np.random.default_rng(7).permutation(10_000)
    assert sizes(split) == (1000, 2000, 5000)
    assert (np.concatenate([split.search, split.select, split.verify]) == order[:8000]).all()
    assert split.search.dtype == np.int64


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (4, (1, 1, 2)),
        (10, (3, 3, 4)),
        (4999, (1499, 1499, 2001)),
        (5000, (1000, 2000, 2000)),
        (8000, (1000, 2000, 5000)),
        (60_000, (1000, 2000, 5000)),
    ],
)
def test_default_sizes(n: int, expected: tuple[int, int, int]) -> None:
    assert sizes(split_pool(n, 0)) == expected


def test_sizes_asked_for_are_kept_and_the_rest_is_verify() -> None:
    assert sizes(split_pool(5000, 0, search_samples=400)) == (400, 2000, 2600)
    assert sizes(split_pool(5000, 0, 400, 600)) == (400, 600, 4000)
    assert sizes(split_pool(1000, 0, verify_samples=100)) == (300, 300, 100)
    assert sizes(split_pool(60_000, 0, 400, 600, 20_000)) == (400, 600, 20_000)


@pytest.mark.parametrize(
    "asked", [(900, None, None), (None, 2000, None), (None, None, 401), (5000, 1, 1)]
)
def test_sizes_that_do_not_fit_name_the_options(asked: tuple[int | None, ...]) -> None:
    with pytest.raises(UsageError, match=r"1000 images.*--search-samples"):
        split_pool(1000, 0, *asked)


def test_sizes_below_one_and_negative_seeds_are_refused() -> None:
    with pytest.raises(UsageError, match="--select-samples 0"):
        split_pool(1000, 0, select_samples=0)
    with pytest.raises(UsageError, match="--seed -1"):
        split_pool(1000, -1)


@pytest.mark.parametrize("n", [0, 1, 3])
def test_a_pool_too_small_to_cut_is_refused(n: int) -> None:
    with pytest.raises(DataError, match=f"{n} images"):
        split_pool(n, 0)


@given(st.integers(4, 12_000), st.integers(0, 2**32))
def test_parts_are_disjoint_and_never_empty(n: int, seed: int) -> None:
    split = split_pool(n, seed)
    together = np.concatenate([split.search, split.select, split.verify])
    assert len(np.unique(together)) == len(together) <= n
    assert together.min() >= 0 and together.max() < n
    assert min(sizes(split)) >= 1
    again = split_pool(n, seed)
    assert (again.verify == split.verify).all()
