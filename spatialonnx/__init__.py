"""Skips the convolutions that ReLU would set to zero, under a bound on accuracy, in ONNX Runtime.

Names are loaded when they are first used: importing the package does no work.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spatialonnx.data.preprocessing import Preprocessing as Preprocessing
    from spatialonnx.deployment.quantize import quantize as quantize
    from spatialonnx.deployment.run import deploy as deploy
    from spatialonnx.errors import BoundMissedError as BoundMissedError
    from spatialonnx.errors import ClusterError as ClusterError
    from spatialonnx.errors import DataError as DataError
    from spatialonnx.errors import DataNotInstalledError as DataNotInstalledError
    from spatialonnx.errors import InputError as InputError
    from spatialonnx.errors import InterruptedSearchError as InterruptedSearchError
    from spatialonnx.errors import LibraryError as LibraryError
    from spatialonnx.errors import ModelError as ModelError
    from spatialonnx.errors import NotEnoughMemoryError as NotEnoughMemoryError
    from spatialonnx.errors import NotFasterError as NotFasterError
    from spatialonnx.errors import OutputError as OutputError
    from spatialonnx.errors import PlanError as PlanError
    from spatialonnx.errors import ProviderError as ProviderError
    from spatialonnx.errors import SetupError as SetupError
    from spatialonnx.errors import SpatialOnnxError as SpatialOnnxError
    from spatialonnx.errors import StudyError as StudyError
    from spatialonnx.errors import UsageError as UsageError
    from spatialonnx.graph.insert import insert as insert
    from spatialonnx.graph.sites import find_sites as find_sites
    from spatialonnx.measure.bench import bench as bench
    from spatialonnx.measure.evaluate import evaluate as evaluate
    from spatialonnx.optimizing.api import optimize as optimize
    from spatialonnx.plan.masks import SiteMask as SiteMask
    from spatialonnx.plan.plan import Plan as Plan
    from spatialonnx.reporting.run import report as report
    from spatialonnx.runtime.library import library_path as library_path
    from spatialonnx.runtime.session import register as register
    from spatialonnx.searching.api import search as search
    from spatialonnx.tuning.api import tune as tune

__version__ = "0.1.0"

_HOMES = {
    "BoundMissedError": "spatialonnx.errors",
    "ClusterError": "spatialonnx.errors",
    "DataError": "spatialonnx.errors",
    "DataNotInstalledError": "spatialonnx.errors",
    "InputError": "spatialonnx.errors",
    "InterruptedSearchError": "spatialonnx.errors",
    "LibraryError": "spatialonnx.errors",
    "ModelError": "spatialonnx.errors",
    "NotEnoughMemoryError": "spatialonnx.errors",
    "NotFasterError": "spatialonnx.errors",
    "OutputError": "spatialonnx.errors",
    "Plan": "spatialonnx.plan.plan",
    "PlanError": "spatialonnx.errors",
    "Preprocessing": "spatialonnx.data.preprocessing",
    "ProviderError": "spatialonnx.errors",
    "SetupError": "spatialonnx.errors",
    "SiteMask": "spatialonnx.plan.masks",
    "SpatialOnnxError": "spatialonnx.errors",
    "StudyError": "spatialonnx.errors",
    "UsageError": "spatialonnx.errors",
    "bench": "spatialonnx.measure.bench",
    "deploy": "spatialonnx.deployment.run",
    "evaluate": "spatialonnx.measure.evaluate",
    "find_sites": "spatialonnx.graph.sites",
    "insert": "spatialonnx.graph.insert",
    "library_path": "spatialonnx.runtime.library",
    "optimize": "spatialonnx.optimizing.api",
    "quantize": "spatialonnx.deployment.quantize",
    "register": "spatialonnx.runtime.session",
    "report": "spatialonnx.reporting.run",
    "search": "spatialonnx.searching.api",
    "tune": "spatialonnx.tuning.api",
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
