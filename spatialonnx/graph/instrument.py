"""Instrumenting a model: counts become outputs, masks inputs, so one session runs any plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from spatialonnx.graph.ops import (
    CONV,
    DOMAIN,
    PREDICT,
    QCONV,
    Predictor,
    find_predictors,
    mask_feeds,
    set_threshold_input,
)
from spatialonnx.model.copying import add_initializers, copy_without_initializers
from spatialonnx.plan.masks import full_mask
from spatialonnx.plan.plan import PlanLike


def plan_feeds(plan: PlanLike, predictors: Iterable[Predictor]) -> dict[str, NDArray[np.generic]]:
    """What to feed to an instrumented model so that it evaluates ``plan``.

    Args:
        plan: Masks by site; sites that it does not name are off.
        predictors: The SpatialPredict nodes.

    Returns:
        By input name: masks, uint16 in their own shapes, patch sizes, int64 [], and thresholds,
        float32 or, of 8-bit maps, uint8, [1] or [C].
    """
    off = full_mask(2)
    feeds: dict[str, NDArray[np.generic]] = {}
    for predictor in predictors:
        feeds |= mask_feeds(predictor, plan.get(predictor.site, off))
    return feeds


def instrument(proto: onnx.ModelProto, *, promote: bool = True) -> onnx.ModelProto:
    """A copy of a model that can be measured.

    Every SpatialPredict node's counts become graph outputs (``Predictor.skipped`` and
    ``false_zero``), and so do the counts of SpatialConv nodes.

    Args:
        proto: The model.
        promote: Also turn masks, patch sizes and thresholds of SpatialPredict nodes into graph
            inputs; a node without a threshold gets one.
    """
    predictors = {p.site: p for p in find_predictors(proto)}
    promoted = {name for p in predictors.values() for name in p.promoted} if promote else set()
    copy = copy_without_initializers(proto)
    add_initializers(copy, (t for t in proto.graph.initializer if t.name not in promoted))
    counts = []
    for node in copy.graph.node:
        if node.domain != DOMAIN:
            continue
        if node.op_type == PREDICT:
            names = [predictors[node.name].skipped, predictors[node.name].false_zero]
        elif node.op_type in (CONV, QCONV):
            names = [f"{node.name}/skipped"]
        else:
            continue
        del node.output[1:]
        node.output.extend(names)
        counts += names
    for name in counts:
        copy.graph.output.append(
            helper.make_tensor_value_info(name, TensorProto.INT64, [None, None])
        )
    if promote:
        _promote(copy, predictors)
    return copy


def _promote(proto: onnx.ModelProto, predictors: Mapping[str, Predictor]) -> None:
    for node in proto.graph.node:
        if node.domain == DOMAIN and node.op_type == PREDICT:
            proto.graph.input.extend(promote_node(node, predictors[node.name]))


def promote_node(node: onnx.NodeProto, predictor: Predictor) -> list[onnx.ValueInfoProto]:
    """Gives a SpatialPredict node a threshold input, should it have none.

    Returns:
        The graph inputs that take the place of its mask, patch size and threshold.
    """
    set_threshold_input(node, predictor.threshold)
    kind = TensorProto.FLOAT if predictor.step is None else TensorProto.UINT8
    return [
        helper.make_tensor_value_info(predictor.mask, TensorProto.UINT16, [None] * 3),
        helper.make_tensor_value_info(predictor.patch_size, TensorProto.INT64, []),
        helper.make_tensor_value_info(predictor.threshold, kind, [None]),
    ]
