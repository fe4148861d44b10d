"""Imports onnxruntime, with a one-line error if it does not load."""

from __future__ import annotations

from importlib.util import find_spec

from spatialonnx.errors import LibraryError

__all__ = ["ort"]

if find_spec("onnxruntime") is None:
    raise LibraryError(
        "ONNX Runtime is not installed: run pip install onnxruntime, or pip install "
        "onnxruntime-gpu, which also runs without a GPU on x86-64"
    )

try:
    import onnxruntime as ort

    _ = ort.InferenceSession
except (ImportError, AttributeError) as _error:
    # AttributeError: an incomplete package, where onnxruntime and onnxruntime-gpu overwrote each
    # other.
    raise LibraryError(
        f"onnxruntime does not load ({_error}): run pip uninstall onnxruntime onnxruntime-gpu, "
        "then install one of them"
    ) from None
