"""The public names, and that importing the package does no work."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import spatialonnx

ROOT = Path(spatialonnx.__file__).parent


def test_every_public_name_loads():
    for name in spatialonnx.__all__:
        assert getattr(spatialonnx, name) is not None
    assert dir(spatialonnx) == sorted(spatialonnx.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = spatialonnx.nonsense


def test_type_checkers_see_the_same_names_as_users():
    """The imports under TYPE_CHECKING are those that are made lazily."""
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.asname: node.module for node in block.body for alias in node.names}
    assert seen == spatialonnx._HOMES


def test_no_public_name_is_a_module_s():
    """Else the second use of the name would find the module."""
    modules = {path.stem for path in ROOT.iterdir()}
    assert modules.isdisjoint(set(spatialonnx.__all__) - {"__version__"})


def test_functions_stay_functions_when_they_were_called(tiny_files, tmp_path):
    """Each is called twice by its public name."""
    arrays = np.load(tiny_files.data)
    data = (arrays["x"], arrays["y"])
    for _ in range(2):
        assert spatialonnx.find_sites(onnx.load(tiny_files.model)).sites
        assert spatialonnx.library_path().is_file()
        for name in spatialonnx.__all__:
            importlib.import_module("spatialonnx.cli")
            assert not isinstance(getattr(spatialonnx, name), type(spatialonnx))
    assert data


def test_importing_the_package_loads_nothing():
    code = (
        "import sys, spatialonnx\n"
        "print([m for m in ('numpy', 'onnx', 'onnxruntime', 'typer', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_users_register_the_library_with_their_own_options():
    """The README's way of running a deployed model."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    spatialonnx.register(options)
    options.register_custom_ops_library(str(spatialonnx.library_path()))
