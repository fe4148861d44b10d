"""Durations and sizes of memory as people write them."""

import pytest

from spatialonnx.cli.quantities import parse_memory, parse_minutes
from spatialonnx.errors import UsageError


def test_sizes_of_memory():
    assert parse_memory(None) is None
    assert parse_memory("4G") == 4 << 30
    assert parse_memory("500m") == 500 << 20
    assert parse_memory("1.5K") == 1536
    assert parse_memory("12345") == 12345
    for text in ("", "G", "-1G", "0", "lots", "1e999G", "nan", "inf"):
        with pytest.raises(UsageError, match="--memory"):
            parse_memory(text)


def test_durations():
    assert parse_minutes("--time-budget", None) is None
    for text, seconds in (("90s", 90), ("30m", 1800), ("2h", 7200), ("1.5", 90), ("0", 0)):
        assert parse_minutes("--time-budget", text) == seconds
    for text in ("", "s", "-1", "-1h", "soon", "nan", "inf", "1e999h"):
        with pytest.raises(UsageError, match="--time-budget"):
            parse_minutes("--time-budget", text)
