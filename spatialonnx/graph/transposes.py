"""Moves ReLUs before the Transposes that an exporter of NHWC networks left in front of them.

ONNX Runtime's optimiser moves Transposes where that makes their number smaller, and may leave one
between a Conv and its ReLU. Values are only moved, so either order gives the same bits.
"""

from __future__ import annotations

from onnx import GraphProto, NodeProto, helper

from spatialonnx.graph.index import attribute, captured, is_op

_ELEMENT_BY_ELEMENT = "Relu", "Clip"


def relus_before_transposes(graph: GraphProto) -> None:
    """Turns Transpose, ReLU into ReLU, Transpose, in place; a ReLU's output gets another name.

    Nodes must be in topological order. Transposes that nothing reads any more are removed.
    """
    taken = {name for node in graph.node for name in node.output}
    taken |= {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    transposes: dict[str, NodeProto] = {}
    nodes: list[NodeProto] = []
    moved: set[str] = set()
    for node in graph.node:
        before = transposes.get(node.input[0]) if is_op(node, *_ELEMENT_BY_ELEMENT) else None
        if before is not None:
            moved.add(node.input[0])
            node, after = _swapped(node, before, taken)
            nodes.append(node)
            node = after
        nodes.append(node)
        if is_op(node, "Transpose") and attribute(node, "perm") is not None:
            transposes[node.output[0]] = node
    if not moved:
        return
    read = {name for node in nodes for name in (*node.input, *captured(node))}
    read |= {value.name for value in graph.output}
    kept = [node for node in nodes if not moved.intersection(node.output) or node.output[0] in read]
    kept = [NodeProto.FromString(node.SerializeToString()) for node in kept]
    del graph.node[:]
    graph.node.extend(kept)


def _swapped(relu: NodeProto, transpose: NodeProto, taken: set[str]) -> tuple[NodeProto, NodeProto]:
    """The ReLU on what the Transpose reads, and a Transpose that writes what the ReLU wrote."""
    output = stem = f"{relu.output[0]}/before"
    count = 0
    while output in taken:
        count += 1
        output = f"{stem}_{count}"
    taken.add(output)
    first = NodeProto()
    first.CopyFrom(relu)
    first.input[0], first.output[0] = transpose.input[0], output
    perm = attribute(transpose, "perm")
    assert perm is not None
    name = f"{relu.name}/transpose"
    return first, helper.make_node(
        "Transpose", [output], list(relu.output), name=name, perm=list(perm.ints)
    )
