"""Plain export, as in torch's documentation: no folding, any number of outputs."""

import logging
import tempfile
import warnings
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from models.export import OPSET, Exporter

__all__ = ["export_plainly"]


def export_plainly(
    model: nn.Module,
    image_shape: tuple[int, int, int],
    outputs: list[str],
    *,
    exporter: Exporter = "dynamo",
) -> onnx.ModelProto:
    """Exports a network in eval mode with a free batch dimension.

    Args:
        model: Takes one tensor of images; put into eval mode.
        image_shape: Channels, height, width of one image.
        outputs: Names of its outputs.
        exporter: Which of torch's two exporters to use.
    """
    model.eval()
    example = torch.randn(2, *image_shape)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="spatialonnx-") as folder,
            warnings.catch_warnings(action="ignore"),
        ):
            path = Path(folder) / "model.onnx"
            _EXPORTERS[exporter](model, example, path, outputs)
            return onnx.load(path)
    finally:
        logger.setLevel(level)


def _export_dynamo(model: nn.Module, example: Tensor, path: Path, outputs: list[str]) -> None:
    program = torch.onnx.export(
        model,
        (example,),
        dynamo=True,
        verbose=False,
        input_names=["images"],
        output_names=outputs,
        opset_version=OPSET,
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        external_data=False,
    )
    assert program is not None
    program.save(path)


def _export_torchscript(model: nn.Module, example: Tensor, path: Path, outputs: list[str]) -> None:
    torch.onnx.export(
        model,
        (example,),
        path,
        dynamo=False,
        input_names=["images"],
        output_names=outputs,
        opset_version=OPSET,
        dynamic_axes={name: {0: "batch"} for name in ["images", *outputs]},
    )


_EXPORTERS = {"dynamo": _export_dynamo, "torchscript": _export_torchscript}
