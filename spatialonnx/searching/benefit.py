"""The benefit of saving MACs: the MACs themselves, or the time that they take."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Benefit = Callable[[Sequence[str], int, int], int]
"""The benefit, an integer, of MACs saved at a layer (or coupled ones), on all search samples, by
masks of a patch size."""


def count_macs(sites: Sequence[str], saved: int, patch_size: int) -> int:
    """The benefit if MACs are the goal."""
    del sites, patch_size
    return saved
