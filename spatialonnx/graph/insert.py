"""Inserting predictions: one SpatialPredict node behind every site's ReLU."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import NodeProto, helper
from onnx_graphsurgeon.logger import G_LOGGER

from spatialonnx.errors import ModelError, UsageError
from spatialonnx.graph.carrying_plan import carry_plan
from spatialonnx.graph.equivalence import (
    Difference,
    compare_models,
    run_original,
)
from spatialonnx.graph.index import (
    GraphIndex,
    defined_names,
    free_name,
    inner_nodes,
    is_op,
    rename_tensors,
    subgraphs,
    tensor_names,
)
from spatialonnx.graph.notes import restore_notes
from spatialonnx.graph.ops import (
    CODES_PATCH_SIZE,
    DOMAIN,
    PREDICT,
    add_opset,
    mask_name,
    measuring_names,
    patch_size_name,
    write_plan,
    zero_point_name,
)
from spatialonnx.graph.shapes import infer_shapes
from spatialonnx.graph.simplify import name_nodes, prepare_model, simplify_model
from spatialonnx.graph.site_match import SkippedConv
from spatialonnx.graph.sites import Site, SiteReport, find_sites, require_sites
from spatialonnx.model.checking import check_interface, check_model
from spatialonnx.model.copying import add_initializers, copy_around
from spatialonnx.model.interface import (
    TensorInfo,
    describe_shape,
    find_further_inputs,
    find_image_input,
    model_inputs,
)
from spatialonnx.model.metadata import ORIGINAL, fixed_batch, model_stage, set_metadata
from spatialonnx.model.model_file import ModelFile, ModelLike, as_model, save_model, set_batch
from spatialonnx.plan.masks import SiteMask, full_mask, uniform_mask
from spatialonnx.plan.patterns import parse_pattern
from spatialonnx.runtime.session import Runtime

_LOG = logging.getLogger(__name__)
_EXPORTED = "tensor_type", "sequence_type", "sparse_tensor_type"
"""The types of values that graphsurgeon can export."""
_FLOATS = (
    *(onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16),
    *(onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16),
)


@dataclass(frozen=True, eq=False)
class Insertion:
    """What inserting gave.

    Attributes:
        model: The model, of stage ``spatial``, or ``masked`` where a pattern or a plan was given.
        sites: Its sites, in graph order.
        skipped: Convs that are no site, with the reason.
        conv_macs: MACs of all Conv nodes for one sample; None where shapes are dynamic.
        difference: How its outputs with full masks differ from the original's.
        frozen: Inputs with default values that are constants now: a model that lists all of its
            weights as inputs does not say which were meant to be set.
    """

    model: onnx.ModelProto
    sites: tuple[Site, ...]
    skipped: tuple[SkippedConv, ...]
    conv_macs: int | None
    difference: Difference
    frozen: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What later commands will need, or refuse: one line each."""
        inputs = model_inputs(self.model)
        try:
            image, further = find_image_input(inputs), find_further_inputs(inputs)
        except ModelError as error:
            return (f"{error}: later commands will refuse it",)
        notes = []
        if self.frozen:
            notes.append(
                f"the model lists all {len(self.frozen)} weights as inputs ({self.frozen[0]} and "
                "others): they are constants now"
            )
        if branching := self._branching():
            notes.append(
                f"{branching} depends on what is in an image: search will refuse it where that "
                "stands between sites"
            )
        fixed = [v for v in further if not v.shape or v.shape[0] not in (None, image.shape[0])]
        if rows := _list_inputs(v for v in further if v not in fixed):
            notes.append(
                f"images go to {image.name}; the model also takes {rows}: later commands need "
                "arrays of these names beside x and y, in an npz file or a dict"
            )
        if fixed:
            notes.append(
                f"the model also takes {_list_inputs(fixed)}, without a row per image: later "
                "commands will refuse it; make it a constant of the model first"
            )
        if self.conv_macs is None and None not in image.shape[1:]:
            notes.append(
                "the sizes of its maps depend on what is in an image: MACs cannot be counted, and "
                "search will refuse it"
            )
        outputs = self.model.graph.output
        if not any(_may_be_logits(output) for output in outputs):
            notes.append(
                f"no output ({', '.join(output.name for output in outputs)}) has the shape "
                "[samples, classes]: later commands need --metric python:module:function"
            )
        return tuple(notes)

    def _branching(self) -> str:
        """The first node whose subgraphs run as the data have it; empty where there is none."""
        nodes = (node for node in self.model.graph.node if is_op(node, "If", "Loop", "Scan"))
        return next((f"{node.op_type} {node.name}" for node in nodes), "")

    def to_json(self) -> dict[str, Any]:
        """The object that ``insert --json`` prints, but for the path of the output."""
        report = SiteReport(self.sites, self.skipped, self.conv_macs).to_json()
        return {**report, "notes": list(self.notes)}

    def save(self, path: str | Path) -> Path:
        """Writes the model, whole or not at all; a file of this name is replaced.

        Returns:
            The file.

        Raises:
            OutputError: It cannot be written.
        """
        path = Path(path)
        save_model(self.model, path)
        return path


