"""The scripts in examples/ run as they stand."""

import subprocess
import sys
from pathlib import Path

import pytest

from spatialonnx.model.model_file import load_model

EXAMPLES = sorted((Path(__file__).resolve().parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_writes_a_masked_model(script, tmp_path):
    done = subprocess.run(
        [sys.executable, script, tmp_path], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "of the MACs saved" in done.stdout
    (path,) = tmp_path.glob("*.onnx")
    assert load_model(path).stage == "masked" and path.name in done.stdout
