"""Simplifies a user's graph before sites are searched.

The simplifier is ONNX Runtime's own basic optimiser: it folds BatchNormalization and Mul / Add
into Convs, drops Identities and no-op Casts, folds constants and moves Transposes out of the way.
``benchmarks/simplifiers.py`` compares it with onnxslim and onnxsim. It finds the most sites, and
because ONNX Runtime rewrites the original in the same way, outputs stay equal to the last bit.
"""

from __future__ import annotations

import heapq
import logging

import onnx
from onnx import NodeProto, TensorProto

from spatialonnx.graph.index import attribute, inline_functions, inner_nodes, is_op
from spatialonnx.graph.notes import restore_notes
from spatialonnx.graph.shapes import correct_value_info
from spatialonnx.graph.transposes import relus_before_transposes
from spatialonnx.model.copying import copy_around
from spatialonnx.model.interface import FIRST_IR_WITH_FREE_WEIGHTS, settable_inputs
from spatialonnx.model.model_file import PROTOBUF_LIMIT
from spatialonnx.runtime.session import optimize_model

_QUANTIZED = "QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger"
_LOG = logging.getLogger(__name__)


def prepare_model(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model with its functions inlined, its weights constant and its nodes named.

    Initializers that are also graph inputs could be replaced at run time, so nothing may be
    folded into them; as constants they can be. An input with a default that was meant to be set
    stays one. Names are unique afterwards, and value_info says the sizes that the network has.

    Raises:
        ModelError: A function cannot be inlined.
    """
    copy = inline_functions(proto)
    if copy is proto:
        copy = onnx.ModelProto()
        copy.CopyFrom(proto)
    weights = {t.name for t in copy.graph.initializer} - settable_inputs(copy)
    inputs = [value for value in copy.graph.input if value.name not in weights]
    if len(inputs) < len(copy.graph.input):
        copy.ir_version = max(copy.ir_version, FIRST_IR_WITH_FREE_WEIGHTS)
        del copy.graph.input[:]
        copy.graph.input.extend(inputs)
    name_nodes(copy)
    _sort_nodes(copy)
    copy.graph.name = copy.graph.name or "graph"
    correct_value_info(copy)
    return copy


def _sort_nodes(proto: onnx.ModelProto) -> None:
    """Sorts nodes topologically where they are not: ONNX Runtime takes any order."""
    known = {value.name for value in proto.graph.input} | {""}
    known |= {tensor.name for tensor in proto.graph.initializer}
    known |= {tensor.values.name for tensor in proto.graph.sparse_initializer}
    for node in proto.graph.node:
        if not known.issuperset(node.input):
            nodes = _in_order(proto, proto)
            copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
            del proto.graph.node[:]
            proto.graph.node.extend(copies)
            return
        known.update(node.output)


def name_nodes(proto: onnx.ModelProto, reserved: frozenset[str] = frozenset()) -> None:
    """Gives every node of the main graph a unique name, in place.

    Args:
        proto: The model.
        reserved: Names that no node may keep.
    """
    taken = set(reserved) | {node.name for node in proto.graph.node}
    seen = set(reserved)
    for position, node in enumerate(proto.graph.node):
        if not node.name or node.name in seen:
            stem = node.name or f"{node.op_type}_{position}"
            name, count = stem, 0
            while name in taken:
                count += 1
                name = f"{stem}_{count}"
            node.name = name
            taken.add(name)
        seen.add(node.name)


def simplify_model(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Simplifies a prepared model; its inputs, outputs, metadata and node order stay.

    Some models are returned unchanged: those too large to be passed in memory, those with sparse
    weights, which ONNX Runtime does not write back, and those with quantised or half-precision
    parts, which it would rewrite for this machine's processor.

    Raises:
        ModelError: ONNX Runtime cannot load the model.
    """
    if proto.ByteSize() > PROTOBUF_LIMIT:
        _LOG.warning("the model is too large to be simplified: its graph is taken as it is")
        return proto
    if proto.graph.sparse_initializer or _is_low_precision(proto):
        _LOG.info("the model has sparse, quantised or half-precision parts: it is not simplified")
        return proto
    optimized = optimize_model(proto)
    result = copy_around(proto)
    graph = result.graph
    graph.node.extend(_in_order(optimized, proto))
    graph.initializer.extend(optimized.graph.initializer)
    graph.value_info.extend(optimized.graph.value_info)
    present = {entry.domain for entry in result.opset_import}
    used = {n.domain for node in graph.node for n in (node, *inner_nodes(node))}
    for entry in optimized.opset_import:
        if entry.domain in used - present:
            result.opset_import.append(entry)
    relus_before_transposes(graph)
    name_nodes(result)
    restore_notes(proto.graph, graph)
    return result


def _is_low_precision(proto: onnx.ModelProto) -> bool:
    graph = proto.graph
    kinds = {tensor.data_type for tensor in graph.initializer}
    kinds |= {value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info)}
    for node in graph.node:
        if is_op(node, *_QUANTIZED):
            return True
        if is_op(node, "Cast") and (to := attribute(node, "to")) is not None:
            kinds.add(to.i)
    return bool(kinds & {TensorProto.FLOAT16, TensorProto.BFLOAT16})


def _in_order(optimized: onnx.ModelProto, original: onnx.ModelProto) -> list[NodeProto]:
    """The optimised nodes, sorted topologically and otherwise as in the original.

    The order of nodes decides which of two equal Convs is charged, and the optimiser does not
    keep it.
    """
    by_name = {node.name: i for i, node in enumerate(original.graph.node)}
    by_output = {name: i for i, node in enumerate(original.graph.node) for name in node.output}
    nodes = list(optimized.graph.node)
    producer = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    waiting: list[int] = []
    readers: list[list[int]] = [[] for _ in nodes]
    rank: list[int] = []
    for i, node in enumerate(nodes):
        names = {name for n in (node, *inner_nodes(node)) for name in n.input}
        sources = {producer[name] for name in names if name in producer} - {i}
        for source in sources:
            readers[source].append(i)
        waiting.append(len(sources))
        known = [by_output[name] for name in node.output if name in by_output]
        rank.append(by_name.get(node.name, min(known, default=len(by_name))))
    ready = [(rank[i], i) for i, count in enumerate(waiting) if not count]
    heapq.heapify(ready)
    ordered = []
    while ready:
        _, i = heapq.heappop(ready)
        ordered.append(nodes[i])
        for reader in readers[i]:
            waiting[reader] -= 1
            if not waiting[reader]:
                heapq.heappush(ready, (rank[reader], reader))
    return ordered if len(ordered) == len(nodes) else nodes
