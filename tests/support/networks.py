"""Larger networks as other tools' exporters write them, with random weights."""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from support.models import Net

from spatialonnx.runtime.machine import saturates_int8


def keras_mobilenet(*, size: int = 32, opset: int = 13) -> onnx.ModelProto:
    """An inverted-residual network in NHWC, each Conv between two Transposes.

    So TensorFlow's exporter translates a Keras network before it moves any Transpose: explicit
    Pad in front of strided Convs, BatchNorm as Mul and Add over the last axis, ReLU6 as Clip
    (min 0), a mean over the two middle axes.
    """
    net = Net(("batch", size, size, 3), opset=opset)
    x = _keras_block(net, "x", 3, 8, stride=2)
    channels = 8
    for out, stride in ((8, 1), (12, 2), (12, 1)):
        y = _keras_block(net, x, channels, 4 * channels, kernel=1)
        y = _keras_block(net, y, 4 * channels, 4 * channels, stride=stride, depthwise=True)
        y = _keras_block(net, y, 4 * channels, out, kernel=1, relu=False)
        x = net.node("Add", x, y) if stride == 1 and out == channels else y
        channels = out
    x = _keras_block(net, x, channels, 32, kernel=1)
    x = net.node("ReduceMean", x, keepdims=0, axes=[1, 2])
    return net.model(net.node("MatMul", x, net.constant(net.rng.normal(0, 0.3, (32, 5)))))


def _keras_block(
    net: Net,
    x: str,
    inputs: int,
    outputs: int,
    *,
    kernel: int = 3,
    stride: int = 1,
    depthwise: bool = False,
    relu: bool = True,
) -> str:
    pads = {"pads": [kernel // 2] * 4}
    if stride == 2:
        x = net.node("Pad", x, net.constant([0, 0, 0, 0, 0, 1, 1, 0], "pads", np.int64))
        pads = {"pads": [0, 0, 0, 0]}
    x = net.node("Transpose", x, perm=[0, 3, 1, 2])
    net.channels[x] = inputs
    group = inputs if depthwise else 1
    x = net.conv(x, outputs, kernel=kernel, bias=False, group=group, strides=[stride] * 2, **pads)
    x = net.node("Transpose", x, perm=[0, 2, 3, 1])
    x = net.node("Mul", x, net.constant(net.rng.uniform(0.7, 1.3, outputs)))
    x = net.node("Add", x, net.constant(net.rng.normal(0, 0.1, outputs)))
    return net.clip(x) if relu else x


def quantised(proto: onnx.ModelProto, images: NDArray[np.float32]) -> onnx.ModelProto:
    """A QDQ int8 version of a model, calibrated on ``images``, by ONNX Runtime's own tool."""
    with warnings.catch_warnings(action="ignore"):
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Images(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = [{proto.graph.input[0].name: images}]

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            return self.left.pop() if self.left else None

    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it advises on the root logger
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"):
            path = Path(folder) / "quantised.onnx"
            quantize_static(
                *(proto, str(path), Images()),
                quant_format=QuantFormat.QDQ,
                reduce_range=saturates_int8(),
            )
            return onnx.load(str(path))
    finally:
        logging.disable(disabled)


def pixel_shuffle(*, opset: int = 17) -> onnx.ModelProto:
    """Super-resolution: Convs with ReLU and PRelu, then DepthToSpace; maps of any size."""
    net = Net(("batch", 1, "h", "w"), opset=opset)
    x = net.relu(net.conv("x", 8, kernel=5))
    slope = net.constant(np.full((8, 1, 1), 0.2))
    x = net.node("PRelu", net.conv(x, 8), slope)
    x = net.relu(net.conv(x, 8))
    x = net.node("DepthToSpace", net.conv(x, 4), blocksize=2)
    return net.model(x, rank=4)


def squeeze_excite(*, opset: int = 17) -> onnx.ModelProto:
    """A block with swish, and a gate whose Conv works on a 1 x 1 map."""
    net = Net(("batch", 3, 16, 16), opset=opset)
    x = net.relu(net.norm(net.conv("x", 8)))
    conv = net.norm(net.conv(x, 8, group=8))
    swish = net.node("Mul", conv, net.node("Sigmoid", conv))
    net.channels[swish] = 8
    pooled = net.node("GlobalAveragePool", swish)
    gate = net.conv(net.relu(net.conv(pooled, 2, kernel=1)), 8, kernel=1)
    gated = net.node("Mul", swish, net.node("HardSigmoid", gate))
    net.channels[gated] = 8
    return net.model(net.head(net.relu(net.node("Add", x, net.norm(net.conv(gated, 8))))))
