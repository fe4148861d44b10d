"""Fuses sites: Conv [-> BatchNormalization] [-> Add] -> ReLU -> SpatialPredict as one SpatialConv.

A site of a deployed model has one of three forms: fused, dense (without SpatialPredict, which
equals a full mask) or simulated (its nodes stay: outputs are computed and then predicted).
An 8-bit site becomes a SpatialQConv: see ``fuse_quantized``.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from spatialonnx.errors import ModelError
from spatialonnx.graph.affine import channel_affine
from spatialonnx.graph.channels_last import pool_channels_last
from spatialonnx.graph.fuse_quantized import explain_unfusable as explain_unfusable_quantized
from spatialonnx.graph.fuse_quantized import make_quantized_site
from spatialonnx.graph.fused_site import FusedSite, replaced_nodes, taken_names
from spatialonnx.graph.index import GraphIndex, attribute, captured, conv_attributes, free_name
from spatialonnx.graph.notes import copy_notes
from spatialonnx.graph.ops import (
    CONV,
    DOMAIN,
    Predictor,
    find_predictors,
    mask_name,
    read_plan,
    threshold_name,
)
from spatialonnx.graph.shapes import Shapes, infer_shapes
from spatialonnx.graph.site_match import SiteMatch, match_sites
from spatialonnx.model.copying import add_initializers, copy_around
from spatialonnx.plan.masks import SiteMask


def explain_unfusable(proto: onnx.ModelProto) -> dict[str, str]:
    """Why sites cannot be fused, by site; a site that can be is not listed.

    Args:
        proto: A model with SpatialPredict nodes.
    """
    index, shapes, matches = _match(proto)
    reasons = {}
    for predictor in find_predictors(proto):
        match = matches.get(predictor.site)
        reason = (
            "no Conv and ReLU stand in front of its SpatialPredict"
            if match is None
            else _obstacle(index, shapes, match)
        )
        if reason:
            reasons[predictor.site] = reason
    return reasons


def fuse_sites(
    proto: onnx.ModelProto,
    fused: Collection[str],
    dense: Collection[str],
    *,
    pools: bool = True,
) -> onnx.ModelProto:
    """A copy of a model with some sites fused and some left dense; the others stay simulated.

    Inputs, outputs, metadata and the names of all remaining tensors do not change.

    Args:
        proto: A model with SpatialPredict nodes.
        fused: Sites that become a SpatialConv node each.
        dense: Sites whose SpatialPredict is removed.
        pools: Whether pools between 8-bit sites are kept channels last; their maps are then
            gone from the graph.

    Raises:
        ModelError: A site is not in the model, or cannot be fused.
    """
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    predictors = {p.site: p for p in find_predictors(result)}
    if unknown := sorted({*fused, *dense} - predictors.keys()):
        raise ModelError(f"the model has no SpatialPredict at site {unknown[0]}: insert again")
    reasons = explain_unfusable(result)
    for site in fused:
        if site in reasons:
            raise ModelError(f"site {site} cannot be fused: {reasons[site]}")
    index, shapes, matches = _match(result)
    plan = read_plan(result)
    taken = taken_names(index, (matches[site] for site in fused))
    sites = [
        _fuse(index, shapes, matches[site], predictors[site], plan[site], taken) for site in fused
    ]
    weights = {tensor.name: tensor for tensor in result.graph.initializer}
    for site, made in zip(fused, sites, strict=True):
        _carry_notes(matches[site].conv, weights, made)
    instead: dict[int, tuple[NodeProto, ...]] = {
        id(node): () for site in sites for node in site.replaced
    }
    instead |= {id(site.replaced[-1]): site.nodes for site in sites}
    for node in index.nodes:
        if node.domain == DOMAIN and node.name in dense:
            instead[id(node)] = _bypass(index, node)
    kept = [made for node in index.nodes for made in instead.get(id(node), (node,))]
    result.graph.value_info.extend(info for site in sites for info in site.infos)
    before = set(index.uses)
    _replace_nodes(result, kept)
    if pools:
        pool_channels_last(result)
    return _rebuild(result, [tensor for site in sites for tensor in site.constants], before)


def _fuse(
    index: GraphIndex,
    shapes: Shapes,
    match: SiteMatch,
    predictor: Predictor,
    mask: SiteMask,
    taken: set[str],
) -> FusedSite:
    if match.is_quantized:
        return make_quantized_site(index, shapes, match, predictor, mask, taken)
    return make_fused_site(index, match, mask, taken)


def _carry_notes(conv: NodeProto, weights: Mapping[str, TensorProto], made: FusedSite) -> None:
    """Gives the node of a fused site, and its weight, the notes of the Conv that it replaces."""
    (node,) = (node for node in made.nodes if node.domain == DOMAIN)
    copy_notes(conv, node)
    weight = weights.get(conv.input[1])
    for tensor in made.constants:
        if weight is not None and node.op_type == CONV and tensor.name == node.input[1]:
            copy_notes(weight, tensor)


def dense_form(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A model without its predictions: the network that they were inserted into."""
    return fuse_sites(proto, (), [p.site for p in find_predictors(proto)])


