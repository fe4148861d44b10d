"""Names of activations that exporters write as several nodes: SiLU, HardSwish, Mish and GELU.

The reason why a Conv is not a site names them, which is more helpful than the names of two ops.
"""

from __future__ import annotations

from onnx import NodeProto

from spatialonnx.graph.index import GraphIndex

_GATES = {
    "Sigmoid": "SiLU",
    "HardSigmoid": "HardSwish",
    "Clip": "HardSwish",
    "Relu": "HardSwish",
    "Softplus": "Mish",
    "Erf": "GELU",
    "Tanh": "GELU",
}
"""What x * gate(x) is, by the first of these ops between x and the product."""

_STEPS = 6
"""Nodes between x and its gate: the GELU of tanh raises x to a power, scales and adds first."""


def name_activation(index: GraphIndex, tensor: str) -> str:
    """The activation that reads a tensor in several nodes; empty where none is known.

    Args:
        index: The graph.
        tensor: The output of a Conv, or of what scales and shifts it.
    """
    readers = [index.nodes[use.node] for use in index.uses.get(tensor, [])]
    if len(readers) < 2 or not any(node.op_type == "Mul" for node in readers):
        return ""
    gates = (name for reader in readers if (name := _gate(index, reader)))
    return next(gates, "")


def _gate(index: GraphIndex, node: NodeProto) -> str:
    """The gate that a branch computes from x; empty if there is none within a few nodes."""
    for _ in range(_STEPS):
        if node.op_type in _GATES:
            return _GATES[node.op_type]
        following = index.uses.get(node.output[0], []) if node.output else []
        if not following:
            return ""
        node = index.nodes[following[0].node]
    return ""
