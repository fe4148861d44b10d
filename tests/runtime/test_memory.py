"""What the system says about memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spatialonnx.runtime import memory


def test_free_memory_is_what_the_control_group_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit, usage = tmp_path / "max", tmp_path / "current"
    limit.write_text("5000\n")
    usage.write_text("3000\n")
    monkeypatch.setattr(memory, "_CGROUPS", ((str(limit), str(usage)),))
    assert memory.free_memory() == 2000
    usage.write_text("9000\n")
    assert memory.free_memory() == 0


def test_a_control_group_without_a_limit_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit, usage = tmp_path / "max", tmp_path / "current"
    limit.write_text("max\n")
    usage.write_text("3000\n")
    monkeypatch.setattr(memory, "_CGROUPS", ((str(limit), str(usage)),))
    monkeypatch.setattr(memory, "_meminfo", lambda key: 7000 if key == "MemAvailable" else None)
    assert memory.free_memory() == 7000


def test_without_any_word_from_the_system_we_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_CGROUPS", (("/no/such/file", "/no/such/file"),))
    monkeypatch.setattr(memory, "_meminfo", lambda key: None)
    assert memory.free_memory() == memory._GUESS


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux only")
def test_used_memory_grows_with_an_array() -> None:
    before = memory.used_memory()
    array = np.ones(1 << 25)  # 256 MiB
    assert memory.used_memory() - before > array.nbytes // 2
    assert memory.peak_memory() >= memory.used_memory()


class Driver:
    """What is asked of the CUDA driver, which answers unless it is told to fail."""

    def __init__(self, failing: str = "") -> None:
        self.calls: list[str] = []
        self._failing = failing

    def __getattr__(self, name: str) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            self.calls.append(name)
            if name == "cuMemGetInfo_v2":
                arguments[0]._obj.value = 123
            return 1 if name == self._failing else 0

        return call


def test_free_memory_of_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: driver)
    assert memory.free_device_memory() == 123
    assert driver.calls[-2:] == ["cuCtxPopCurrent_v2", "cuDevicePrimaryCtxRelease_v2"]


@pytest.mark.parametrize(
    "failing",
    ["cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuCtxPushCurrent_v2", "cuMemGetInfo_v2"],
)
def test_a_driver_that_does_not_tell(monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    driver = Driver(failing)
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: driver)
    assert memory.free_device_memory() == memory._GUESS
    # What was taken is given back.
    retained = driver.calls.count("cuDevicePrimaryCtxRetain")
    retained -= failing == "cuDevicePrimaryCtxRetain"
    assert driver.calls.count("cuDevicePrimaryCtxRelease_v2") == retained


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(memory.ctypes, "CDLL", missing)
    assert memory.free_device_memory() == memory._GUESS
