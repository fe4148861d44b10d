"""Networks whose outputs are no numbers once a map is predicted away: counted as wrong."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from support.models import Net

import spatialonnx
from spatialonnx.runtime.session import open_session


def unit_length(net: Net, x: str) -> str:
    """0 / 0 where the last map is zero, as in networks of embeddings."""
    length = net.node("ReduceL2", x, axes=[1], keepdims=1)
    return net.node("Div", x, length)


def reciprocal(net: Net, x: str) -> str:
    return net.node("Reciprocal", x)


def logarithm(net: Net, x: str) -> str:
    return net.node("Log", x)


def network(end: Callable[[Net, str], str]) -> onnx.ModelProto:
    net = Net(("n", 1, 8, 8))
    x = net.relu(net.conv("x", 4))
    x = net.relu(net.conv(x, 5))
    flat = net.node("Flatten", net.node("GlobalAveragePool", x))
    return net.model(end(net, flat))


def finite_data(proto: onnx.ModelProto) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    x = np.random.default_rng(0).normal(size=(400, 1, 8, 8)).astype(np.float32)
    (y,) = open_session(proto).run({"x": x})
    kept = np.isfinite(y).all(axis=1)
    return x[kept], y[kept].argmax(axis=1)


@pytest.mark.parametrize("strategy", ["joint", "greedy", "exhaustive"])
@pytest.mark.parametrize("end", [unit_length, reciprocal, logarithm])
def test_outputs_that_are_no_numbers(strategy: str, end: Callable[[Net, str], str]) -> None:
    proto = network(end)
    x, y = finite_data(proto)
    assert len(x) >= 60
    result = spatialonnx.search(
        spatialonnx.insert(proto).model,
        (x, y),
        eps=0.2,
        strategy=strategy,
        patterns="1000,1001",
        provider="cpu",
        threads=1,
    )
    assert result.complete
    (found,) = result.results
    assert np.isfinite(float(found.verify.drop))


def test_activations_that_are_no_numbers() -> None:
    """Logarithms of pixels: some samples' maps are NaN or infinite from the first layer on."""
    net = Net(("n", 1, 8, 8))
    x = net.relu(net.conv(net.relu(net.conv(logarithm(net, "x"), 4)), 5))
    model = spatialonnx.insert(net.model(net.head(x))).model
    rng = np.random.default_rng(1)
    images = np.exp(rng.normal(size=(120, 1, 8, 8))).astype(np.float32)
    images[::7, 0, 3, 3] = 0
    images[3::11, 0, 2, 2] = -1
    labels = rng.integers(0, 5, 120)
    for thresholds in ("0", "0,0.2"):
        result = spatialonnx.search(
            model,
            (images, labels),
            eps=0.2,
            thresholds=thresholds,
            accept_baseline=True,
            provider="cpu",
            threads=1,
        )
        assert result.complete
