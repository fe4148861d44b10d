"""Learning rates as functions of progress: a resumed run needs no scheduler state."""

import math
from collections.abc import Callable

__all__ = ["SCHEDULES"]

WARM_UP = 0.3
START_DIVISOR = 25.0
END_DIVISOR = 25.0 * 1e4


def _cosine_between(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1.0 + math.cos(math.pi * progress)) / 2.0


def _one_cycle(progress: float) -> float:
    """Smith & Topin's one-cycle policy with cosine ramps and torch's OneCycleLR constants."""
    if progress < WARM_UP:
        return _cosine_between(1.0 / START_DIVISOR, 1.0, progress / WARM_UP)
    return _cosine_between(1.0, 1.0 / END_DIVISOR, (progress - WARM_UP) / (1.0 - WARM_UP))


def _cosine(progress: float) -> float:
    """A half cosine from the peak to zero (Loshchilov & Hutter, SGDR, without restarts)."""
    return _cosine_between(1.0, 0.0, progress)


SCHEDULES: dict[str, Callable[[float], float]] = {"onecycle": _one_cycle, "cosine": _cosine}
"""Factor of the peak rate at a progress from 0 to 1, by name."""
