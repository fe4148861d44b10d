"""The op library: where it is and how it was built."""

from __future__ import annotations

import ctypes
import functools
import json
import os
from pathlib import Path
from typing import Any

import spatialonnx
from spatialonnx.errors import LibraryError

_NAME = "libspatialonnx_ops.so"
_OVERRIDE = "SPATIALONNX_LIBRARY"


@functools.cache
def library_path() -> Path:
    """The file to register with ONNX Runtime.

    Environment variable ``SPATIALONNX_LIBRARY`` names another one (tests use it for the
    sanitizers' build).

    Raises:
        LibraryError: There is no such file.
    """
    if override := os.environ.get(_OVERRIDE):
        path = Path(override)
        if not path.is_file():
            raise LibraryError(f"{_OVERRIDE} names {path}, which does not exist")
        return path.resolve()
    for folder in spatialonnx.__path__:
        path = Path(folder) / _NAME
        if path.is_file():
            return path.resolve()
    raise LibraryError(
        "the op library is not built: run pip install . in the checkout (Linux only)"
    )


def build_info() -> dict[str, Any]:
    """How the op library was built: version, compiler, instruction sets, CUDA.

    Raises:
        LibraryError: The library is missing or does not load.
    """
    path = library_path()
    try:
        function = ctypes.CDLL(str(path)).SpatialOnnxBuildInfo
    except (OSError, AttributeError) as error:
        raise LibraryError(f"the op library {path} does not load: {error}") from None
    function.restype = ctypes.c_char_p
    function.argtypes = []
    info = json.loads(function().decode())
    assert isinstance(info, dict)
    return info
