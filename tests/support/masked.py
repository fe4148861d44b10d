"""Inserted models with the same mask in every site."""

from __future__ import annotations

import onnx

from spatialonnx.graph.insert import insert
from spatialonnx.graph.ops import find_predictors, write_plan
from spatialonnx.plan.masks import SiteMask, uniform_mask
from spatialonnx.runtime.session import Runtime

ONE = Runtime("cpu", 1)
DIAGONAL = uniform_mask(2, 0b1001)


def masked(
    proto: onnx.ModelProto, mask: SiteMask = DIAGONAL, *, simplify: bool = True
) -> onnx.ModelProto:
    spatial = insert(proto, simplify=simplify, threads=1).model
    return write_plan(spatial, {p.site: mask for p in find_predictors(spatial)})


def names(proto: onnx.ModelProto) -> list[str]:
    return [p.site for p in find_predictors(proto)]
