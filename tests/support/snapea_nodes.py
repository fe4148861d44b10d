"""The SnapeaConv nodes of a network as cases for the slow count."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from support.snapea_oracle import SnapeaCase
from support.trained import RUNTIME

from spatialonnx.runtime.session import open_session


def node_cases(
    proto: onnx.ModelProto, images: NDArray[np.float32]
) -> Iterator[tuple[str, SnapeaCase]]:
    """Every SnapeaConv node of a model with the tensors that it reads in one run, masks aside."""
    nodes = [n for n in proto.graph.node if n.op_type == "SnapeaConv"]
    weights = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    read = sorted({name for n in nodes for name in (n.input[0], n.input[3]) if name})
    made = {o for n in proto.graph.node for o in n.output}
    proto.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4)
        for name in read
        if name in made
    )
    wanted = [name for name in read if name in made]
    values = open_session(proto, RUNTIME).run({"x": images}, wanted)
    tensors = {"x": images, **dict(zip(wanted, values, strict=True))}
    for node in nodes:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        yield (
            node.name,
            SnapeaCase(
                tensors[node.input[0]],
                weights[node.input[1]],
                weights[node.input[2]],
                tensors.get(node.input[3]),
                attributes=attributes,
            ),
        )
