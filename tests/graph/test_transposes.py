"""ReLUs behind Transposes, as in networks that were exported from NHWC."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from support.models import Net, feeds

import spatialonnx
from spatialonnx.graph.transposes import relus_before_transposes
from spatialonnx.runtime.session import Runtime, open_session


def conv(net: Net, x: str, channels: int, out: int, pad: bool = True) -> str:
    """A Conv between two Transposes behind a Pad of its own, as tf2onnx writes it."""
    if pad:
        x = net.node("Pad", x, net.constant([0, 1, 1, 0, 0, 1, 1, 0], "pads", np.int64))
    x = net.node("Transpose", x, perm=[0, 3, 1, 2])
    net.channels[x] = channels
    x = net.conv(x, out, pads=[0 if pad else 1] * 4)
    return net.node("Transpose", x, perm=[0, 2, 3, 1])


def head(net: Net, x: str) -> onnx.ModelProto:
    mean = net.node("ReduceMean", x, keepdims=0, axes=[1, 2])
    return net.model(net.node("MatMul", mean, net.constant(net.rng.normal(0, 0.3, (4, 5)))))


def start() -> Net:
    return Net(("n", 8, 8, 3), opset=13)


def padded() -> onnx.ModelProto:
    net = start()
    x = net.node("Relu", conv(net, "x", 3, 4))
    return head(net, net.node("Relu", conv(net, x, 4, 4)))


def residual() -> onnx.ModelProto:
    net = start()
    x = net.node("Relu", conv(net, "x", 3, 4, pad=False))
    return head(net, net.node("Relu", net.node("Add", conv(net, x, 4, 4), x)))


def relu6() -> onnx.ModelProto:
    net = start()
    x = net.node("Relu", conv(net, "x", 3, 4))
    six = net.constant(0), net.constant(6)
    return head(net, net.node("Clip", conv(net, x, 4, 4), *six))


def read_twice() -> onnx.ModelProto:
    """What a Transpose writes is read by two ReLUs, and is an output besides."""
    net = start()
    x = conv(net, "x", 3, 4)
    both = net.node("Sub", net.node("Relu", x), net.node("Clip", x, net.constant(0)))
    net.output(x, [None] * 4)
    return head(net, net.node("Add", both, net.node("Relu", conv(net, x, 4, 4))))


@pytest.mark.parametrize(
    ("build", "sites"), [(padded, 2), (residual, 2), (relu6, 2), (read_twice, 1)]
)
def test_every_relu_is_a_site(build: Callable[[], onnx.ModelProto], sites: int) -> None:
    proto = build()
    result = spatialonnx.insert(proto, threads=1)
    assert len(result.sites) == sites, result.skipped
    assert result.difference.largest < 1e-6


@pytest.mark.parametrize("build", [padded, residual, relu6, read_twice])
def test_the_order_changes_nothing(build: Callable[[], onnx.ModelProto]) -> None:
    proto = build()
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    relus_before_transposes(changed.graph)
    onnx.checker.check_model(changed, full_check=True)
    relus = [node for node in changed.graph.node if node.op_type in ("Relu", "Clip")]
    producers = {name: node.op_type for node in changed.graph.node for name in node.output}
    assert all(producers.get(relu.input[0]) != "Transpose" for relu in relus)
    one, arrays = Runtime("cpu", 1), feeds(proto)
    for a, b in zip(
        open_session(proto, one).run(arrays), open_session(changed, one).run(arrays), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
