"""The attributes of the ops: ONNX Runtime does not tell an op what else a node has."""

from __future__ import annotations

import onnx

from spatialonnx.errors import ModelError

_DOMAIN = "spatialonnx"
_OF_CONV = frozenset({"auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"})
_ATTRIBUTES = {
    "SpatialPredict": frozenset[str](),
    "PatchCodes": frozenset[str](),
    "SpatialConv": _OF_CONV | {"patch_size", "clip_max"},
    "SpatialQConv": _OF_CONV | {"patch_size", "y_max", "residual_first"},
    "SnapeaConv": _OF_CONV | {"patch_size", "clip_max"},
}


def check_attributes(proto: onnx.ModelProto) -> None:
    """Refuses nodes of this package's ops with an attribute that the op does not have.

    A misspelt attribute would otherwise leave its default in place.

    Raises:
        ModelError: A node has one.
    """
    for nodes in (proto.graph.node, *(function.node for function in proto.functions)):
        for node in nodes:
            takes = _ATTRIBUTES.get(node.op_type) if node.domain == _DOMAIN else None
            if takes is None:
                continue
            unknown = next((a.name for a in node.attribute if a.name not in takes), None)
            if unknown is not None:
                raise ModelError(
                    f"{node.op_type} node {node.name!r}: attribute {unknown} is unknown, but "
                    f"takes {', '.join(sorted(takes)) or 'none'}"
                )
