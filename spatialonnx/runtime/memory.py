"""How much memory there is, and how much this process uses; Linux tells, elsewhere we guess."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_GUESS = 4 << 30
"""Free bytes where the system does not tell."""
_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)


def free_memory() -> int:
    """Bytes that this process may still take: of the system, and of its control group."""
    free = _meminfo("MemAvailable")
    room = [_GUESS if free is None else free]
    for limit, usage in _CGROUPS:
        most, used = _number(Path(limit)), _number(Path(usage))
        if most is not None and used is not None:
            room.append(max(most - used, 0))
    return min(room)


def free_device_memory() -> int:
    """Bytes that are free on the first CUDA device; a guess where its driver does not tell."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
        device, context = ctypes.c_int(), ctypes.c_void_p()
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0):
            return _GUESS
        # The context that ONNX Runtime uses too; what it is told to stays as it is.
        if driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device):
            return _GUESS
        try:
            if driver.cuCtxPushCurrent_v2(context):
                return _GUESS
            failed = driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
            driver.cuCtxPopCurrent_v2(ctypes.byref(context))
            return _GUESS if failed else free.value
        finally:
            driver.cuDevicePrimaryCtxRelease_v2(device)
    except (OSError, AttributeError):
        return _GUESS


def used_memory() -> int:
    """Bytes of this process that are in memory now; 0 where the system does not tell."""
    return _status("VmRSS")


def peak_memory() -> int:
    """The most bytes of this process that were in memory at once; 0 where unknown."""
    return _status("VmHWM")


def _meminfo(key: str) -> int | None:
    return _kilobytes(Path("/proc/meminfo"), key)


def _status(key: str) -> int:
    return _kilobytes(Path("/proc/self/status"), key) or 0


def _kilobytes(path: Path, key: str) -> int | None:
    try:
        for line in path.read_text().splitlines():
            name, _, value = line.partition(":")
            if name == key:
                return int(value.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _number(path: Path) -> int | None:
    """A file's number; None where there is no file, or it says "max"."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
