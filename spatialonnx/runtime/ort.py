"""Imports onnxruntime, with a one-line error if it does not load."""

from __future__ import annotations

from spatialonnx.errors import LibraryError

__all__ = ["ort"]

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
