"""Quantises a small residual network with NNCF: python make_nncf.py nncf.onnx.

Run with nncf 3.4.0, onnx 1.23.2 and onnxruntime 1.32.0, from a folder that can import
``support.models`` (tests/) and ``spatialonnx``.
"""

from __future__ import annotations

import sys

import nncf
import numpy as np
import onnx
from support.models import residual

from spatialonnx.graph.simplify import prepare_model, simplify_model

model = simplify_model(prepare_model(residual(project=True)))
rng = np.random.default_rng(0)
batches = [rng.normal(0, 1, (4, 3, 8, 8)).astype(np.float32) for _ in range(8)]
name = model.graph.input[0].name
onnx.save(
    nncf.quantize(
        model,
        nncf.Dataset(batches, lambda batch: {name: batch}),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=8,
    ),
    sys.argv[1],
)
