"""A deployed model needs only the file of the op library, not this package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.masked import masked, names
from support.trained import CLASSES, RUNTIME, draw_images, trained_model

from spatialonnx.graph.fuse import fuse_sites
from spatialonnx.model.model_file import save_model
from spatialonnx.runtime.library import library_path
from spatialonnx.runtime.session import open_session

SCRIPT = """
import json, sys
import numpy as np
import onnxruntime as ort

model, library, images = sys.argv[1:]
options = ort.SessionOptions()
options.register_custom_ops_library(library)
session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
(logits,) = session.run(None, {session.get_inputs()[0].name: np.load(images)})
loaded = [name for name in sys.modules if name.split(".")[0] in ("spatialonnx", "onnx")]
print(json.dumps({"logits": logits.tolist(), "loaded": loaded}))
"""


@pytest.fixture
def deployed(tmp_path: Path) -> Path:
    proto = masked(trained_model())
    save_model(fuse_sites(proto, names(proto), []), tmp_path / "model.deploy.onnx")
    return tmp_path / "model.deploy.onnx"


def test_a_deployed_model_runs_with_onnxruntime_and_the_librarys_path(
    deployed: Path, tmp_path: Path
) -> None:
    images, _ = draw_images(5)
    np.save(tmp_path / "images.npy", images)
    arguments = [str(deployed), str(library_path()), str(tmp_path / "images.npy")]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["loaded"] == []
    (expected,) = open_session(deployed, RUNTIME).run({"x": images})
    assert expected.shape == (5, CLASSES)
    np.testing.assert_allclose(result["logits"], expected, rtol=1e-4, atol=1e-5)


def test_without_the_library_onnxruntime_names_the_op(deployed: Path, tmp_path: Path) -> None:
    script = "import sys, onnxruntime as ort; ort.InferenceSession(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", script, str(deployed)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=120,
    )
    assert done.returncode != 0
    assert "SpatialConv" in done.stderr
