"""Weights in a file: sessions compute the same, and the model stays as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from support.models import feeds, plain

from spatialonnx.graph.insert import insert
from spatialonnx.measure.network import Network
from spatialonnx.model import shared_weights as module
from spatialonnx.model.model_file import as_model
from spatialonnx.model.shared_weights import release_weights, share_weights, shared_folder
from spatialonnx.plan.masks import uniform_mask
from spatialonnx.runtime.session import Runtime, open_session

ONE = Runtime("cpu", 1)


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the models of the tests were large."""
    monkeypatch.setattr(module, "_LARGE", 0)
    monkeypatch.setattr(module, "_LARGE_TENSOR", 64)


def light_names(proto: onnx.ModelProto) -> set[str]:
    return {tensor.name for tensor in proto.graph.initializer if tensor.external_data}


@pytest.mark.usefixtures("_small")
def test_sessions_read_them_and_the_model_is_unchanged() -> None:
    proto = insert(plain(), threads=1).model
    before = proto.SerializeToString()
    light = share_weights(proto)
    assert proto.SerializeToString() == before
    assert light_names(light) and light.ByteSize() < proto.ByteSize()
    x = feeds(proto)["x"]
    want = Network(proto, ONE)
    got = Network(light, ONE)
    plan = {want.site_names[0]: uniform_mask(2, 9)}
    assert got.sites(x.shape[1:]) == want.sites(x.shape[1:])
    for name, array in want.run(x, plan).items():
        np.testing.assert_array_equal(got.run(x, plan)[name], array)
    folder = shared_folder(light)
    assert folder is not None
    assert share_weights(light) is light
    release_weights(light)
    assert shared_folder(light) is None
    for name, array in want.run(x, plan).items():
        np.testing.assert_array_equal(got.run(x, plan)[name], array)


@pytest.mark.usefixtures("_small")
def test_a_session_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))
    proto = plain()
    session = open_session(proto, ONE)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(module, "_LARGE", 1 << 40)
    x = feeds(proto)
    np.testing.assert_array_equal(session.run(x)[0], open_session(proto, ONE).run(x)[0])


@pytest.mark.usefixtures("_small")
def test_without_room_the_model_itself_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    proto = plain()
    monkeypatch.setattr(module.tempfile, "tempdir", "/nowhere")
    assert share_weights(proto) is proto


def test_small_models_are_left_alone() -> None:
    loaded = as_model(plain())
    assert loaded.shared is loaded.proto
