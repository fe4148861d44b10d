"""The ops between a Conv and its ReLU as one scale and one shift per channel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from spatialonnx.errors import ModelError
from spatialonnx.graph.index import GraphIndex, attribute, is_op, node_label
from spatialonnx.graph.site_match import SiteMatch

_DEFAULT_EPSILON = 1e-5  # BatchNormalization's


def channel_affine(
    index: GraphIndex, match: SiteMatch
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Composes a site's BatchNormalization and constant arithmetic.

    Args:
        index: The graph.
        match: The nodes of a site.

    Returns:
        Scale and shift, float64 [C]: the map before the residual Add is
        ``scale * conv(x) + shift``, conv's own bias included in ``conv(x)``.

    Raises:
        ModelError: A constant's values cannot be read.
    """
    channels = (index.constant_shape(match.conv.input[1]) or (0,))[0]
    scale, shift = np.ones(channels), np.zeros(channels)
    tensor = match.conv.output[0]
    for node in match.between:
        if is_op(node, "BatchNormalization"):
            factor, addend = _norm(index, node)
        elif is_op(node, "Add", "Sub", "Mul", "Div"):
            factor, addend = _arithmetic(index, node, tensor)
        else:
            factor, addend = np.ones(1), np.zeros(1)
        scale, shift = scale * factor, shift * factor + addend
        tensor = node.output[0]
    return scale, shift


def _norm(index: GraphIndex, node: NodeProto) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    gamma, beta, mean, variance = (_values(index, node, slot) for slot in range(1, 5))
    found = attribute(node, "epsilon")
    factor = gamma / np.sqrt(variance + (_DEFAULT_EPSILON if found is None else found.f))
    return factor, beta - mean * factor


def _arithmetic(
    index: GraphIndex, node: NodeProto, tensor: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    slot = 0 if node.input[0] == tensor else 1
    constant = _values(index, node, 1 - slot)
    one, zero = np.ones(1), np.zeros(1)
    if node.op_type == "Add":
        return one, constant
    if node.op_type == "Sub":
        return (one, -constant) if slot == 0 else (-one, constant)
    return (constant, zero) if node.op_type == "Mul" else (1 / constant, zero)


def _values(index: GraphIndex, node: NodeProto, slot: int) -> NDArray[np.float64]:
    array = index.constant_array(node.input[slot])
    if array is None:
        raise ModelError(
            f"node {node_label(node)}: the values of {node.input[slot]} cannot be read"
        )
    return np.asarray(array, np.float64).reshape(-1)
