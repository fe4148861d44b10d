"""A constant is a constant however it is stored: weights and bounds of Clips, simplified or not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from support.models import Net, feeds

import spatialonnx
from spatialonnx.runtime.session import Runtime, open_session

WEIGHT = np.random.default_rng(5).normal(0, 0.3, (8, 3, 3, 3)).astype(np.float32)
STEP = np.abs(WEIGHT).max() / 127
STEPS = np.abs(WEIGHT).max((1, 2, 3)) / 127
INTEGERS = np.round(WEIGHT / STEP)


def ints(net: Net, *values: int) -> str:
    return net.constant(np.asarray(values), "ints", np.int64)


WEIGHTS: dict[str, Callable[[Net], str]] = {
    "two Identities": lambda n: n.node("Identity", n.node("Identity", n.constant(WEIGHT))),
    "half": lambda n: n.node("Cast", n.constant(WEIGHT, dtype=np.float16), to=1),
    "double": lambda n: n.node("Cast", n.constant(WEIGHT, dtype=np.float64), to=1),
    "transposed": lambda n: n.node(
        "Transpose", n.constant(WEIGHT.transpose(2, 3, 1, 0)), perm=[3, 2, 0, 1]
    ),
    "transposed by default": lambda n: n.node("Transpose", n.constant(WEIGHT.T)),
    "flat": lambda n: n.node("Reshape", n.constant(WEIGHT.ravel()), ints(n, 8, 3, 3, -1)),
    "reshaped with zeros": lambda n: n.node(
        "Reshape", n.constant(WEIGHT.reshape(8, 3, 9)), ints(n, 0, 0, 3, 3)
    ),
    "squeezed": lambda n: n.node("Squeeze", n.constant(WEIGHT[None]), ints(n, 0)),
    "unsqueezed": lambda n: n.node(
        "Reshape",
        n.node("Unsqueeze", n.constant(WEIGHT.reshape(8, 3, 9)), ints(n, 0)),
        ints(n, 8, 3, 3, 3),
    ),
    "8 bit": lambda n: n.node(
        "DequantizeLinear", n.constant(INTEGERS, dtype=np.int8), n.constant(STEP)
    ),
    "8 bit per channel": lambda n: n.node(
        "DequantizeLinear",
        n.constant(np.round(WEIGHT / STEPS[:, None, None, None]), dtype=np.int8),
        n.constant(STEPS),
        n.constant(np.zeros(8), dtype=np.int8),
        axis=0,
    ),
    "a Constant node": lambda n: n.node("Constant", value=numpy_helper.from_array(WEIGHT)),
    "half, flat, transposed": lambda n: n.node(
        "Transpose",
        n.node(
            "Cast",
            n.node(
                "Reshape",
                n.constant(WEIGHT.transpose(1, 0, 2, 3).ravel(), dtype=np.float16),
                ints(n, 3, 8, 3, 3),
            ),
            to=1,
        ),
        perm=[1, 0, 2, 3],
    ),
}
BOUNDS: dict[str, Callable[[Net], tuple[str, str]]] = {
    "floats of Constant nodes": lambda n: (
        n.node("Constant", value_float=0.0),
        n.node("Constant", value_float=6.0),
    ),
    "lists of Constant nodes": lambda n: (
        n.node("Squeeze", n.node("Constant", value_floats=[0.0])),
        "",
    ),
    "integers": lambda n: (
        n.node("Cast", n.node("Constant", value_int=0), to=1),
        n.node("Cast", n.node("Constant", value_int=6), to=1),
    ),
    "half": lambda n: (
        n.node("Cast", n.constant(0, dtype=np.float16), to=1),
        n.node("Cast", n.constant(6, dtype=np.float16), to=1),
    ),
    "Identities": lambda n: (
        n.node("Identity", n.constant(0)),
        n.node("Identity", n.constant(6)),
    ),
    "reshaped": lambda n: (n.node("Reshape", n.constant([0]), ints(n)), ""),
}


def check(proto: onnx.ModelProto, simplify: bool) -> None:
    """Both Convs are sites, and what is deployed computes the same."""
    result = spatialonnx.insert(proto, threads=1, simplify=simplify)
    assert len(result.sites) == 2, result.skipped
    assert result.conv_macs == 64 * 8 * 27 + 64 * 4 * 72
    data = feeds(proto)["x"]
    deployed = spatialonnx.deploy(
        spatialonnx.insert(proto, threads=1, simplify=simplify, pattern="1001").model,
        (np.repeat(data, 5, 0), np.arange(10) % 5),
        fuse="all",
        runs=1,
        threads=1,
        accept_baseline=True,
    )
    assert len(deployed.names("fused")) == 2, [site.reason for site in deployed.sites]
    got = open_session(result.model, Runtime("cpu", 1)).run({"x": data})
    np.testing.assert_allclose(got[0], open_session(proto, Runtime("cpu", 1)).run({"x": data})[0])


@pytest.mark.parametrize("simplify", [True, False])
@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights(kind: str, simplify: bool) -> None:
    net = Net()
    x = net.relu(net.conv("x", 8, weight=WEIGHTS[kind](net)))
    check(net.model(net.head(net.relu(net.conv(x, 4)))), simplify)


@pytest.mark.parametrize("simplify", [True, False])
@pytest.mark.parametrize("kind", BOUNDS)
def test_bounds(kind: str, simplify: bool) -> None:
    net = Net()
    x = net.node("Clip", net.conv("x", 8), *BOUNDS[kind](net))
    check(net.model(net.head(net.relu(net.conv(x, 4)))), simplify)
