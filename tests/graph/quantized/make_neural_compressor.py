"""Quantises a small residual network: python make_neural_compressor.py neural_compressor.onnx.

Run with onnx_neural_compressor 1.0 (Neural Compressor's package for ONNX Runtime), from a folder
that can import ``support.models`` (tests/) and ``spatialonnx``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx_neural_compressor import data_reader
from onnx_neural_compressor.quantization import QuantFormat, QuantType, config, quantize
from support.models import residual

from spatialonnx.graph.simplify import prepare_model, simplify_model


class Batches(data_reader.CalibrationDataReader):  # type: ignore[misc]
    """Noise, batch by batch."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.rewind()

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)

    def rewind(self) -> None:
        rng = np.random.default_rng(0)
        self._batches = iter(
            [{self._name: rng.normal(0, 1, (4, 3, 8, 8)).astype(np.float32)} for _ in range(8)]
        )


model = simplify_model(prepare_model(residual(project=True)))
with tempfile.TemporaryDirectory() as folder:
    source = Path(folder) / "model.onnx"
    onnx.save(model, source)
    settings = config.StaticQuantConfig(
        calibration_data_reader=Batches(model.graph.input[0].name),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )
    quantize(str(source), sys.argv[1], settings)
