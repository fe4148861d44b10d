"""Tuning: networks trained so that whole patches of their ofmaps are zero.

The only package that imports torch. `attach` and `mac_share` are for training loops of one's own.
"""

from __future__ import annotations

from spatialonnx.errors import SetupError

try:
    import torch  # noqa: F401
except ImportError as _error:
    raise SetupError(
        f"tuning needs PyTorch, which does not load ({_error}): run pip install torch"
    ) from None

from spatialonnx.tuning.attach import attach, detach, mac_share

__all__ = ["attach", "detach", "mac_share"]
