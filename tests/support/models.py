"""Tiny ONNX models built in code: the well-behaved and the messy ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR = 8


class Net:
    """Builds a graph node by node; every method returns the name of the tensor it wrote."""

    def __init__(
        self,
        shape: Sequence[int | str] = ("n", 3, 8, 8),
        *,
        opset: int = OPSET,
        ir: int = IR,
        seed: int = 0,
    ) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = opset
        self.ir = ir
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))]
        self.outputs: list[onnx.ValueInfoProto] = []
        self.channels: dict[str, int] = {"x": shape[1] if isinstance(shape[1], int) else 3}

    def name(self, stem: str) -> str:
        return f"{stem}_{len(self.nodes) + len(self.weights)}"

    def constant(self, values: Any, stem: str = "w", dtype: Any = np.float32) -> str:
        name = self.name(stem)
        self.weights.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def node(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        name = self.name(op.lower())
        names = [name, *(f"{name}_{i}" for i in range(1, outputs))]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=f"n_{name}", **attributes))
        self.channels[name] = self.channels.get(inputs[0], 0) if inputs else 0
        return name

    def conv(
        self,
        x: str,
        out: int,
        *,
        kernel: int = 3,
        bias: bool = True,
        group: int = 1,
        weight: str | None = None,
        **attributes: Any,
    ) -> str:
        cin = self.channels[x]
        if weight is None:
            scale = (2 / (cin // group * kernel * kernel)) ** 0.5
            shape = (out, cin // group, kernel, kernel)
            weight = self.constant(self.rng.normal(0, scale, shape))
        inputs = [x, weight]
        if bias:
            inputs.append(self.constant(self.rng.normal(0, 0.1, out), "b"))
        attributes.setdefault("pads", [kernel // 2] * 4)
        result = self.node(
            "Conv", *inputs, kernel_shape=[kernel, kernel], group=group, **attributes
        )
        self.channels[result] = out
        return result

    def norm(self, x: str) -> str:
        c = self.channels[x]
        draw = self.rng
        values = (
            draw.uniform(0.5, 1.5, c),
            draw.normal(0, 0.2, c),
            draw.normal(0, 0.2, c),
            draw.uniform(0.5, 1.5, c),
        )
        return self.node("BatchNormalization", x, *(self.constant(v, "bn") for v in values))

    def per_channel(self, x: str, op: str, low: float = 0.5, high: float = 1.5) -> str:
        values = self.rng.uniform(low, high, (1, self.channels[x], 1, 1))
        return self.node(op, x, self.constant(values, op.lower()))

    def relu(self, x: str) -> str:
        return self.node("Relu", x)

    def clip(self, x: str, low: float | None = 0.0, high: float | None = 6.0) -> str:
        """A Clip as this opset spells it: attributes up to 10, inputs from 11 on."""
        if self.opset < 11:
            bounds = {k: v for k, v in (("min", low), ("max", high)) if v is not None}
            return self.node("Clip", x, **bounds)
        inputs = ["" if v is None else self.constant(v, "bound") for v in (low, high)]
        return self.node("Clip", x, *inputs)

    def head(self, x: str, classes: int = 5) -> str:
        pooled = self.node("GlobalAveragePool", x)
        flat = self.node("Flatten", pooled)
        weight = self.constant(self.rng.normal(0, 0.3, (self.channels[x], classes)))
        return self.node("MatMul", flat, weight)

    def output(self, x: str, shape: Sequence[int | str | None] | None = None) -> None:
        self.outputs.append(helper.make_tensor_value_info(x, TensorProto.FLOAT, shape))

    def model(self, *outputs: str, rank: int = 2) -> onnx.ModelProto:
        for name in outputs:
            self.output(name, [None] * rank)
        graph = helper.make_graph(
            self.nodes, "tiny", self.inputs, self.outputs, initializer=self.weights
        )
        return helper.make_model(
            graph,
            producer_name="tests",
            ir_version=self.ir,
            opset_imports=[helper.make_opsetid("", self.opset)],
        )


def plain(depth: int = 2, **options: Any) -> onnx.ModelProto:
    """Conv -> ReLU, several times, and a classifier."""
    net = Net(**options)
    x = "x"
    for _ in range(depth):
        x = net.relu(net.conv(x, 4))
    return net.model(net.head(x))


def residual(*, project: bool = True, kernel: int = 3, **options: Any) -> onnx.ModelProto:
    """Two Convs with a shortcut: a 1x1 Conv (project) or the identity."""
    net = Net(**options)
    stem = net.relu(net.conv("x", 4))
    inner = net.relu(net.norm(net.conv(stem, 4)))
    main = net.norm(net.conv(inner, 4))
    short = net.norm(net.conv(stem, 4, kernel=kernel if project else 1)) if project else stem
    return net.model(net.head(net.relu(net.node("Add", main, short))))


def depthwise(**options: Any) -> onnx.ModelProto:
    """Pointwise, depthwise and grouped Convs with ReLU6."""
    net = Net(**options)
    x = net.clip(net.conv("x", 8, kernel=1))
    x = net.clip(net.conv(x, 8, group=8))
    x = net.clip(net.conv(x, 8, group=2, strides=[2, 2]))
    return net.model(net.head(x))


# What exporters leave between a Conv and its ReLU. Each takes and returns a tensor name.


def norm_node(net: Net, x: str) -> str:
    return net.norm(x)


def norm_mul_add(net: Net, x: str) -> str:
    return net.per_channel(net.per_channel(x, "Mul"), "Add", -0.3, 0.3)


def norm_sub_mul_add(net: Net, x: str) -> str:
    return norm_mul_add(net, net.per_channel(x, "Sub", -0.3, 0.3))


def norm_sub_div_mul_add(net: Net, x: str) -> str:
    return norm_mul_add(net, net.per_channel(net.per_channel(x, "Sub", -0.3, 0.3), "Div"))


def bias_add(net: Net, x: str) -> str:
    return net.per_channel(x, "Add", -0.3, 0.3)


def constant_nodes(net: Net, x: str) -> str:
    """Mul and Add whose constants come from Constant nodes."""
    for op, low, high in (("Mul", 0.5, 1.5), ("Add", -0.3, 0.3)):
        values = net.rng.uniform(low, high, (net.channels[x], 1, 1)).astype(np.float32)
        constant = net.node("Constant", value=numpy_helper.from_array(values))
        x = net.node(op, x, constant)
    return x


def computed_constants(net: Net, x: str) -> str:
    """Scale = gamma / sqrt(var + eps), spelled in nodes."""
    c = net.channels[x]
    var = net.constant(net.rng.uniform(0.5, 1.5, (c, 1, 1)))
    root = net.node("Sqrt", net.node("Add", var, net.constant(1e-5)))
    scale = net.node("Div", net.constant(net.rng.uniform(0.5, 1.5, (c, 1, 1))), root)
    return net.per_channel(net.node("Mul", x, scale), "Add", -0.3, 0.3)


def identities(net: Net, x: str) -> str:
    return net.node("Identity", net.norm(net.node("Identity", x)))


def dropouts(net: Net, x: str) -> str:
    return net.node("Dropout", net.norm(x))


def noop_casts(net: Net, x: str) -> str:
    return net.node("Cast", net.norm(net.node("Cast", x, to=TensorProto.FLOAT)), to=1)


def noop_arithmetic(net: Net, x: str) -> str:
    """Times one, plus zero."""
    return net.node("Add", net.node("Mul", x, net.constant(1.0)), net.constant(0.0))


def noop_shapes(net: Net, x: str) -> str:
    """An Unsqueeze undone by a Squeeze."""
    axes = net.constant([0], "axes", np.int64)
    return net.node("Squeeze", net.node("Unsqueeze", x, axes), axes)


def transposed(net: Net, x: str) -> str:
    """An NHWC island: Transpose, BatchNorm as Mul/Add over the last axis, Transpose back."""
    c = net.channels[x]
    x = net.node("Transpose", x, perm=[0, 2, 3, 1])
    x = net.node("Mul", x, net.constant(net.rng.uniform(0.5, 1.5, c)))
    x = net.node("Add", x, net.constant(net.rng.uniform(-0.3, 0.3, c)))
    x = net.node("Transpose", x, perm=[0, 3, 1, 2])
    net.channels[x] = c
    return x


MESS: dict[str, Callable[[Net, str], str]] = {
    "nothing": lambda net, x: x,
    "BatchNormalization": norm_node,
    "Add": bias_add,
    "Mul/Add": norm_mul_add,
    "Sub/Mul/Add": norm_sub_mul_add,
    "Sub/Div/Mul/Add": norm_sub_div_mul_add,
    "Constant nodes": constant_nodes,
    "computed constants": computed_constants,
    "Identity": identities,
    "Dropout": dropouts,
    "no-op Cast": noop_casts,
    "times 1, plus 0": noop_arithmetic,
    "Unsqueeze/Squeeze": noop_shapes,
    "Transpose island": transposed,
}


def messy(mess: str, *, bias: bool = True, **options: Any) -> onnx.ModelProto:
    """Two Convs and a residual block, with a mess between each Conv and what follows it."""
    net = Net(**options)
    between = MESS[mess]
    stem = net.relu(between(net, net.conv("x", 4, bias=bias)))
    inner = net.relu(between(net, net.conv(stem, 6, bias=bias)))
    main = between(net, net.conv(inner, 4, bias=bias))
    return net.model(net.head(net.relu(net.node("Add", main, stem))))


def channels_last(*, relu_inside: bool = True, **options: Any) -> onnx.ModelProto:
    """An NHWC network as TensorFlow's exporter writes it before it moves Transposes.

    Every Conv stands between two Transposes; bias and ReLU work on NHWC.
    """
    net = Net(("n", 8, 8, 3), **options)
    x, channels = "x", 3
    for out in (4, 6, 4):
        x = net.node("Transpose", x, perm=[0, 3, 1, 2])
        net.channels[x] = channels
        x = net.conv(x, out, bias=False)
        if relu_inside:
            x = net.relu(x)
        x = net.node("Transpose", x, perm=[0, 2, 3, 1])
        if not relu_inside:
            x = net.node("Add", x, net.constant(net.rng.normal(0, 0.1, out)))
            x = net.relu(x)
        channels = out
    axes = {"axes": [1, 2]} if net.opset < 18 else {}
    mean = net.node("ReduceMean", x, keepdims=0, **axes)
    return net.model(net.node("MatMul", mean, net.constant(net.rng.normal(0, 0.3, (4, 5)))))


def feeds(
    proto: onnx.ModelProto, batch: int = 2, size: int = 8, seed: int = 0
) -> dict[str, NDArray[np.float32]]:
    """Random images for a model's inputs; dynamic dimensions are ``batch`` and ``size``."""
    rng = np.random.default_rng(seed)
    weights = {tensor.name for tensor in proto.graph.initializer}
    arrays = {}
    for value in proto.graph.input:
        if value.name not in weights:
            shape = [
                d.dim_value or (batch if axis == 0 else size)
                for axis, d in enumerate(value.type.tensor_type.shape.dim)
            ]
            arrays[value.name] = rng.normal(0, 1, shape).astype(np.float32)
    return arrays


def batch_inside(count: int) -> onnx.ModelProto:
    """The input leaves the number of images open, a Reshape inside does not."""
    net = Net()
    x = net.relu(net.conv("x", 4))
    pooled = net.node("GlobalAveragePool", x)
    flat = net.node("Reshape", pooled, net.constant([count, 4], "shape", np.int64))
    return net.model(net.node("MatMul", flat, net.constant(np.eye(4, 5))))


def endless_loop() -> onnx.ModelProto:
    """A model whose Loop never ends: its condition stays true."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["on"], ["on_out"]),
            helper.make_node("Relu", ["v"], ["v_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v_out", TensorProto.FLOAT, None),
        ],
    )
    nodes = [
        helper.make_node("Loop", ["", "yes", "x"], ["z"], body=body),
        helper.make_node("GlobalAveragePool", ["z"], ["p"]),
        helper.make_node("Flatten", ["p"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "endless",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(np.asarray(True), "yes")],
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
