"""The machine that timings hold for: processor, versions, instruction set."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from spatialonnx import __version__
from spatialonnx.errors import LibraryError
from spatialonnx.runtime.library import build_info
from spatialonnx.runtime.resources import available_threads, total_memory
from spatialonnx.runtime.session import runtime_version


def describe_machine() -> dict[str, Any]:
    """Processor, processors that this process may use, memory in bytes and system."""
    return {
        "processor": _processor(),
        "processors": available_threads(),
        "memory": total_memory(),
        "system": f"{platform.system()} {platform.release()}",
    }


def versions() -> dict[str, str]:
    """Versions of the packages that compute."""
    return {
        "spatialonnx": __version__,
        "onnxruntime": runtime_version(),
        "onnx": onnx.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def instruction_set(precision: str = "float32") -> str:
    """The instruction set that the op library's kernels use here.

    Args:
        precision: ``float32``, or ``int8`` for SpatialQConv, which has kernels of its own.
    """
    if forced := os.environ.get("SPATIALONNX_ISA"):
        return forced
    try:
        key = "supported_int8" if precision == "int8" else "supported"
        supported = build_info().get(key) or ["unknown"]
    except LibraryError:
        return "no op library"
    return str(supported[0])


def saturates_int8() -> bool:
    """Whether ONNX Runtime's 8-bit kernels may saturate here: on x86-64 without dot products.

    There ONNX Runtime adds pairs of products in 16 bits (``vpmaddubsw``), which weights of 7 bits
    cannot exceed.
    """
    try:
        return platform.machine() == "x86_64" and not build_info().get("dot_products", True)
    except LibraryError:
        return False


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
