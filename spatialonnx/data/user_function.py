"""The one importer of `python:MODULE:FUNCTION`, for data sets and metrics."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spatialonnx.errors import SpatialOnnxError, UsageError


def load_function(spec: str, target: str) -> Callable[..., Any]:
    """Imports a function of the user's own code.

    Modules are also looked for in the current folder, while the module is imported and whenever
    the function runs, and not afterwards: a file there never replaces a module of this package.

    Args:
        spec: the option and its whole text, for messages.
        target: `MODULE:FUNCTION`.

    Returns:
        The function, with the same arguments and result.

    Raises:
        UsageError: the text has another form, the module does not import, or it has no such
            function.
    """
    module_name, colon, function_name = target.partition(":")
    if not (module_name and colon and function_name):
        raise UsageError(f"{spec}: write python:MODULE:FUNCTION")
    with _importable(folder := str(Path.cwd())):
        try:
            module = importlib.import_module(module_name)
        except SpatialOnnxError:
            raise
        except Exception as error:
            # The user's module may fail in any way.
            raise UsageError(f"{spec}: importing {module_name} fails: {error}") from error
    function = getattr(module, function_name, None)
    if function is None:
        raise UsageError(f"{spec}: {module_name} has no {function_name}")
    if not callable(function):
        raise UsageError(f"{spec}: {function_name} of {module_name} is not a function")

    @functools.wraps(function)
    def run(*args: Any, **options: Any) -> Any:
        with _importable(folder):
            return function(*args, **options)

    return run


@contextmanager
def _importable(folder: str) -> Iterator[None]:
    """Lets `import` see a folder, as `python -m` does, for as long as it lasts."""
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
