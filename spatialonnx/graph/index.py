"""An index of a graph: producers and readers of each tensor, and constants."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx
import onnx.inliner
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper
from onnx.external_data_helper import uses_external_data
from onnx.reference import ReferenceEvaluator

from spatialonnx.errors import ModelError
from spatialonnx.model.interface import settable_inputs

ONNX_DOMAINS = ("", "ai.onnx")
_CONV_ATTRIBUTES = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
_OF_CONSTANTS = (
    *("Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze"),
    "DequantizeLinear",
)
"""Ops whose output is constant if their input is: exporters store weights in many ways."""
_SMALL = 1 << 16
"""Largest number of elements of a constant that is read; bounds and scales are smaller."""


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
        graph = self._graph = proto.graph
        names = [value.name for value in (*graph.input, *graph.output, *graph.value_info)]
        names += [tensor.name for tensor in graph.initializer]
        if not all(isinstance(name, str) for name in names):
            raise ModelError("the names of the model's tensors are not text: export it again")
        self.nodes: list[NodeProto] = list(graph.node)
        self.producer: dict[str, int] = {}
        self.uses: dict[str, list[Use]] = {}
        self.outputs = {value.name for value in graph.output}
        self._opsets = {entry.domain: entry.version for entry in proto.opset_import}
        settable = settable_inputs(proto)
        self._constants: dict[str, TensorProto] = {
            t.name: t for t in graph.initializer if t.name not in settable
        }
        self._stored_in: dict[str, tuple[str, list[NodeProto]]] = {}
        self._sparse = {t.values.name: tuple(t.dims) for t in graph.sparse_initializer}
        for position, node in enumerate(self.nodes):
            if not all(isinstance(text, str) for text in _texts(node)):
                raise ModelError(f"the names of node {position} are not text: export it again")
            for slot, name in enumerate(node.input):
                if name:
                    self.uses.setdefault(name, []).append(Use(position, slot))
            for name in captured(node):
                self.uses.setdefault(name, []).append(Use(position, -1))
            for name in node.output:
                if name:
                    self.producer.setdefault(name, position)
            constant = _constant_tensor(node)
            if constant is not None and node.output:
                self._constants.setdefault(node.output[0], constant)

    def names(self) -> set[str]:
        """Every name that a tensor of the graph or of a subgraph bears."""
        return tensor_names(self._graph)

    def constant_shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of a constant tensor, however it is stored; None if it is not constant."""
        name, steps = self._stored(name)
        if name in self._sparse:
            return self._sparse[name]
        if name not in self._constants:
            return None
        shape: tuple[int, ...] = tuple(self._constants[name].dims)
        for node in reversed(steps):
            if is_op(node, "Transpose"):
                order = attribute(node, "perm")
                axes = list(order.ints) if order is not None else list(range(len(shape)))[::-1]
                if sorted(axes) != list(range(len(shape))):
                    return None
                shape = tuple(shape[axis] for axis in axes)
            elif is_op(node, "Reshape", "Squeeze", "Unsqueeze"):
                array = self.constant_array(node.output[0], most=sys.maxsize)
                if array is None:
                    return None
                shape = array.shape
        return shape

    def constant_type(self, name: str) -> int | None:
        """Element type (``TensorProto.FLOAT`` ...) of a constant tensor; None if it is not one."""
        stored, steps = self._stored(name)
        tensor = self._constants.get(stored)
        if tensor is None:
            return None
        for node in steps:  # the last one counts
            if is_op(node, "Cast"):
                to = attribute(node, "to")
                return None if to is None else to.i
            if is_op(node, "DequantizeLinear"):
                return self.constant_type(node.input[1])
        return tensor.data_type

    def constant_array(self, name: str, most: int = _SMALL) -> NDArray[np.generic] | None:
        """Values of a constant with a limited number of elements, in its own type and shape.

        None if it is larger, damaged or not constant.
        """
        stored, steps = self._stored(name)
        tensor = self._constants.get(stored)
        if tensor is None or uses_external_data(tensor):
            return None
        if any(d < 0 for d in tensor.dims) or prod(tensor.dims) > most:
            return None
        try:
            array: NDArray[np.generic] = numpy_helper.to_array(tensor)
            for node in reversed(steps):
                array = self._apply(node, array)
        except Exception:  # onnx's evaluator raises errors of every kind
            return None
        return array

    def _apply(self, node: NodeProto, array: NDArray[np.generic]) -> NDArray[np.generic]:
        """Evaluates a node on a constant; its further inputs are constants too."""
        further = {
            name: value
            for name in node.input[1:]
            if name and (value := self.constant_array(name)) is not None
        }
        evaluator = ReferenceEvaluator(node, opsets=self._opsets)
        (result,) = evaluator.run(None, {node.input[0]: array, **further})
        return np.asarray(result)

    def scalar(self, name: str) -> float | None:
        """The value of a constant of one element, else None."""
        array = self.constant_array(name)
        return None if array is None or array.size != 1 else float(array.reshape(())[()])

    def _stored(self, name: str) -> tuple[str, list[NodeProto]]:
        """The stored tensor that a constant comes from, and the nodes between, the last first."""
        if name in self._stored_in:
            return self._stored_in[name]
        asked = name
        self._stored_in[asked] = name, []  # ends the search in a cyclic graph
        steps: list[NodeProto] = []
        for _ in range(len(self.nodes)):
            position = self.producer.get(name)
            node = self.nodes[position] if position is not None else None
            if node is None or not is_op(node, *_OF_CONSTANTS) or not node.input:
                break
            if any(x and self.constant_shape(x) is None for x in node.input[1:]):
                break
            if not is_op(node, "Identity"):
                steps.append(node)
            name = node.input[0]
        self._stored_in[asked] = name, steps
        return name, steps


