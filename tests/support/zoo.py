"""Architectures that come inside the onnx package, with random weights.

The package stores each weight as a ConstantOfShape node; here it becomes an initializer, drawn so
that activations neither vanish nor explode. A last Softmax is left out: on random weights it
saturates and would hide every difference in front of it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

_FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"

ZOO = (
    "bvlc_alexnet",
    "densenet121",
    "inception_v1",
    "inception_v2",
    "resnet50",
    "shufflenet",
    "squeezenet",
    "vgg19",
    "zfnet512",
)


def light_model(name: str, seed: int = 0) -> onnx.ModelProto:
    """One architecture of ``ZOO``, weights random and, as in the package, graph inputs too."""
    proto = onnx.load(str(_FOLDER / f"light_{name}.onnx"))
    rng = np.random.default_rng(seed)
    shapes = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    roles = _roles(proto)
    nodes, weights, dropped = [], [], set()
    for node in proto.graph.node:
        if node.op_type == "ConstantOfShape":
            shape = tuple(int(d) for d in shapes[node.input[0]])
            weights.append((node.output[0], _draw(rng, shape, *roles[node.output[0]])))
            dropped.add(node.input[0])
        else:
            nodes.append(node)
    kept = [t for t in proto.graph.initializer if t.name not in dropped]
    inputs = [v for v in proto.graph.input if v.name not in dropped]
    if nodes[-1].op_type == "Softmax":
        proto.graph.output[0].name = nodes.pop().input[0]
    for field in ("node", "initializer", "input"):
        proto.graph.ClearField(field)
    proto.graph.node.extend(nodes)
    proto.graph.initializer.extend(kept)
    proto.graph.input.extend(inputs)
    for weight, values in weights:
        proto.graph.initializer.append(numpy_helper.from_array(values, weight))
        proto.graph.input.append(
            onnx.helper.make_tensor_value_info(weight, onnx.TensorProto.FLOAT, values.shape)
        )
    return proto


def _roles(proto: onnx.ModelProto) -> dict[str, tuple[str, int]]:
    """Op and input slot that a weight serves, seen through Unsqueeze."""
    roles: dict[str, tuple[str, int]] = {}
    for node in reversed(proto.graph.node):
        for slot, name in enumerate(node.input):
            if node.op_type == "Unsqueeze":
                roles[name] = roles[node.output[0]]
            else:
                roles.setdefault(name, (node.op_type, slot))
    return roles


def _draw(
    rng: np.random.Generator, shape: tuple[int, ...], op: str, slot: int
) -> NDArray[np.float32]:
    if op in ("Conv", "Gemm") and slot == 1:
        values = rng.standard_normal(shape, np.float32)
        return values * np.float32((2 / max(int(np.prod(shape[1:])), 1)) ** 0.5)
    if (op == "BatchNormalization" and slot in (1, 4)) or op == "Mul":
        return rng.uniform(0.7, 1.3, shape).astype(np.float32)
    return (rng.standard_normal(shape, np.float32) * np.float32(0.1)).astype(np.float32)
