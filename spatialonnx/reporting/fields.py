"""Reading JSON of other files: types are never assumed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spatialonnx.errors import UsageError
from spatialonnx.files import read_regular

_LARGEST = 64 << 20
"""Largest size in bytes of a JSON file; this package's are smaller."""


class Fields:
    """One JSON object, read by type; what is missing or of another type is None or empty."""

    def __init__(self, value: object) -> None:
        """Wraps a value; anything but an object is an empty one."""
        self._value: Mapping[str, Any] = value if isinstance(value, dict) else {}

    def __contains__(self, key: str) -> bool:
        """Whether there is such a key."""
        return key in self._value

    def number(self, key: str) -> float | None:
        """A finite number."""
        value = self._value.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        try:
            number = float(value)
        except OverflowError:
            return None
        return number if math.isfinite(number) else None

    def count(self, key: str) -> int | None:
        """A whole number, not negative."""
        value = self._value.get(key)
        return value if isinstance(value, int) and type(value) is int and value >= 0 else None

    def text(self, key: str) -> str:
        """A text; empty where there is none."""
        value = self._value.get(key)
        return value if isinstance(value, str) else ""

    def flag(self, key: str) -> bool | None:
        """True or false."""
        value = self._value.get(key)
        return value if isinstance(value, bool) else None

    def pair(self, key: str) -> tuple[float, float] | None:
        """Two finite numbers."""
        value = self._value.get(key)
        if not isinstance(value, list) or len(value) != 2:
            return None
        both = Fields({"low": value[0], "high": value[1]})
        low, high = both.number("low"), both.number("high")
        return None if low is None or high is None else (low, high)

    def object(self, key: str) -> Fields:
        """An object; empty if it is missing."""
        return Fields(self._value.get(key))

    def objects(self, key: str) -> list[Fields]:
        """A list of objects; empty if it is missing."""
        value = self._value.get(key)
        return [Fields(item) for item in value] if isinstance(value, list) else []

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts; other values are left out."""
        value = self._value.get(key)
        return tuple(v for v in value if isinstance(v, str)) if isinstance(value, list) else ()

    def words(self) -> dict[str, str]:
        """Every plain value as text: for provenance."""
        return {
            str(key): str(value)
            for key, value in self._value.items()
            if isinstance(value, (str, int, float)) and not isinstance(value, bool)
        }


def read_json(path: Path) -> Fields:
    """Reads a JSON file that holds one object.

    Raises:
        UsageError: It cannot be read or holds something else.
    """
    try:
        value = json.loads(read_regular(path, _LARGEST))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not a JSON file that spatialonnx printed ({error})") from None
    if not isinstance(value, dict):
        raise UsageError(f"{path} is not a JSON file that spatialonnx printed: it holds no object")
    return Fields(value)
