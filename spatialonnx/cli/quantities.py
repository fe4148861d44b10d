"""Reads durations and sizes of memory."""

from __future__ import annotations

import math

from spatialonnx.errors import UsageError

_BYTES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def parse_memory(text: str | None) -> int | None:
    """Reads ``4G``, ``500M`` or a number of bytes.

    Raises:
        UsageError: The text is something else.
    """
    if text is None:
        return None
    unit = _BYTES.get(text[-1:].upper())
    value = _number(text if unit is None else text[:-1]) * (unit or 1)
    if not 1 <= value < math.inf:
        raise UsageError(f"--memory {text!r}: give bytes, such as 4G or 500M")
    return int(value)


def parse_minutes(option: str, text: str | None) -> float | None:
    """Reads ``90s``, ``30m``, ``2h`` or a number of minutes; returns seconds.

    Raises:
        UsageError: The text is something else.
    """
    return None if text is None else _duration(option, text, 60.0)


def parse_seconds(option: str, text: str) -> float:
    """Reads ``90s``, ``30m``, ``2h`` or a number of seconds above 0.

    Raises:
        UsageError: The text is something else.
    """
    value = _duration(option, text, 1.0)
    if value <= 0:
        raise UsageError(f"{option} {text!r}: give a duration such as 90s, 30m or 2h")
    return value


def _duration(option: str, text: str, usual: float) -> float:
    unit = _SECONDS.get(text[-1:].lower())
    value = _number(text if unit is None else text[:-1]) * (unit or usual)
    if not 0 <= value < math.inf:
        raise UsageError(f"{option} {text!r}: give a duration such as 90s, 30m or 2h")
    return value


def _number(text: str) -> float:
    """The number in a text; NaN if there is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan
