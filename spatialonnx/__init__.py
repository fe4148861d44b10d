"""Skips the convolutions that ReLU would set to zero, under a bound on accuracy, in ONNX Runtime.

Names are loaded when they are first used: importing the package does no work.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spatialonnx.errors import SpatialOnnxError
    from spatialonnx.runtime.library import library_path
    from spatialonnx.runtime.session import register

__version__ = "0.1.0"

_HOMES = {
    "SpatialOnnxError": "spatialonnx.errors",
    "library_path": "spatialonnx.runtime.library",
    "register": "spatialonnx.runtime.session",
}

__all__ = ["SpatialOnnxError", "__version__", "library_path", "register"]


def __getattr__(name: str) -> Any:
    """Loads a public name from the module that holds it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'spatialonnx' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
