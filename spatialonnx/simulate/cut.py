"""Cutting a graph at its sites.

The sites are numbered 1 to L in graph order. A node belongs to segment j where j is the last site
among the nodes it depends on (0: none). Segment j >= 1 begins with site j's prediction. The
activations *before* segment j are all tensors made before it and read in it or behind it: site j's
ofmap, and what else is carried past the site, for example by a residual connection. Running all
segments in order is running the network.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, helper

from spatialonnx.errors import ModelError
from spatialonnx.graph.index import GraphIndex, is_op, node_label
from spatialonnx.graph.instrument import promote_node
from spatialonnx.graph.ops import DOMAIN, Predictor, find_predictors
from spatialonnx.graph.shapes import Shapes
from spatialonnx.graph.site_match import weight_name
from spatialonnx.model.interface import find_image_input, model_inputs
from spatialonnx.plan.macs import macs_per_output
from spatialonnx.plan.masks import SiteMask
from spatialonnx.simulate.activation_store import Array


@dataclass(frozen=True)
class Segment:
    """One part of a graph.

    Attributes:
        predictor: The prediction that it begins with; None for the first part.
        nodes: Positions of its nodes in the graph. Nodes that compute constants or shapes may
            belong to several segments.
        inputs: Activations that it reads.
        outputs: Activations that it makes and that a later segment, or the user, reads.
    """

    predictor: Predictor | None
    nodes: tuple[int, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Cut:
    """A graph cut at its sites.

    Attributes:
        image: Name of the image input.
        segments: L + 1 of them.
        live: Names of the activations before every segment; one more entry, the graph's
            outputs, behind the last.
    """

    image: str
    segments: tuple[Segment, ...]
    live: tuple[tuple[str, ...], ...]


def cut_graph(proto: ModelProto) -> Cut:
    """Cuts a model with SpatialPredict nodes at its sites.

    Raises:
        ModelError: It has no site, takes no images, reads a site's ofmap in front of the
            prediction, or a site's ofmap does not depend on the images.
    """
    index = GraphIndex(proto)
    predictors = find_predictors(proto)
    if not predictors:
        raise ModelError("the model holds no predictions: run spatialonnx insert first")
    numbers = {p.output: k for k, p in enumerate(predictors, start=1)}
    promoted = {name for p in predictors for name in p.promoted}
    taken = [value for value in model_inputs(proto) if value.name not in promoted]
    inputs = [value.name for value in taken]
    for predictor in predictors:
        if len(index.uses[predictor.source]) > 1 or predictor.source in index.outputs:
            raise ModelError(
                f"site {predictor.site}: something reads its ofmap before it is predicted: insert "
                "into the original model again"
            )
    reads = _reads(index, set(index.producer) | set(inputs))
    level = dict.fromkeys(inputs, 0)
    repeatable: set[int] = set()
    copied: set[int] = set()
    members: list[list[int]] = [[] for _ in range(len(predictors) + 1)]
    for position, node in enumerate(index.nodes):
        if not reads[position] <= level.keys():
            raise ModelError(
                f"node {node_label(node)!r} reads what a later node gives: the model's nodes are "
                "not sorted; run insert on the original model"
            )
        depth = max((level[name] for name in reads[position]), default=0)
        if node.output and node.output[0] in numbers:
            depth = numbers[node.output[0]]
        if is_op(node, "Shape", "Size") or all(
            index.producer.get(name) in repeatable for name in reads[position]
        ):
            repeatable.add(position)
        elif is_op(node, "DequantizeLinear"):
            # 8-bit values are kept, not floats: ONNX Runtime fuses where it sees both ends.
            copied.add(position)
        else:
            members[depth].append(position)
        level.update((name, depth) for name in node.output if name)
    outputs = [value.name for value in proto.graph.output]
    repeatable |= copied
    for predictor in predictors:
        maker = index.producer.get(predictor.source)
        if (maker is None and predictor.source not in inputs) or maker in repeatable:
            raise ModelError(
                f"site {predictor.site}: no node computes its ofmap from the images: insert into "
                "the original model again"
            )
    closed = [_close(index, reads, repeatable, nodes) for nodes in members]
    last = [index.producer[n] for n in outputs if index.producer.get(n) in repeatable]
    closed[-1] = _close(index, reads, repeatable, [*closed[-1], *last])
    needs = [_needs(index, reads, nodes) for nodes in closed]
    live, segments = _cut(index, inputs, outputs, predictors, closed, needs, repeatable)
    return Cut(find_image_input(taken).name, segments, live)


def _cut(
    index: GraphIndex,
    inputs: Sequence[str],
    outputs: Sequence[str],
    predictors: Sequence[Predictor],
    closed: Sequence[Sequence[int]],
    needs: Sequence[set[str]],
    repeatable: set[int],
) -> tuple[tuple[tuple[str, ...], ...], tuple[Segment, ...]]:
    """The live tensors before every segment, and the segments."""
    born = dict.fromkeys(inputs, -1)
    for number, nodes in enumerate(closed):
        for position in nodes:
            if position not in repeatable or number == len(closed) - 1:
                born.update(
                    (name, number)
                    for name in index.nodes[position].output
                    if name and name not in born
                )
    dies = {name: j for j, names in enumerate(needs) for name in names}  # the last one stays
    dies |= {name: len(closed) for name in outputs}
    live = [
        tuple(name for name, j in born.items() if j < k and dies.get(name, -1) >= k)
        for k in range(len(closed))
    ]
    segments = tuple(
        Segment(
            predictor=predictors[j - 1] if j else None,
            nodes=tuple(nodes),
            inputs=tuple(name for name in live[j] if name in needs[j]),
            outputs=tuple(n for n, made in born.items() if made == j and dies.get(n, -1) > j),
        )
        for j, nodes in enumerate(closed)
    )
    return (*live, tuple(outputs)), segments


def _reads(index: GraphIndex, known: set[str]) -> list[set[str]]:
    """The computed tensors that every node reads, in its subgraphs too."""
    reads: list[set[str]] = [set() for _ in index.nodes]
    for name, uses in index.uses.items():
        if name in known:
            for use in uses:
                reads[use.node].add(name)
    return reads


def _close(
    index: GraphIndex, reads: list[set[str]], repeatable: set[int], nodes: Sequence[int]
) -> list[int]:
    """Nodes, and the repeatable ones that they need, in graph order."""
    found = set(nodes)
    pending = list(nodes)
    while pending:
        for name in reads[pending.pop()]:
            maker = index.producer.get(name)
            if maker in repeatable and maker not in found:
                assert maker is not None
                found.add(maker)
                pending.append(maker)
    return sorted(found)


def _needs(index: GraphIndex, reads: list[set[str]], nodes: Sequence[int]) -> set[str]:
    made = {name for position in nodes for name in index.nodes[position].output}
    return {name for position in nodes for name in reads[position]} - made


def segment_macs(proto: ModelProto, cut: Cut, shapes: Shapes) -> tuple[int, ...]:
    """MACs of the Conv nodes of every segment, for one image.

    Args:
        proto: The model.
        cut: How it is cut.
        shapes: Its tensors' shapes, for the size of the images that are run.
    """
    index = GraphIndex(proto)
    totals = []
    for segment in cut.segments:
        total = 0
        for position in segment.nodes:
            node = index.nodes[position]
            if is_op(node, "Conv", "QLinearConv"):
                weight = index.constant_shape(weight_name(node)) or ()
                total += macs_per_output(weight) * (shapes.outputs_per_image(node.output[0]) or 0)
        totals.append(total)
    return tuple(totals)


def segment_model(
    proto: ModelProto,
    cut: Cut,
    number: int,
    activations: Mapping[str, Array],
    initializers: Mapping[str, TensorProto],
) -> ModelProto:
    """A model of one segment; its site's mask, patch size and threshold are inputs.

    Args:
        proto: The whole model.
        cut: How it is cut.
        number: The segment.
        activations: An example of its inputs, for types and shapes.
        initializers: Initializers of the whole model, by name.
    """
    segment = cut.segments[number]
    graph = GraphProto(name=f"segment {number}")
    for position in segment.nodes:
        graph.node.add().CopyFrom(proto.graph.node[position])
    used = set(GraphIndex(ModelProto(graph=graph)).uses)
    promoted: set[str] = set()
    for name in segment.inputs:
        graph.input.append(_value_info(name, activations[name]))
    graph.output.extend(ValueInfoProto(name=name) for name in segment.outputs)
    if segment.predictor is not None:
        predictor = segment.predictor
        promoted = set(predictor.promoted)
        # ORT's fusions need the shape, which its inference does not know for a custom op.
        graph.value_info.append(_value_info(predictor.output, activations[predictor.source]))
        for node in graph.node:
            if node.domain == DOMAIN and node.name == predictor.site:
                graph.input.extend(promote_node(node, predictor))
                del node.output[1:]
                node.output.append(predictor.skipped)
        count = helper.make_tensor_value_info(predictor.skipped, TensorProto.INT64, [None] * 2)
        graph.output.append(count)
    graph.initializer.extend(initializers[n] for n in used - promoted if n in initializers)
    graph.sparse_initializer.extend(
        t for t in proto.graph.sparse_initializer if t.values.name in used
    )
    return ModelProto(
        ir_version=proto.ir_version,
        opset_import=proto.opset_import,
        functions=proto.functions,
        graph=graph,
    )


def _value_info(name: str, array: Array) -> ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor_value_info(name, kind, [None, *array.shape[1:]])


def mask_numbers(
    predictors: Iterable[Predictor], plan: Mapping[str, SiteMask]
) -> dict[int, SiteMask]:
    """A plan's masks by number of the site; full ones are left out."""
    return {
        k: plan[p.site]
        for k, p in enumerate(predictors, start=1)
        if p.site in plan and not plan[p.site].is_full
    }
