"""Skips the convolutions that ReLU would set to zero, under a bound on accuracy, in ONNX Runtime.

Names are loaded when they are first used: importing the package does no work.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spatialonnx.deployment.run import deploy as deploy
    from spatialonnx.errors import SpatialOnnxError as SpatialOnnxError
    from spatialonnx.graph.insert import insert as insert
    from spatialonnx.graph.sites import find_sites as find_sites
    from spatialonnx.measure.bench import bench as bench
    from spatialonnx.measure.evaluate import evaluate as evaluate
    from spatialonnx.plan.masks import SiteMask as SiteMask
    from spatialonnx.plan.plan import Plan as Plan
    from spatialonnx.reporting.run import report as report
    from spatialonnx.runtime.library import library_path as library_path
    from spatialonnx.runtime.session import register as register
    from spatialonnx.searching.api import search as search

__version__ = "0.1.0"

_HOMES = {
    "Plan": "spatialonnx.plan.plan",
    "SiteMask": "spatialonnx.plan.masks",
    "bench": "spatialonnx.measure.bench",
    "deploy": "spatialonnx.deployment.run",
    "evaluate": "spatialonnx.measure.evaluate",
    "find_sites": "spatialonnx.graph.sites",
    "insert": "spatialonnx.graph.insert",
    "library_path": "spatialonnx.runtime.library",
    "register": "spatialonnx.runtime.session",
    "report": "spatialonnx.reporting.run",
    "search": "spatialonnx.searching.api",
    "SpatialOnnxError": "spatialonnx.errors",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    """Loads a public name from the module that holds it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'spatialonnx' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
