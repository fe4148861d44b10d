from __future__ import annotations

import os

from spatialonnx.data.limits import memory_limit


def test_the_memory_limit_is_half_of_the_machine() -> None:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert memory_limit() == pages // 2
