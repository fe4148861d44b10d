"""Quantises a small residual network by torch's PT2E export: python make_pt2e.py pt2e.onnx.

Run with torch 2.13.0, torchao 0.18.0 and onnxscript 0.7.2.
"""

from __future__ import annotations

import sys

import onnx
import torch
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
    X86InductorQuantizer,
    get_default_x86_inductor_quantization_config,
)


class Residual(torch.nn.Module):
    """Three Convs, a residual Add and a classifier."""

    def __init__(self) -> None:
        """Draws the weights."""
        super().__init__()
        self.first = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.second = torch.nn.Conv2d(4, 4, 3, padding=1)
        self.third = torch.nn.Conv2d(4, 4, 3, padding=1)
        self.head = torch.nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [N, 5] of images [N, 3, 8, 8]."""
        x = torch.relu(self.first(x))
        y = torch.relu(self.second(x))
        x = torch.relu(self.third(y) + x)
        return self.head(x.mean((2, 3)))


torch.manual_seed(0)
images = torch.randn(4, 3, 8, 8)
exported = torch.export.export(Residual().eval(), (images,), strict=True).module()
quantizer = X86InductorQuantizer()
quantizer.set_global(get_default_x86_inductor_quantization_config())
prepared = prepare_pt2e(exported, quantizer)
for _ in range(4):
    prepared(torch.randn(4, 3, 8, 8))
exported = torch.onnx.export(
    convert_pt2e(prepared), (images,), dynamo=True, external_data=False, opset_version=18
)
proto = exported.model_proto
for part in (*proto.graph.node, *proto.graph.value_info, *proto.graph.input, *proto.graph.output):
    del part.metadata_props[:]  # stack traces, which name the machine's folders
onnx.save(proto, sys.argv[1])
