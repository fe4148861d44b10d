"""Batches fit a limit of memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.models import Net

from spatialonnx.data.arrays import TensorDataset
from spatialonnx.data.split import split_pool
from spatialonnx.errors import NotEnoughMemoryError
from spatialonnx.graph.insert import insert
from spatialonnx.measure import fitting
from spatialonnx.measure.experiment import Experiment
from spatialonnx.measure.fitting import fit_batch
from spatialonnx.model.model_file import as_model
from spatialonnx.runtime.session import Runtime

SIDE, CHANNELS = 64, 8
MAP, IMAGE = 4 * CHANNELS * SIDE * SIDE, 4 * 3 * SIDE * SIDE
COUNTING = 1 << 12


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    net = Net(("n", 3, SIDE, SIDE))
    proto = net.model(net.head(net.relu(net.conv("x", CHANNELS))))
    model = as_model(insert(proto, threads=1).model)
    x = np.zeros((8, 3, SIDE, SIDE), np.float32)
    return Experiment(model, TensorDataset("d", x, None), split_pool(8, 0), Runtime("cpu", 1))


@pytest.fixture(autouse=True)
def _nothing_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "used_memory", lambda: fitting.LIBRARIES)
    monkeypatch.setattr(fitting, "COUNTING", COUNTING)


@pytest.mark.parametrize("images", [2, 5, 63])
def test_the_largest_maps_of_a_batch_fit(experiment: Experiment, images: int) -> None:
    weights = fitting.weight_bytes(experiment.model.proto)
    room = images * (MAP * fitting._MAPS + IMAGE * fitting._AHEAD) + 3 * weights + COUNTING
    assert fit_batch(experiment, room).batch == images
    assert fit_batch(experiment, room - 1).batch == images - 1


def test_a_baseline_has_sessions_of_its_own(experiment: Experiment) -> None:
    weights = fitting.weight_bytes(experiment.model.proto)
    room = 8 * (MAP * fitting._MAPS + IMAGE * fitting._AHEAD) + 3 * weights + COUNTING
    both = replace(experiment, baseline=experiment.model)
    assert fit_batch(experiment, room).batch == 8
    assert fit_batch(both, room).batch < 8
    assert fit_batch(both, room + 3 * weights).batch == 8


@pytest.mark.parametrize("copies", [fitting.MEASURING, fitting.DEPLOYING])
def test_a_limit_without_room_for_one_image_names_what_is_needed(
    experiment: Experiment, copies: int
) -> None:
    weights = fitting.weight_bytes(experiment.model.proto)
    room = MAP * fitting._MAPS + IMAGE * fitting._AHEAD + (1 + copies) * weights + COUNTING
    assert fit_batch(experiment, room, copies=copies).batch == 1
    with pytest.raises(NotEnoughMemoryError, match="--memory") as error:
        fit_batch(experiment, room - 1, copies=copies)
    least = int(str(error.value).partition("--memory ")[2].partition("M")[0]) << 20
    assert room <= least < room + room // 20 + (1 << 20)


def test_what_optimize_asks_for_lasts_to_its_deployment() -> None:
    """There the 8-bit model, a fourth of the original, is beside it."""
    assert 1 + fitting.OPTIMIZING >= 1.25 * (1 + fitting.DEPLOYING)


def test_never_more_images_than_before(experiment: Experiment) -> None:
    assert fit_batch(experiment, 1 << 50).batch == experiment.batch
    assert fit_batch(replace(experiment, batch=3), 1 << 50).batch == 3
