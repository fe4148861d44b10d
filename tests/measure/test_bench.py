"""bench as a function: models and data of any form."""

import json

import numpy as np
import onnx
import pytest
from support.models import batch_inside, plain, residual

import spatialonnx
from spatialonnx.errors import UsageError
from spatialonnx.measure.bench import bench
from spatialonnx.model.metadata import set_metadata
from spatialonnx.runtime.bench import NOISE

ONE = {"provider": "cpu", "threads": 1, "runs": 2}


def test_the_batch_that_a_model_takes_is_used():
    proto, images = batch_inside(3), np.zeros((6, 3, 8, 8), np.float32)
    found = spatialonnx.insert(proto, threads=1).model
    assert bench([found, proto], images, **ONE).batch == 3
    assert bench(proto, images, model_batch=3, **ONE).batch == 3
    with pytest.raises(UsageError, match="takes batches of 3: use --batch 3"):
        bench(found, images, batch=2, **ONE)


def test_models_are_paths_or_objects(tmp_path):
    path = tmp_path / "a.onnx"
    onnx.save(plain(), str(path))
    told = []
    result = bench([path, residual()], **ONE, progress=told.append)
    first, second = result.contestants
    assert first.ratio.value == 1 and first.peak and second.peak
    assert result.data == NOISE and [step.done for step in told] == [1, 2]
    result.save(tmp_path / "bench.json")
    assert json.loads((tmp_path / "bench.json").read_text())["baseline"] == str(path)


def test_one_model_against_a_baseline_on_arrays():
    images = np.zeros((3, 3, 8, 8), np.float32)
    result = bench(plain(), images, baseline=residual(), batch=2, **ONE)
    assert len(result.contestants) == 2 and result.batch == 2
    assert result.data == "own data"


def test_a_model_may_only_name_built_in_data():
    proto = plain()
    set_metadata(proto, data="python:os:getcwd")
    with pytest.raises(UsageError, match="may only name a built-in one"):
        bench(proto, **ONE)


def test_no_model_is_refused():
    with pytest.raises(UsageError, match="name one or more models"):
        bench([], **ONE)


def test_a_model_that_simulates_says_so(tiny_files):
    """What its predictions save in time shows only when it is deployed."""
    result = bench([tiny_files.model, tiny_files.spatial], tiny_files.spec, runs=1, threads=1)
    (note,) = result.notes
    assert note.startswith("model.spatial.onnx: predictions are simulated")
    assert bench(tiny_files.model, tiny_files.spec, runs=1, threads=1).notes == ()