def insert(
    model: ModelLike,
    *,
    include: str | None = None,
    exclude: str | None = None,
    patch_size: int = 2,
    pattern: str | None = None,
    threshold: float = 0.0,
    plan: ModelLike | None = None,
    model_batch: int | None = None,
    simplify: bool = True,
    threads: int = 0,
) -> Insertion:
    """Inserts a SpatialPredict node behind every site's ReLU and checks the result.

    With full masks, which predict nothing, the model computes what the original computes.

    Args:
        model: The user's model: a path or an ``onnx.ModelProto``.
        include: Only sites whose name holds a match of this regular expression are taken.
        exclude: Sites whose name holds a match of this one are not.
        patch_size: Of the full masks.
        pattern: A plan by hand: this pattern, such as ``1001``, in every patch of every site.
        threshold: Of the plan by hand: a probe counts as zero when its value is at most this, in
            the units of the ofmaps.
        plan: A model whose plan is taken over: its network was exported again.
        model_batch: Images that the model takes at once, where its input leaves their number open
            and a Reshape inside does not; None = that is found out.
        simplify: Whether the graph is simplified first.
        threads: Threads of the check, which runs on the CPU; 0 = all processors.

    Raises:
        ModelError: The model is not valid, holds no site or holds predictions already, or its
            outputs change although every mask is full.
        PlanError: The patch size, the pattern or the threshold is not allowed, or the plan is of
            another network.
        UsageError: ``include`` or ``exclude`` is no regular expression, or leaves no site; a
            threshold without a pattern; both a pattern and a plan; another batch than the input's.
    """
    if pattern is not None and plan is not None:
        raise UsageError("--pattern and --plan: give one of them")
    source = set_batch(as_model(model), model_batch)
    runtime = Runtime("cpu", threads)
    mask = full_mask(patch_size)
    by_hand = None
    if pattern is not None:
        number, size = parse_pattern(pattern)
        mask, by_hand = full_mask(size), uniform_mask(size, number, threshold)
    elif threshold:
        raise UsageError("--threshold goes with --pattern: without it nothing is predicted")
    _check_original(source)
    prepared = prepare_model(source.proto)
    check_model(prepared, str(source.path))
    network = simplify_model(prepared) if simplify else prepared
    report = _free_counts(network, include, exclude)
    original = run_original(source.proto, prepared, runtime)
    if original.only_batch is not None and fixed_batch(network) is None:
        set_metadata(network, batch=str(original.only_batch))
        report = _select(find_sites(network), include, exclude)
    del prepared  # copies of a large model add up
    spatial = _insert(network, report.sites, mask)
    set_metadata(spatial, stage="spatial", source_sha256=source.sha256)
    check_model(spatial, "the model with predictions")
    check_interface(source.proto, spatial)
    difference = compare_models(original, network, spatial, runtime)
    if by_hand is not None:
        spatial = write_plan(spatial, {site.name: by_hand for site in report.sites})
    elif plan is not None:
        spatial = write_plan(spatial, carry_plan(as_model(plan).proto, spatial))
    if by_hand is not None or plan is not None:
        set_metadata(spatial, stage="masked")
        check_model(spatial, "the model with its plan")
    kept = {value.name for value in spatial.graph.input}
    frozen = tuple(v.name for v in source.proto.graph.input if v.name not in kept)
    return Insertion(spatial, report.sites, report.skipped, report.conv_macs, difference, frozen)


