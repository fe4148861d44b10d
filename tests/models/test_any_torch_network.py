"""A detector and a segmentation network, exported as torch's users do it, take predictions."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from models.detector import Detector
from models.export import Exporter
from models.plain_export import export_plainly
from models.segmenter import Segmenter
from spatialonnx.insert import insert_predictors
from spatialonnx.modelfile import ModelFile
from spatialonnx.session import Runtime, open_session

ONE_THREAD = Runtime(threads=1)
EXPORTERS: tuple[Exporter, ...] = ("dynamo", "torchscript")


def settled(model: nn.Module, size: int) -> nn.Module:
    """The network after its BatchNorms have seen something."""
    torch.manual_seed(0)
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(4, 3, size, size))
    return model.eval()


@pytest.fixture(scope="module", params=EXPORTERS)
def detector(request: pytest.FixtureRequest) -> onnx.ModelProto:
    model = settled(Detector(), 64)
    return export_plainly(model, (3, 64, 64), ["boxes", "scores"], exporter=request.param)


@pytest.fixture(scope="module", params=EXPORTERS)
def segmenter(request: pytest.FixtureRequest) -> onnx.ModelProto:
    return export_plainly(settled(Segmenter(), 32), (3, 32, 32), ["logits"], exporter=request.param)


def insert(proto: onnx.ModelProto, **options: int) -> tuple[onnx.ModelProto, int, Counter[str]]:
    result = insert_predictors(ModelFile(Path("m.onnx"), proto, "0"), runtime=ONE_THREAD, **options)
    assert result.difference.exact
    reasons = Counter(entry.reason for entry in result.report.skipped)
    return result.proto, len(result.report.sites), reasons


def test_the_detector(detector: onnx.ModelProto) -> None:
    proto, sites, reasons = insert(detector)
    # the heads' Convs share weights over two maps: two sites each
    assert sites == 1 + 3 * 2 + 4
    assert sum(reasons.values()) == 6
    assert not any("ReLU of" in reason for reason in reasons)
    images = np.random.default_rng(0).normal(0, 1, (3, 3, 64, 64)).astype(np.float32)
    session = open_session(proto, ONE_THREAD, level="extended")
    assert [info.name for info in session.outputs] == ["boxes", "scores"]
    expected = open_session(detector, ONE_THREAD, level="extended").run({"images": images})
    for a, b in zip(expected, session.run({"images": images}), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_segmenter(segmenter: onnx.ModelProto) -> None:
    proto, sites, reasons = insert(segmenter)
    assert sites == 10
    assert reasons == Counter(
        {
            "a Concat follows it, not a ReLU": 1,
            "it is an output of the model before any ReLU": 1,
        }
    )
    images = np.random.default_rng(0).normal(0, 1, (1, 3, 32, 32)).astype(np.float32)
    (expected,) = open_session(segmenter, ONE_THREAD, level="extended").run({"images": images})
    (got,) = open_session(proto, ONE_THREAD, level="extended").run({"images": images})
    np.testing.assert_array_equal(expected, got)


def test_a_plan_by_hand_changes_the_maps(segmenter: onnx.ModelProto) -> None:
    proto, _, _ = insert(segmenter, pattern=9)
    images = np.random.default_rng(0).normal(0, 1, (1, 3, 32, 32)).astype(np.float32)
    (expected,) = open_session(segmenter, ONE_THREAD).run({"images": images})
    (got,) = open_session(proto, ONE_THREAD).run({"images": images})
    assert np.isfinite(got).all()
    assert not np.array_equal(expected, got)
