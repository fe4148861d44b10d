"""Imports onnxruntime, with a one-line error if it does not load."""

from __future__ import annotations

from importlib.util import find_spec

from spatialonnx.errors import LibraryError

__all__ = ["ort"]

_spec = find_spec("onnxruntime")
if _spec is None or _spec.origin is None:  # a folder that an uninstalled package left is no package
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