def _free_counts(network: onnx.ModelProto, include: str | None, exclude: str | None) -> SiteReport:
    """Renames tensors that bear names of what is counted, in place; returns the chosen sites."""
    report = find_sites(network)
    require_sites(report)
    report = _select(report, include, exclude)
    counts = {CODES_PATCH_SIZE}
    for site in report.sites:
        counts |= {*measuring_names(site.name)}
    counts &= defined_names(network.graph)
    if not counts:
        return report
    values = (*network.graph.input, *network.graph.output)
    if fixed := sorted(counts.intersection(value.name for value in values)):
        raise ModelError(
            f"{fixed[0]}, an input or output of the model, has the name that counts of a site "
            "take: rename it, or leave the site out with --exclude"
        )
    taken = tensor_names(network.graph)
    rename_tensors(network.graph, {name: free_name(name, taken) for name in sorted(counts)})
    return _free_counts(network, include, exclude)


def _list_inputs(inputs: Iterable[TensorInfo]) -> str:
    return ", ".join(f"{v.name} {describe_shape(v.shape)} {v.type}" for v in inputs)


def _may_be_logits(output: onnx.ValueInfoProto) -> bool:
    """Whether an output may be [samples, classes]; of an unknown shape, it may."""
    kind = output.type.tensor_type
    if kind.elem_type not in _FLOATS:
        return False
    if not kind.HasField("shape"):
        return True
    dims = kind.shape.dim
    return len(dims) >= 2 and all(dim.dim_value in (0, 1) for dim in dims[2:])


def _check_original(model: ModelFile) -> None:
    GraphIndex(model.proto)  # refuses names that are no text
    nodes = (n for node in model.proto.graph.node for n in (node, *inner_nodes(node)))
    if model_stage(model.proto) != ORIGINAL or any(node.domain == DOMAIN for node in nodes):
        raise ModelError(
            f"{model.path} holds predictions already, and inserting twice is refused: insert into "
            "the original model that it was made from"
        )


def _select(report: SiteReport, include: str | None, exclude: str | None) -> SiteReport:
    """Keeps the sites that the user wants; the others are listed as skipped."""
    wanted = _regex("--include", include)
    unwanted = _regex("--exclude", exclude)
    sites: list[Site] = []
    skipped = list(report.skipped)
    for site in report.sites:
        if wanted is not None and not wanted.search(site.name):
            skipped.append(SkippedConv(site.conv, f"site {site.name} does not match --include"))
        elif unwanted is not None and unwanted.search(site.name):
            skipped.append(SkippedConv(site.conv, f"site {site.name} matches --exclude"))
        else:
            sites.append(site)
    if not sites:
        raise UsageError(
            f"--include and --exclude leave none of the {len(report.sites)} sites, such as "
            f"{report.sites[0].name}; they are regular expressions searched for in site names"
        )
    return replace(report, sites=tuple(sites), skipped=tuple(skipped))


def _regex(option: str, text: str | None) -> re.Pattern[str] | None:
    try:
        return None if text is None else re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise UsageError(f"{option} {text!r} is not a regular expression: {error}") from None


def _insert(network: onnx.ModelProto, sites: tuple[Site, ...], mask: SiteMask) -> onnx.ModelProto:
    """A model with a SpatialPredict node behind each site's ReLU.

    Nodes of the given one that are named like a site get another name.
    """
    name_nodes(network, frozenset(site.name for site in sites))
    G_LOGGER.severity = G_LOGGER.ERROR  # it warns of outputs that are no tensors
    graph = gs.import_onnx(_skeleton(network))
    tensors = graph.tensors()
    taken = tensor_names(network.graph)
    written = {site.name: _add_predictor(graph, tensors, taken, site, mask) for site in sites}
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Variable) and tensor.type not in _EXPORTED:
            tensor.dtype = None  # the exporter leaves its type out
    # The exporter rebuilds the graph alone; all but the names that nodes read is the model's.
    graph.name, graph.doc_string, graph.producer_name, graph.producer_version = "graph", "", "", ""
    exported = gs.export_onnx(graph, do_type_check=False).graph
    result = copy_around(network)
    originals = iter(network.graph.node)
    for node in exported.node:
        copy = result.graph.node.add()
        copy.CopyFrom(node if node.domain == DOMAIN else next(originals))
        if node.domain != DOMAIN:
            _rewire(copy, node)
    read = GraphIndex(network).uses.keys() | {v.name for v in network.graph.output}
    read |= {v.name for v in network.graph.input}
    add_initializers(result, (t for t in network.graph.initializer if t.name in read))
    add_initializers(result, exported.initializer)
    add_opset(result)
    _describe(result, exported, network, {site: written[site.name] for site in sites})
    restore_notes(network.graph, result.graph)
    return result