def inline_functions(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model with its functions inlined; the model itself where it has none.

    Raises:
        ModelError: A function cannot be inlined.
    """
    if not proto.functions:
        return proto
    try:
        return onnx.inliner.inline_local_functions(proto)
    except Exception as error:  # the inliner raises errors of several kinds
        raise ModelError(f"the model's functions cannot be inlined: {error}") from None


def _constant_tensor(node: NodeProto) -> TensorProto | None:
    """The value of a Constant node of one number, some numbers or a tensor; None of other nodes."""
    if not is_op(node, "Constant"):
        return None
    for value in node.attribute:
        if value.name == "value":
            return value.t
        if value.name in ("value_float", "value_floats"):
            numbers = value.f if value.name == "value_float" else list(value.floats)
            return numpy_helper.from_array(np.asarray(numbers, np.float32))
        if value.name in ("value_int", "value_ints"):
            whole = value.i if value.name == "value_int" else list(value.ints)
            return numpy_helper.from_array(np.asarray(whole, np.int64))
    return None


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
    """The attributes of a node that ONNX Conv has too."""
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


def defined_names(graph: GraphProto) -> set[str]:
    """Names of the tensors that a graph takes, holds or computes, its subgraphs left out."""
    names = {value.name for value in graph.input}
    names |= {tensor.name for tensor in graph.initializer}
    names |= {tensor.values.name for tensor in graph.sparse_initializer}
    return names.union(*(node.output for node in graph.node))


def tensor_names(graph: GraphProto) -> set[str]:
    """Every name that a tensor of a graph or of its subgraphs bears."""
    names: set[str] = set()
    pending = [graph]
    while pending:
        part = pending.pop()
        names |= defined_names(part)
        names.update(value.name for value in (*part.output, *part.value_info))
        for node in part.node:
            names.update(node.input)
            pending += subgraphs(node)
    return names


def free_name(stem: str, taken: set[str]) -> str:
    """The name ``stem``, numbered where it is taken; it is added to those taken."""
    name, count = stem, 0
    while name in taken:
        count += 1
        name = f"{stem}_{count}"
    taken.add(name)
    return name


def rename_tensors(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Renames tensors of a graph in place, also where its subgraphs read them.

    A subgraph that defines such a name itself means another tensor by it.

    Args:
        graph: The graph.
        names: New names by old one.
    """
    sparse = [tensor.values for tensor in graph.sparse_initializer]
    named: list[ValueInfoProto | TensorProto] = [*graph.input, *graph.output, *graph.value_info]
    for value in [*named, *graph.initializer, *sparse]:
        if value.name in names:
            value.name = names[value.name]
    for node in graph.node:
        for texts in (node.input, node.output):
            if not names.keys().isdisjoint(texts):
                texts[:] = [names.get(name, name) for name in texts]
        for inner in subgraphs(node):
            own = defined_names(inner)
            rename_tensors(inner, {old: new for old, new in names.items() if old not in own})


def inner_nodes(node: NodeProto) -> Iterator[NodeProto]:
    """All nodes in a node's subgraphs, at any depth."""
    pending = subgraphs(node)
    while pending:
        for inner in pending.pop().node:
            yield inner
            pending += subgraphs(inner)


def _texts(node: NodeProto) -> list[object]:
    return [node.name, node.op_type, node.domain, *node.input, *node.output]


def captured(node: NodeProto) -> set[str]:
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