def make_fused_site(
    index: GraphIndex, match: SiteMatch, mask: SiteMask, taken: set[str] | None = None
) -> FusedSite:
    """Makes the SpatialConv node of a site; ops before its ReLU are folded into its weights.

    Args:
        index: The graph.
        match: The site's nodes.
        mask: Its mask.
        taken: Names that its constants may not take, to which theirs are added; None = those of
            the graph.
    """
    assert match.predictor is not None and match.relu is not None
    taken = taken_names(index, [match]) if taken is None else taken
    weight, bias = _fold(index, match)
    site = match.name
    names = [free_name(name, taken) for name in (f"{site}/W", mask_name(site), f"{site}/B")]
    arrays: list[NDArray[Any]] = [weight, mask.patterns, bias]
    inputs = [match.conv.input[0], *names, match.residual]
    if mask.threshold is not None:
        names.append(free_name(threshold_name(site), taken))
        arrays.append(mask.threshold)
        inputs.append(names[-1])
    while not inputs[-1]:
        inputs.pop()
    node = helper.make_node(
        CONV,
        inputs,
        [match.predictor.output[0]],
        name=site,
        domain=DOMAIN,
        patch_size=mask.patch_size,
    )
    node.attribute.extend(conv_attributes(match.conv))
    if np.isfinite(match.clip_max):
        node.attribute.append(helper.make_attribute("clip_max", float(match.clip_max)))
    constants = tuple(numpy_helper.from_array(a, n) for a, n in zip(arrays, names, strict=True))
    return FusedSite((node,), constants, replaced_nodes(match))