def _skeleton(network: onnx.ModelProto) -> onnx.ModelProto:
    """A model's nodes without weights and attributes, some of which graphsurgeon drops."""
    result = copy_around(network)
    result.graph.node.extend(map(_bare, network.graph.node))
    result.graph.value_info.extend(network.graph.value_info)
    return result


def _bare(node: NodeProto) -> NodeProto:
    """A node with its inputs and outputs, and with nothing else but those of its subgraphs."""
    result = helper.make_node(
        node.op_type, node.input, node.output, name=node.name, domain=node.domain
    )
    for inner in subgraphs(node):
        given = defined_names(inner).difference(*(n.output for n in inner.node))
        part = onnx.GraphProto(
            name=inner.name,
            node=map(_bare, inner.node),
            input=[onnx.ValueInfoProto(name=name) for name in sorted(given)],
            output=[onnx.ValueInfoProto(name=value.name) for value in inner.output],
        )
        attribute = helper.make_attribute(f"graph_{len(result.attribute)}", part)
        result.attribute.append(attribute)
    return result


def _rewire(node: NodeProto, like: NodeProto) -> None:
    """Gives a node the inputs and outputs of another, and so to those in its subgraphs."""
    node.input[:], node.output[:] = like.input, like.output
    for inner, other in zip(subgraphs(node), subgraphs(like), strict=True):
        for value, renamed in zip(inner.output, other.output, strict=True):
            value.name = renamed.name
        for inner_node, other_node in zip(inner.node, other.node, strict=True):
            _rewire(inner_node, other_node)


def _add_predictor(
    graph: gs.Graph, tensors: dict[str, gs.Tensor], taken: set[str], site: Site, mask: SiteMask
) -> str:
    """Adds one node; returns the name of the tensor that it writes.

    The map of a quantised site is predicted between QuantizeLinear and DequantizeLinear, so that
    ONNX Runtime still fuses its 8-bit kernels around the node.
    """
    name, source = site.name, tensors[site.tensor]
    readers = list(source.outputs)
    predicted = gs.Variable(free_name(f"{name}/predicted", taken), dtype=np.dtype(site.dtype))
    for reader in readers:
        reader.inputs = [predicted if tensor is source else tensor for tensor in reader.inputs]
    if any(output is source for output in graph.outputs):
        # The graph's output keeps its name, so the ReLU's own output gets another one.
        graph.outputs = [predicted if o is source else o for o in graph.outputs]
        output = source.name
        source.name, predicted.name = free_name(f"{name}/relu", taken), output
    inputs = [
        source,
        gs.Constant(free_name(mask_name(name), taken), np.asarray(mask.patterns)),
        gs.Constant(free_name(patch_size_name(name), taken), np.asarray(mask.patch_size, np.int64)),
    ]
    if site.is_quantized:
        zero = np.zeros((), np.dtype(site.dtype))
        default = gs.Constant(free_name(zero_point_name(name), taken), zero)
        inputs += [gs.Variable.empty(), tensors.get(site.zero_point, default)]
    node = gs.Node(PREDICT, name=name, domain=DOMAIN, inputs=inputs, outputs=[predicted])
    # Right behind the ReLU: nodes keep their order, on which the charged Conv may depend.
    graph.nodes.insert(_position(graph, source) + 1, node)
    return str(predicted.name)


def _position(graph: gs.Graph, tensor: gs.Tensor) -> int:
    """Position of the node that writes a tensor; by identity, since nodes compare by value."""
    producer = tensor.inputs[0]
    return next(i for i, node in enumerate(graph.nodes) if node is producer)


def _describe(
    result: onnx.ModelProto,
    exported: onnx.GraphProto,
    network: onnx.ModelProto,
    written: dict[Site, str],
) -> None:
    """Writes value_info: ORT's shape inference stops at a custom op."""
    outputs = {value.name for value in network.graph.output}
    left_out = outputs.union(written.values(), (t.name for t in network.graph.initializer))
    result.graph.value_info.extend(
        v for v in exported.value_info if v.name not in left_out and v.HasField("type")
    )
    shapes = infer_shapes(network)
    for site, name in written.items():
        if name in outputs:
            continue
        shape = list(shapes.get(site.tensor) or (None,) * 4)
        if shapes.dynamic_batch:
            shape[0] = None
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(site.dtype))
        result.graph.value_info.append(helper.make_tensor_value_info(name, kind, shape))
