"""Checks of a rewritten model: valid ONNX, with its interface unchanged."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx

from spatialonnx.errors import ModelError
from spatialonnx.model.interface import settable_inputs
from spatialonnx.model.metadata import metadata_key
from spatialonnx.model.model_file import PROTOBUF_LIMIT, save_model

_REWRITTEN = {metadata_key("stage"), metadata_key("source_sha256")}
"""Entries that every stage writes anew."""


def check_model(proto: onnx.ModelProto, what: str) -> None:
    """Runs the ONNX checker.

    Args:
        proto: The model.
        what: Its name in the message.

    Raises:
        ModelError: The checker objects.
    """
    try:
        if proto.ByteSize() < PROTOBUF_LIMIT:
            onnx.checker.check_model(proto)
            return
        with tempfile.TemporaryDirectory(prefix="spatialonnx-") as folder:
            path = Path(folder) / "model.onnx"
            save_model(proto, path)
            onnx.checker.check_model(str(path))
    except Exception as error:  # the checker raises errors of several kinds
        line = next((text for text in str(error).splitlines() if text.strip()), "no reason given")
        raise ModelError(f"{what} is not valid ONNX: {line[:300]}") from None


def check_interface(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    """Checks that inputs, outputs and metadata were kept; weights are not inputs.

    Args:
        before: The original model.
        after: The rewritten model.

    Raises:
        ModelError: They were not.
    """
    weights = {t.name for t in before.graph.initializer} - settable_inputs(before)
    inputs = [value for value in before.graph.input if value.name not in weights]
    kept = {e.key: e.value for e in before.metadata_props if e.key not in _REWRITTEN}
    ours = {e.key: e.value for e in after.metadata_props}
    if (
        inputs != list(after.graph.input)
        or list(before.graph.output) != list(after.graph.output)
        or not kept.items() <= ours.items()
    ):
        raise ModelError("the model's inputs, outputs or metadata were not kept: report this")
