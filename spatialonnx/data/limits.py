"""How much a data set may ask of this machine before it is refused."""

from __future__ import annotations

import os
from functools import lru_cache

_FALLBACK = 8 << 30


@lru_cache(maxsize=1)
def memory_limit() -> int:
    """Bytes that one array may take: half of the machine's memory.

    A damaged or hostile header may claim any size; without a limit the allocation would succeed
    and the machine would swap.
    """
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf.
        return _FALLBACK


def usable_cores() -> int:
    """Processors that this process may run on (a container's limit, not the machine's)."""
    try:
        return max(1, len(os.sched_getaffinity(0)))
    except AttributeError:  # macOS and Windows have no affinity call.
        return os.cpu_count() or 1
