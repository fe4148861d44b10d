"""The public names, and that importing the package does no work."""

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import spatialonnx
from spatialonnx import errors

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


def test_every_error_is_public():
    assert set(errors.__all__) <= set(spatialonnx.__all__)


def test_a_name_is_still_the_function_when_it_is_used_again(tiny_files, tmp_path):
    """Each is called twice by its public name, as a user does; nothing is printed."""
    arrays = np.load(tiny_files.data)
    data = (arrays["x"], arrays["y"])
    few = {"threads": 1, "provider": "cpu"}
    for turn in range(2):
        assert len(spatialonnx.find_sites(onnx.load(tiny_files.model)).sites) == 3
        inserted = spatialonnx.insert(tiny_files.model, threads=1)
        searched = spatialonnx.search(inserted.model, data, eps="0.2", max_trials=8, **few)
        masked = searched.save(tmp_path / f"{turn}.masked.onnx")
        assert spatialonnx.evaluate(masked, data, **few).samples == 240
        quantized = spatialonnx.quantize(masked, data, calibration_samples=20, **few)
        assert quantized.verify.samples > 0
        deployed = spatialonnx.deploy(masked, data, runs=1, fuse="all", threads=1)
        path = deployed.save(tmp_path / f"{turn}.deploy.onnx")
        timed = spatialonnx.bench([tiny_files.model, path], data, runs=1, **few)
        assert len(timed.to_json()["models"]) == 2
        assert len(spatialonnx.report(masked, data, samples=4, **few).runs) == 1
        spatialonnx.register(onnxruntime.SessionOptions())
        assert spatialonnx.library_path().is_file()
        mask = spatialonnx.SiteMask(2, np.full((1, 1, 1), 9, np.uint16))
        assert spatialonnx.Plan({"a": mask}).predicting["a"] == mask
        assert spatialonnx.Preprocessing((8, 8), 1, (0.0,), (1.0,)).shape == (1, 8, 8)
        with pytest.raises(spatialonnx.SpatialOnnxError):
            spatialonnx.evaluate(tmp_path / "none.onnx")


def test_importing_the_package_loads_nothing():
    code = (
        "import sys, spatialonnx\n"
        "print([m for m in ('numpy', 'onnx', 'onnxruntime', 'typer', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_the_package_is_quick():
    """Counted, not timed: these modules of the standard library and no more."""
    code = (
        "import sys; before = set(sys.modules); import spatialonnx; "
        "print(len(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 40
