"""Raises a model to a newer version of ONNX's own ops."""

from __future__ import annotations

import onnx
from onnx import version_converter

from spatialonnx.errors import ModelError

PER_CHANNEL = 13
"""The first version whose QuantizeLinear takes a scale per channel."""


def raise_opset(proto: onnx.ModelProto, least: int) -> onnx.ModelProto:
    """The model itself where its version is new enough, otherwise a converted copy.

    ONNX's converter keeps the names of tensors and passes over ops of other domains.

    Args:
        proto: The model.
        least: The version that it needs.

    Raises:
        ModelError: ONNX cannot convert it.
    """
    versions = [entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")]
    if min(versions, default=least) >= least:
        return proto
    try:
        return version_converter.convert_version(proto, least)
    except Exception as error:  # the converter raises errors of every kind
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelError(
            f"onnx cannot convert the model from opset {versions[0]} to {least}: {line}"
        ) from None
