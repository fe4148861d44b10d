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


def light_model(architecture: str, seed: int = 0, *, shapes_only: bool = False) -> onnx.ModelProto:
    """One architecture of ``ZOO``, weights random and, as in the package, graph inputs too.

    With ``shapes_only`` the weights have shapes but no values: enough for finding sites.
    """
    proto = onnx.load(str(_FOLDER / f"light_{architecture}.onnx"))
    rng = np.random.default_rng(seed)
    shapes = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    roles = _roles(proto)
    nodes, weights, dropped = [], [], set()
    for node in proto.graph.node:
        if node.op_type == "ConstantOfShape":
            name, shape = node.output[0], [int(d) for d in shapes[node.input[0]]]
            tensor = onnx.TensorProto(name=name, data_type=onnx.TensorProto.FLOAT, dims=shape)
            if not shapes_only:
                tensor.raw_data = _draw(rng, tuple(shape), *roles[name]).tobytes()
            weights.append(tensor)
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
    proto.graph.initializer.extend(weights)
    proto.graph.input.extend(
        onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in weights
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
