"""The README: its length, and its commands, executed on a tiny network and a folder of images."""

import shlex

import numpy as np
import pytest
from PIL import Image
from support.commands import invoke
from support.pages import README, ROOT, blocks, commands
from support.trained import fashion_model

from spatialonnx.data.opening import open_dataset
from spatialonnx.data.preprocessing import Preprocessing
from spatialonnx.model.model_file import save_model

# Commands that need minutes, and the step of `.ci/run` that runs each of them.
IN_CI = {
    "make demo": '"$scratch/venv/bin/spatialonnx" demo',
    "make test": "make test",
    "pip install '.[cpu,report]'": '"$wheel[cpu]"',
}


def test_it_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 120


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with model.onnx and a folder of images, one sub-folder per class."""
    save_model(fashion_model(), tmp_path / "model.onnx")
    sample = open_dataset("fashion-mnist-sample", Preprocessing((28, 28), 1, (0.0,), (1.0,)))
    assert sample.labels is not None
    chosen = np.arange(1000)
    pixels = np.rint(255 * sample.images(chosen)).astype(np.uint8)
    for number, (image, label) in enumerate(zip(pixels, sample.labels[chosen], strict=True)):
        folder = tmp_path / "images" / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(folder / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_its_commands_run(workplace):
    ran = []
    for line in commands(README):
        program, *arguments = shlex.split(line)
        if program != "spatialonnx":
            step = IN_CI[line]
            assert step in (ROOT / ".ci" / "run").read_text(encoding="utf-8"), step
            continue
        result = invoke(*arguments)
        ran.append(arguments[0])
        assert result.exit_code == 0, result.stderr
    assert ran == ["optimize"]
    (snippet,) = blocks(README, "python")
    names = {}
    exec(snippet, names)
    assert names["session"].get_outputs()
