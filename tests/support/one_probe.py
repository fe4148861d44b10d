"""Inserted models with the plan that tuning mostly starts from."""

from __future__ import annotations

import onnx

from spatialonnx.graph.insert import insert


def masked(proto: onnx.ModelProto, *, simplify: bool = True) -> onnx.ModelProto:
    """The model with one probe per 2 x 2 patch in every site."""
    return insert(proto, pattern="1000", simplify=simplify, threads=1).model
