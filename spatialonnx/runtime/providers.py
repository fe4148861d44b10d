"""Execution providers: which one loads, or why it does not."""

from __future__ import annotations

import ctypes
import functools
import logging
import os
from typing import Literal

import numpy as np
import onnx

from spatialonnx.errors import ProviderError, UsageError
from spatialonnx.runtime.ort import ort
from spatialonnx.runtime.session import CUDA, FATAL, Runtime

_LOG = logging.getLogger(__name__)
_BUILT_WITHOUT = "this ONNX Runtime is built without CUDA (onnxruntime-gpu has it)"
_MOST_THREADS = 64
"""Threads that are taken on any machine; more than four per processor only wait for each other."""
_NO_DRIVER = "no NVIDIA driver is installed"


def choose_runtime(provider: str = "auto", threads: int = 0) -> Runtime:
    """Provider and threads of a command.

    Logs one line if ``auto`` falls back to the CPU: a warning if the machine seems to have a
    GPU.

    Args:
        provider: ``auto``, ``cpu`` or ``cuda``.
        threads: Threads within an op; 0 = all processors that this process may use.

    Raises:
        UsageError: The provider is unknown, or there cannot be so many threads.
        ProviderError: ``cuda`` was asked for and does not load.
    """
    most = max(_MOST_THREADS, 4 * (os.cpu_count() or 1))
    if not 0 <= threads <= most:
        raise UsageError(f"--threads {threads}: use 0 (all processors) to {most}")
    chosen, reason = choose_provider(provider)
    if reason:
        level = logging.INFO if reason in (_BUILT_WITHOUT, _NO_DRIVER) else logging.WARNING
        _LOG.log(level, "running on the CPU: %s", reason)
    return Runtime(chosen, threads)


def choose_provider(wanted: str) -> tuple[Literal["cpu", "cuda"], str]:
    """Turns ``auto``, ``cpu`` or ``cuda`` into a provider that loads.

    Returns:
        The provider and, where ``auto`` fell back, one line that says why; else an empty string.

    Raises:
        UsageError: The provider is unknown.
        ProviderError: ``cuda`` was asked for and does not load.
    """
    if wanted not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--provider {wanted}: use auto, cpu or cuda")
    if wanted == "cpu":
        return "cpu", ""
    reason = cuda_unavailable()
    if not reason:
        return "cuda", ""
    if wanted == "cuda":
        raise ProviderError(f"the CUDA provider does not load: {reason}; use --provider cpu")
    return "cpu", reason


@functools.cache
def cuda_unavailable() -> str:
    """Why the CUDA provider does not load; empty where it does.

    ORT prints errors in red when it fails. The driver is therefore checked first, and the
    provider is tried with logging off.
    """
    if CUDA not in ort.get_available_providers():
        return _BUILT_WITHOUT
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return _NO_DRIVER
    ort.set_default_logger_severity(FATAL)
    try:
        options = ort.SessionOptions()
        options.log_severity_level = FATAL
        probe = _probe_model().SerializeToString()
        inner = ort.InferenceSession(probe, options, providers=[CUDA])
        if CUDA not in inner.get_providers():
            return "its libraries (CUDA, cuDNN) or the device are missing"
        inner.run(None, {"x": np.zeros(1, np.float32)})
    except Exception as error:
        return str(error).partition("\n")[0]
    return ""


def _probe_model() -> onnx.ModelProto:
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])],
        "probe",
        [value("x", onnx.TensorProto.FLOAT, [1])],
        [value("y", onnx.TensorProto.FLOAT, [1])],
    )
    return onnx.helper.make_model(
        graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", 13)]
    )
