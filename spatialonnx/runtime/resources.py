"""Memory and processors that this process may use (Linux)."""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path

import psutil

_GUESS = 4 << 30
"""Assumed free bytes of a device whose driver does not report them."""
LIBRARIES = 160 << 20
"""Bytes that Python and the libraries take by themselves."""
_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)


def available_threads() -> int:
    """Processors that this process may run on: its affinity, not the machine's core count."""
    return len(os.sched_getaffinity(0))


def total_memory() -> int:
    """Bytes of memory of the machine."""
    return int(psutil.virtual_memory().total)


def free_memory() -> int:
    """Bytes that this process may still allocate, of the machine and of its control group."""
    room = [int(psutil.virtual_memory().available)]
    for limit, usage in _CGROUPS:
        most, used = _number(Path(limit)), _number(Path(usage))
        if most is not None and used is not None:
            room.append(max(most - used, 0))
    return min(room)


def free_device_memory() -> int:
    """Free bytes of the first CUDA device; a guess if its driver does not report them."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        device, context = ctypes.c_int(), ctypes.c_void_p()
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0):
            return _GUESS
        # The primary context is the one that ONNX Runtime uses; its flags do not change.
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
    """Bytes of this process that are in memory now."""
    return int(psutil.Process().memory_info().rss)


def trim_memory() -> None:
    """Returns what is free inside the heap to the system, where the C library can do that.

    glibc keeps it: what lies above it is still in use. After a large model was parsed or opened,
    that is as much as its weights.
    """
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def peak_memory() -> int:
    """The peak memory of this process, in bytes; 0 if unknown.

    psutil does not report it, and the figure of ``getrusage`` includes the parent's size.
    """
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name == "VmHWM":
            return int(value.split()[0]) * 1024
    return 0


def _number(path: Path) -> int | None:
    """The number in a file; None if there is no file, or it says "max"."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
