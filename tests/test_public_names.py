"""What the package offers, and that importing it does no work."""

import subprocess
import sys

import pytest

import spatialonnx


def test_public_names_exist():
    assert sorted(spatialonnx.__all__) == [
        "SpatialOnnxError",
        "__version__",
        "library_path",
        "register",
    ]
    for name in spatialonnx.__all__:
        assert getattr(spatialonnx, name) is not None


def test_other_names_do_not():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = spatialonnx.nonsense


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