def _fold(index: GraphIndex, match: SiteMatch) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weight and bias of Conv and everything up to the residual Add, rounded once."""
    weight = index.constant_array(match.conv.input[1], most=sys.maxsize)
    assert weight is not None
    scale, shift = channel_affine(index, match)
    bias = np.zeros(len(weight))
    if len(match.conv.input) > 2 and match.conv.input[2]:
        own = index.constant_array(match.conv.input[2])
        assert own is not None
        bias = np.asarray(own, np.float64)
    folded = np.asarray(weight, np.float64) * scale[:, None, None, None]
    return folded.astype(np.float32), (bias * scale + shift).astype(np.float32)


def _match(proto: onnx.ModelProto) -> tuple[GraphIndex, Shapes, dict[str, SiteMatch]]:
    index, shapes = GraphIndex(proto), infer_shapes(proto)
    matches, _ = match_sites(index, shapes)
    return index, shapes, {c.name: c for c in matches if c.predictor is not None}


def _obstacle(index: GraphIndex, shapes: Shapes, match: SiteMatch) -> str:
    """Why a site cannot be fused; empty where it can be."""
    if match.output in index.outputs:
        return "its ReLU's output is also an output of the model"
    if _crops(index, match.conv):
        return "its stride is so far beyond its kernel that auto_pad crops the map"
    if match.is_quantized:
        return explain_unfusable_quantized(index, shapes, match)
    if index.constant_array(match.conv.input[1], most=sys.maxsize) is None:
        return "the values of its weight cannot be read"
    has_bias = len(match.conv.input) > 2 and match.conv.input[2] != ""
    if has_bias and index.constant_array(match.conv.input[2]) is None:
        return "its bias is computed, not a constant"
    try:
        channel_affine(index, match)
    except ModelError as error:
        return str(error)
    if match.residual and shapes.get(match.residual) != shapes.get(match.output):
        return "its residual has another shape than its map"
    return ""


def _crops(index: GraphIndex, conv: NodeProto) -> bool:
    """Whether SAME padding may be negative: ONNX Runtime crops there, a SpatialConv pads by 0.

    A padding of -1 is halved to 0 on either side. SAME excludes dilations.
    """
    padding = attribute(conv, "auto_pad")
    if padding is None or not padding.s.startswith(b"SAME"):
        return False
    kernel = (index.constant_shape(conv.input[1]) or ())[2:]
    strides = attribute(conv, "strides")
    return strides is not None and any(
        size - stride < -1 for size, stride in zip(kernel, strides.ints, strict=False)
    )


def _bypass(index: GraphIndex, predictor: NodeProto) -> tuple[NodeProto, ...]:
    """Removes a SpatialPredict from the graph.

    Returns:
        Nothing if the node before it now writes its output; else an Identity that must take its
        place.
    """
    source, output = predictor.input[0], predictor.output[0]
    position = index.producer.get(source)
    if position is None or len(index.uses[source]) > 1 or source in index.outputs:
        return (helper.make_node("Identity", [source], [output], name=predictor.name),)
    before = index.nodes[position]
    before.output[list(before.output).index(source)] = output
    return ()


def _replace_nodes(proto: onnx.ModelProto, nodes: list[NodeProto]) -> None:
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del proto.graph.node[:]
    proto.graph.node.extend(copies)


def _rebuild(
    proto: onnx.ModelProto, constants: list[onnx.TensorProto], before: set[str]
) -> onnx.ModelProto:
    """The model with further constants and without what is no longer used.

    It is a new one: a message from which weights were deleted keeps their bytes.

    Args:
        proto: The model, its nodes replaced.
        constants: What the new nodes need.
        before: Tensors that were read before.
    """
    result = copy_around(proto)
    result.graph.node.extend(_read(list(proto.graph.node), proto, before))
    index = GraphIndex(result)
    replaced = {tensor.name for tensor in constants}
    unused = (before - set(index.uses) - index.outputs) | replaced
    add_initializers(result, (t for t in proto.graph.initializer if t.name not in unused))
    add_initializers(result, constants)
    written = set(index.producer) | {value.name for value in result.graph.input}
    infos = {value.name: value for value in proto.graph.value_info if value.name in written}
    result.graph.value_info.extend(infos.values())
    if all(node.domain != DOMAIN for node in index.nodes):
        opsets = [entry for entry in result.opset_import if entry.domain != DOMAIN]
        del result.opset_import[:]
        result.opset_import.extend(opsets)
    return result


def _read(nodes: list[NodeProto], proto: onnx.ModelProto, before: set[str]) -> list[NodeProto]:
    """The nodes without those that have lost all readers."""
    outputs = {value.name for value in proto.graph.output}
    while True:
        used = outputs | {name for node in nodes for name in (*node.input, *captured(node))}
        kept = [
            node
            for node in nodes
            if used.intersection(node.output) or not before.intersection(node.output)
        ]
        if len(kept) == len(nodes):
            return kept
        nodes = kept
