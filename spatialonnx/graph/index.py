"""Who writes and who reads each tensor of a graph, and which tensors are constant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, numpy_helper
from onnx.external_data_helper import uses_external_data

from spatialonnx.errors import ModelError

ONNX_DOMAINS = ("", "ai.onnx")
_CONV_ATTRIBUTES = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
_SMALL = 1 << 16
"""Elements up to which a constant's values are read; no bound or scale of ours is larger."""


@dataclass(frozen=True)
class Use:
    """One reading of a tensor.

    Attributes:
        node: Position of the reading node in the graph.
        slot: Position among the node's inputs; -1 where a subgraph of the node reads it.
    """

    node: int
    slot: int


class GraphIndex:
    """An index of a model's main graph; it holds references to the model, no copies.

    Attributes:
        nodes: The nodes in graph order.
        producer: Position of the node that writes a tensor, by tensor name.
        uses: Readings of a tensor, by tensor name.
        outputs: Names of the graph's outputs.
    """

    def __init__(self, proto: onnx.ModelProto) -> None:
        """Indexes the main graph; subgraphs count as readers of what they capture.

        Raises:
            ModelError: A name is not text: protobuf hands out undecodable bytes as they are.
        """
        graph = proto.graph
        names = [value.name for value in (*graph.input, *graph.output, *graph.value_info)]
        names += [tensor.name for tensor in graph.initializer]
        if not all(isinstance(name, str) for name in names):
            raise ModelError("the names of the model's tensors are not text: export it again")
        self.nodes: list[NodeProto] = list(graph.node)
        self.producer: dict[str, int] = {}
        self.uses: dict[str, list[Use]] = {}
        self.outputs = {value.name for value in graph.output}
        self._constants: dict[str, TensorProto] = {t.name: t for t in graph.initializer}
        self._sparse = {t.values.name: tuple(t.dims) for t in graph.sparse_initializer}
        for position, node in enumerate(self.nodes):
            if not all(isinstance(text, str) for text in _texts(node)):
                raise ModelError(f"the names of node {position} are not text: export it again")
            for slot, name in enumerate(node.input):
                if name:
                    self.uses.setdefault(name, []).append(Use(position, slot))
            for name in _captured(node):
                self.uses.setdefault(name, []).append(Use(position, -1))
            for name in node.output:
                if name:
                    self.producer.setdefault(name, position)
            if is_op(node, "Constant") and node.output:
                for attribute in node.attribute:
                    if attribute.name == "value":
                        self._constants.setdefault(node.output[0], attribute.t)

    def constant_shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of a constant tensor, seen through Identity nodes; None if it is not constant."""
        name = self._origin(name)
        if name in self._constants:
            return tuple(self._constants[name].dims)
        return self._sparse.get(name)

    def constant_type(self, name: str) -> int | None:
        """Element type (``TensorProto.FLOAT`` ...) of a constant tensor; None if it is not one."""
        tensor = self._constants.get(self._origin(name))
        return None if tensor is None else tensor.data_type

    def constant_array(self, name: str, most: int = _SMALL) -> NDArray[np.generic] | None:
        """Values of a constant of at most so many elements, in its own type and shape.

        None if it is larger, damaged or no constant.
        """
        tensor = self._constants.get(self._origin(name))
        if tensor is None or uses_external_data(tensor):
            return None
        if any(d < 0 for d in tensor.dims) or prod(tensor.dims) > most:
            return None
        try:
            return numpy_helper.to_array(tensor)
        except (ValueError, TypeError, KeyError):
            return None

    def scalar(self, name: str) -> float | None:
        """The value of a constant of one element; None if it is none."""
        array = self.constant_array(name)
        return None if array is None or array.size != 1 else float(array.reshape(())[()])

    def _origin(self, name: str) -> str:
        for _ in range(len(self.nodes)):
            position = self.producer.get(name)
            node = self.nodes[position] if position is not None else None
            if node is None or not is_op(node, "Identity") or not node.input:
                break
            name = node.input[0]
        return name


def is_op(node: NodeProto, *op_types: str) -> bool:
    """Whether a node is one of these standard ONNX ops."""
    return node.op_type in op_types and node.domain in ONNX_DOMAINS


def op_label(node: NodeProto) -> str:
    """How messages name a node's op: with its domain where it is not a standard one."""
    return node.op_type if node.domain in ONNX_DOMAINS else f"{node.domain}.{node.op_type}"


def node_label(node: NodeProto) -> str:
    """A node's name, or its first output where it has none."""
    return node.name or next((name for name in node.output if name), node.op_type)


def attribute(node: NodeProto, name: str) -> AttributeProto | None:
    """A node's attribute, or None."""
    return next((a for a in node.attribute if a.name == name), None)


def conv_attributes(node: NodeProto) -> list[AttributeProto]:
    """The attributes of a node that are those of ONNX Conv."""
    return [value for value in node.attribute if value.name in _CONV_ATTRIBUTES]


def subgraphs(node: NodeProto) -> list[GraphProto]:
    """The graphs among a node's attributes (bodies of If, Loop, Scan)."""
    found = []
    for value in node.attribute:
        if value.type == AttributeProto.GRAPH:
            found.append(value.g)
        elif value.type == AttributeProto.GRAPHS:
            found.extend(value.graphs)
    return found


def inner_nodes(node: NodeProto) -> Iterator[NodeProto]:
    """All nodes in a node's subgraphs, at any depth."""
    pending = subgraphs(node)
    while pending:
        for inner in pending.pop().node:
            yield inner
            pending += subgraphs(inner)


def _texts(node: NodeProto) -> list[object]:
    return [node.name, node.op_type, node.domain, *node.input, *node.output]


def _captured(node: NodeProto) -> set[str]:
    """Names that a node's subgraphs read, those they define themselves included.

    A name which a subgraph defines shadows none of the outer graph's: ONNX forbids it.
    """
    names: set[str] = set()
    pending = subgraphs(node)
    while pending:
        graph = pending.pop()
        names.update(value.name for value in graph.output)
        for inner in graph.node:
            names.update(name for name in inner.input if name)
            pending += subgraphs(inner)
    return names
