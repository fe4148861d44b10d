"""How much a data set may ask of this machine before it is refused."""

from __future__ import annotations

from functools import cache

from spatialonnx.runtime.resources import total_memory

LARGEST_PICTURE = 1 << 26
"""Bytes of one encoded picture."""


@cache
def memory_limit() -> int:
    """Bytes that one array may take: half of the machine's memory.

    A damaged or hostile header may claim any size; without a limit the allocation would succeed
    and the machine would swap.
    """
    return total_memory() // 2
