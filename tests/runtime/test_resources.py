"""Memory and processors as the system reports them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from spatialonnx.runtime import resources


def test_free_memory_is_what_the_control_group_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit, usage = tmp_path / "max", tmp_path / "current"
    limit.write_text("5000\n")
    usage.write_text("3000\n")
    monkeypatch.setattr(resources, "_CGROUPS", ((str(limit), str(usage)),))
    assert resources.free_memory() == 2000
    usage.write_text("9000\n")
    assert resources.free_memory() == 0


def test_a_control_group_without_a_limit_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit, usage = tmp_path / "max", tmp_path / "current"
    limit.write_text("max\n")
    usage.write_text("3000\n")
    monkeypatch.setattr(resources, "_CGROUPS", ((str(limit), str(usage)),))
    machine = SimpleNamespace(available=7000)
    monkeypatch.setattr(resources.psutil, "virtual_memory", lambda: machine)
    assert resources.free_memory() == 7000


def test_used_memory_grows_with_an_array() -> None:
    before = resources.used_memory()
    array = np.ones(1 << 25)  # 256 MiB
    assert resources.used_memory() - before > array.nbytes // 2
    assert resources.peak_memory() >= resources.used_memory()


def test_what_is_free_inside_the_heap_goes_back_to_the_system() -> None:
    pieces = [bytes(1 << 16) for _ in range(2048)]  # 128 MiB
    del pieces[:-1]
    before = resources.used_memory()
    resources.trim_memory()
    assert before - resources.used_memory() > 64 << 20


def test_threads_follow_the_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 3, 5})
    assert resources.available_threads() == 3


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
    monkeypatch.setattr(resources.ctypes, "CDLL", lambda name: driver)
    assert resources.free_device_memory() == 123
    assert driver.calls[-2:] == ["cuCtxPopCurrent_v2", "cuDevicePrimaryCtxRelease_v2"]


@pytest.mark.parametrize(
    "failing",
    ["cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuCtxPushCurrent_v2", "cuMemGetInfo_v2"],
)
def test_a_driver_that_does_not_tell(monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    driver = Driver(failing)
    monkeypatch.setattr(resources.ctypes, "CDLL", lambda name: driver)
    assert resources.free_device_memory() == resources._GUESS
    # What was allocated is freed.
    retained = driver.calls.count("cuDevicePrimaryCtxRetain")
    retained -= failing == "cuDevicePrimaryCtxRetain"
    assert driver.calls.count("cuDevicePrimaryCtxRelease_v2") == retained


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(resources.ctypes, "CDLL", missing)
    assert resources.free_device_memory() == resources._GUESS
