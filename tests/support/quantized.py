"""Tiny QDQ networks, in the forms that quantisers write."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from support.models import Net

MIDDLE = 120
"""Zero point of a map that holds negative values."""


class QuantizedNet(Net):
    """Builds QDQ graphs: every method takes and returns float tensors behind DequantizeLinear."""

    def quantize(
        self, x: str, scale: float = 0.05, zero: int = 0, dtype: type = np.uint8
    ) -> tuple[str, str]:
        """QuantizeLinear and DequantizeLinear; returns the 8-bit tensor and the float one."""
        names = self.constant(scale, "scale"), self.constant(zero, "zero", dtype)
        quantized = self.node("QuantizeLinear", x, *names)
        result = self.node("DequantizeLinear", quantized, *names)
        self.channels[quantized] = self.channels[result] = self.channels[x]
        return quantized, result

    def qconv(self, x: str, out: int = 4, *, kernel: int = 3, scale: float = 0.05) -> str:
        """Conv with int8 weights per channel and an int32 bias; ``x`` has scale ``scale``."""
        weights = self.rng.integers(-60, 60, (out, self.channels[x], kernel, kernel))
        steps = self.rng.uniform(0.004, 0.008, out)
        weight = self.node(
            "DequantizeLinear",
            self.constant(weights, "w", np.int8),
            self.constant(steps, "ws"),
            self.constant(np.zeros(out), "wz", np.int8),
            axis=0,
        )
        bias = self.node(
            "DequantizeLinear",
            self.constant(self.rng.integers(-500, 500, out), "b", np.int32),
            self.constant(steps * scale, "bs"),
            self.constant(np.zeros(out), "bz", np.int32),
            axis=0,
        )
        result = self.node("Conv", x, weight, bias, pads=[kernel // 2] * 4)
        self.channels[result] = out
        return result

    def image(self) -> str:
        """The network's input, quantised."""
        return self.quantize("x", 0.05, MIDDLE)[1]

    def finish(self, x: str) -> onnx.ModelProto:
        """A float head behind the last map."""
        return self.model(self.head(x))


def folded() -> onnx.ModelProto:
    """Conv -> Q, the zero point folding the ReLU."""
    net = QuantizedNet()
    x = net.image()
    for _ in range(2):
        x = net.quantize(net.qconv(x))[1]
    return net.finish(x)


def explicit() -> onnx.ModelProto:
    """Conv -> Relu -> Q, and a Clip that bounds the map."""
    net = QuantizedNet()
    x = net.quantize(net.relu(net.qconv(net.image())))[1]
    x = net.quantize(net.clip(net.qconv(x), 0.0, 3.0))[1]
    return net.finish(x)


def between() -> onnx.ModelProto:
    """Conv -> Q -> DQ -> Relu -> Q."""
    net = QuantizedNet()
    x = net.image()
    for _ in range(2):
        inner = net.quantize(net.qconv(x), 0.06, MIDDLE)[1]
        x = net.quantize(net.relu(inner))[1]
    return net.finish(x)


def residual_quantized() -> onnx.ModelProto:
    """Conv -> Q -> DQ -> Add -> [Relu ->] Q: two roundings."""
    net = QuantizedNet()
    stem = net.quantize(net.qconv(net.image()))[1]
    inner = net.quantize(net.relu(net.qconv(stem)))[1]
    second = net.quantize(net.qconv(inner), 0.07, MIDDLE)[1]
    x = net.quantize(net.node("Add", second, stem), 0.08)[1]
    third = net.quantize(net.qconv(x, scale=0.08), 0.07, MIDDLE)[1]
    last = net.relu(net.node("Add", x, third))
    return net.finish(net.quantize(last, 0.09)[1])


def residual_direct() -> onnx.ModelProto:
    """Conv -> Add -> Relu -> Q: one rounding."""
    net = QuantizedNet()
    stem = net.quantize(net.qconv(net.image()))[1]
    x = net.quantize(net.relu(net.node("Add", net.qconv(stem), stem)), 0.08)[1]
    return net.finish(x)


def pooled() -> onnx.ModelProto:
    """Conv -> Q -> DQ -> MaxPool -> Q of the same scale, between two sites."""
    net = QuantizedNet()
    x = net.quantize(net.qconv(net.image()))[1]
    pool = net.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = net.quantize(pool)[1]
    return net.finish(net.quantize(net.qconv(x))[1])


def signed() -> onnx.ModelProto:
    """Maps of int8, the zero point at the least value."""
    net = QuantizedNet()
    x = net.quantize("x", 0.05, 0, np.int8)[1]
    for _ in range(2):
        x = net.quantize(net.relu(net.qconv(x)), 0.05, -128, np.int8)[1]
    return net.finish(x)


FORMS: dict[str, Callable[[], onnx.ModelProto]] = {
    "folded": folded,
    "explicit": explicit,
    "between": between,
    "residual with two roundings": residual_quantized,
    "residual with one rounding": residual_direct,
    "a pool between": pooled,
    "int8 maps": signed,
}
