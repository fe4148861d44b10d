"""Inputs that have a default value: a user may set them at run time, before and after."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from support.models import Net

import spatialonnx
from spatialonnx.graph.fuse import fuse_sites
from spatialonnx.graph.sites import find_sites
from spatialonnx.runtime.session import Runtime, open_session

KINDS: dict[str, tuple[Any, Any]] = {
    "gain": (np.float32([1]), np.float32([3])),
    "scale": (np.ones((1, 4, 1, 1), np.float32), np.float32([1, 2, 3, 4]).reshape(1, 4, 1, 1)),
    "flag": (np.asarray(True), np.asarray(False)),
    "top": (np.asarray(6, np.float32), np.asarray(0.5, np.float32)),
    "axes": (np.asarray([2, 3]), np.asarray([3, 2])),
}
"""The default of each, and another value."""


def with_default(kind: str) -> onnx.ModelProto:
    """Two sites; between them an input is read that has a default."""
    net = Net()
    default, _ = KINDS[kind]
    net.weights.append(numpy_helper.from_array(default, kind))
    element = helper.np_dtype_to_tensor_dtype(default.dtype)
    net.inputs.append(helper.make_tensor_value_info(kind, element, default.shape))
    x = net.relu(net.conv("x", 4))
    if kind in ("gain", "scale"):
        x = net.node("Mul", x, kind)
    elif kind == "flag":
        x = net.node("Where", kind, x, net.node("Neg", x))
    elif kind == "top":
        x = net.node("Clip", x, "", kind)
    net.channels[x] = 4
    x = net.relu(net.conv(x, 4))
    if kind == "axes":
        x = net.node("Add", x, net.node("ReduceSum", x, kind, keepdims=1))
    return net.model(net.head(x))


def spatial(proto: onnx.ModelProto) -> onnx.ModelProto:
    return spatialonnx.insert(proto, threads=1).model


def deployed(proto: onnx.ModelProto) -> onnx.ModelProto:
    model = spatial(proto)
    return fuse_sites(model, [site.name for site in find_sites(model).sites], [])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stage", [spatial, deployed])
def test_it_stays_an_input(stage: Any, kind: str) -> None:
    proto = with_default(kind)
    model = stage(proto)
    assert [v.name for v in model.graph.input] == [v.name for v in proto.graph.input]
    x, one = {"x": np.random.default_rng(0).random((2, 3, 8, 8), np.float32)}, Runtime("cpu", 1)
    for further in ({}, {kind: KINDS[kind][1]}):
        wanted = open_session(proto, one).run({**x, **further})
        np.testing.assert_allclose(
            open_session(model, one).run({**x, **further}), wanted, 1e-4, atol=1e-5
        )


@pytest.mark.parametrize("ir", [3, 4, 8])
def test_weights_that_are_all_inputs_become_constants_and_this_is_said(ir: int) -> None:
    net = Net()
    proto = net.model(net.head(net.relu(net.conv(net.relu(net.conv("x", 4)), 4))))
    proto.ir_version = ir
    proto.graph.input.extend(
        helper.make_tensor_value_info(w.name, w.data_type, w.dims) for w in proto.graph.initializer
    )
    result = spatialonnx.insert(proto, threads=1)
    assert [value.name for value in result.model.graph.input] == ["x"]
    assert len(result.sites) == 2
    said = f"lists all {len(proto.graph.initializer)} weights as inputs"
    assert any(said in note for note in result.notes)
    assert result.to_json()["notes"] == list(result.notes)
