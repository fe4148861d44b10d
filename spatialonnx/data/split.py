"""The search, select and verify parts of a pool of images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spatialonnx.errors import DataError, UsageError

SEARCH_SAMPLES = 1000
SELECT_SAMPLES = 2000
VERIFY_SAMPLES = 5000
_SMALL_POOL = 5000

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Three disjoint parts of a pool, as int64 indices in the permuted order.

    Attributes:
        search: where trials run.
        select: where the best trials of the search are compared.
        verify: where the bound is checked; no choice may read it.
        seed: seed of the permutation.
    """

    search: Indices
    select: Indices
    verify: Indices
    seed: int


def split_pool(
    n: int,
    seed: int,
    search_samples: int | None = None,
    select_samples: int | None = None,
    verify_samples: int | None = None,
) -> Split:
    """Cuts a pool into search, select and verify.

    The pool is permuted by `numpy.random.default_rng(seed)`; search takes the first images,
    select the next and verify the rest. None stands for the default: 1,000, 2,000 and at most
    5,000; in a pool of fewer than 5,000 images 30 %, 30 % and 40 %.

    Args:
        n: images in the pool.
        seed: seed of the permutation.
        search_samples: size of search, or None.
        select_samples: size of select, or None.
        verify_samples: size of verify, or None.

    Returns:
        The three parts, each of at least one image.

    Raises:
        UsageError: the sizes asked for do not fit into the pool.
        DataError: the pool is too small to be cut at all.
    """
    asked = {"search": search_samples, "select": select_samples, "verify": verify_samples}
    for part, size in asked.items():
        if size is not None and size < 1:
            raise UsageError(f"--{part}-samples {size}: give 1 or more")
    if n < 4:
        raise DataError(f"{n} images cannot be cut into search, select and verify: give 4 or more")
    if seed < 0:
        raise UsageError(f"--seed {seed}: give 0 or more")
    small = n < _SMALL_POOL
    search = search_samples or (n * 3 // 10 if small else SEARCH_SAMPLES)
    select = select_samples or (n * 3 // 10 if small else SELECT_SAMPLES)
    rest = n - search - select
    verify = verify_samples or min(max(rest, 1), VERIFY_SAMPLES)
    if search + select + verify > n:
        raise UsageError(
            f"search {search} + select {select} + verify {verify} samples are more than the "
            f"{n} images of the pool: give smaller --search-samples, --select-samples or "
            "--verify-samples"
        )
    order = np.random.default_rng(seed).permutation(n).astype(np.int64)
    return Split(
        search=order[:search],
        select=order[search : search + select],
        verify=order[search + select : search + select + verify],
        seed=seed,
    )
