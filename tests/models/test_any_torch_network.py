"""A detector and a segmentation network, exported as torch's users do it, take predictions."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from support.commands import fail, succeed, succeed_json
from torch import nn

import spatialonnx
from models.detector import Detector
from models.export import Exporter
from models.plain_export import export_plainly
from models.segmenter import Segmenter
from spatialonnx.model.model_file import save_model
from spatialonnx.runtime.session import Runtime, open_session

ONE_THREAD = Runtime(threads=1)
EXPORTERS: tuple[Exporter, ...] = ("dynamo", "torchscript")


def settled(make: Callable[[], nn.Module], size: int) -> nn.Module:
    """A network whose BatchNorms have seen data."""
    torch.manual_seed(0)
    model = make().train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(4, 3, size, size))
    return model.eval()


@pytest.fixture(scope="module", params=EXPORTERS)
def detector(request: pytest.FixtureRequest) -> onnx.ModelProto:
    model = settled(Detector, 64)
    return export_plainly(model, (3, 64, 64), ["boxes", "scores"], exporter=request.param)


@pytest.fixture(scope="module", params=EXPORTERS)
def segmenter(request: pytest.FixtureRequest) -> onnx.ModelProto:
    return export_plainly(settled(Segmenter, 32), (3, 32, 32), ["logits"], exporter=request.param)


def insert(proto: onnx.ModelProto, **options: str) -> tuple[onnx.ModelProto, int, Counter[str]]:
    result = spatialonnx.insert(proto, threads=1, **options)
    assert result.difference.exact
    reasons = Counter(entry.reason for entry in result.skipped)
    return result.model, len(result.sites), reasons


def test_the_detector(detector: onnx.ModelProto) -> None:
    proto, sites, reasons = insert(detector)
    # the heads share Convs over two maps: two sites each
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


METRICS = """
import numpy as np

def mean_iou(outputs, labels):
    # labels are numbers of images; the expected maps are in a file of the user
    file = np.load("maps.npz")
    wanted, answer = file["wanted"][labels], outputs[0] > file["level"]
    union = (wanted | answer).sum((0, 2, 3))
    return np.mean((wanted & answer).sum((0, 2, 3)) / union)

def best_score(outputs, labels):
    boxes, scores = outputs
    assert len(boxes) == len(scores) == len(labels)
    return scores.max()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a user's own metrics; the module is not left imported."""
    (tmp_path / "own_metrics.py").write_text(METRICS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", sys.path.copy())
    monkeypatch.delitem(sys.modules, "own_metrics", raising=False)
    return tmp_path


def test_a_users_metric_scores_maps(segmenter: onnx.ModelProto, folder: Path) -> None:
    images = np.random.default_rng(0).normal(0, 1, (40, 3, 32, 32)).astype(np.float32)
    np.savez("data.npz", x=images, y=np.arange(40)[::-1])
    save_model(segmenter, folder / "model.onnx")
    (logits,) = open_session(segmenter, ONE_THREAD).run({"images": images})
    level = np.median(logits, (0, 2, 3), keepdims=True)
    np.savez("maps.npz", wanted=(logits > level)[::-1], level=level)
    options = ("--data", "npz:data.npz", "--metric", "python:own_metrics:mean_iou")
    assert succeed_json("evaluate", "model.onnx", *options)["accuracy"]["score"] == 1
    succeed("insert", "model.onnx", "--pattern", "1001")
    masked = succeed_json("evaluate", "model.masked.onnx", *options)
    assert masked["accuracy"]["top1"] is None
    assert 0 < masked["accuracy"]["score"] < 1
    assert masked["macs"]["saved"] > 0
    succeed("insert", "model.onnx")
    searched = succeed_json(
        *("search", "model.spatial.onnx", *options, "--patterns", "1001", "--eps", "0.5"),
        *("--search-samples", "8", "--select-samples", "8", "--threads", "1", "--force"),
    )
    assert searched["bound_met"] and searched["verify"]["saved_fraction"] > 0
    assert searched["verify"]["samples"] == 24


def test_a_users_metric_scores_boxes(detector: onnx.ModelProto, folder: Path) -> None:
    images = np.random.default_rng(0).normal(0, 1, (5, 3, 64, 64)).astype(np.float32)
    np.savez("data.npz", x=images, y=np.arange(5))
    save_model(detector, folder / "model.onnx")
    succeed("insert", "model.onnx", "--pattern", "1001")
    assert "use --metric" in fail(2, "evaluate", "model.masked.onnx", "--data", "npz:data.npz")
    options = ("--data", "npz:data.npz", "--metric", "python:own_metrics:best_score")
    values = succeed_json("evaluate", "model.masked.onnx", *options)
    assert values["macs"]["saved"] > 0
    _, scores = open_session(detector, ONE_THREAD).run({"images": images})
    dense = succeed_json("evaluate", "model.onnx", *options)
    assert dense["accuracy"]["score"] == pytest.approx(scores.max())


def test_a_plan_by_hand_changes_the_maps(segmenter: onnx.ModelProto) -> None:
    proto, _, _ = insert(segmenter, pattern="1001")
    images = np.random.default_rng(0).normal(0, 1, (1, 3, 32, 32)).astype(np.float32)
    (expected,) = open_session(segmenter, ONE_THREAD).run({"images": images})
    (got,) = open_session(proto, ONE_THREAD).run({"images": images})
    assert np.isfinite(got).all()
    assert not np.array_equal(expected, got)
