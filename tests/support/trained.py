"""A tiny network that has learned something, and the images it learned from.

Three sites, one behind a residual Add, on ragged 7 x 7 maps. Its convolutions are random; its
last layer is fitted, so that accuracy is high and masks cost some of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from support.models import Net

from spatialonnx.data.opening import open_dataset
from spatialonnx.data.preprocessing import Preprocessing
from spatialonnx.graph.insert import insert
from spatialonnx.model.metadata import set_metadata
from spatialonnx.model.model_file import load_model, save_model
from spatialonnx.runtime.session import Runtime, open_session

CLASSES = 4
SHAPE = (1, 7, 7)
RUNTIME = Runtime("cpu", 1)


@dataclass(frozen=True)
class TinyFiles:
    """Files of the tiny network.

    Attributes:
        model: As a user has it.
        spatial: With SpatialPredict nodes.
        data: ``x`` and ``y``, an npz file.
    """

    model: Path
    spatial: Path
    data: Path

    @property
    def spec(self) -> str:
        """What ``--data`` takes."""
        return f"npz:{self.data}"


def draw_images(count: int, seed: int = 1) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Noisy copies of one picture per class: float32 [count, 1, 7, 7] and labels int64 [count]."""
    pictures = np.random.default_rng(0).normal(0, 1, (CLASSES, *SHAPE))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    noisy = pictures[labels] + rng.normal(0, 1.7, (count, *SHAPE))
    return noisy.astype(np.float32), labels.astype(np.int64)


def trained_model() -> onnx.ModelProto:
    """The network; its input is named x."""
    net = Net(("n", *SHAPE), seed=3)
    stem = net.relu(net.conv("x", 4))
    inner = net.relu(net.norm(net.conv(stem, 6)))
    last = net.relu(net.node("Add", net.conv(inner, 4), stem))
    features = net.node("Flatten", last)
    weight = net.constant(np.zeros((4 * 49, CLASSES)))
    logits = net.node("MatMul", features, weight)
    proto = net.model(logits, features)
    _fit_head(proto, weight, *draw_images(400, seed=2), CLASSES)
    return proto


def fashion_model() -> onnx.ModelProto:
    """Two sites for 28 x 28 images, fitted to some of the shipped sample, which it names."""
    values = Preprocessing((28, 28), 1, (0.2860,), (0.3530,))
    net = Net(("n", 1, 28, 28), seed=5)
    x = net.relu(net.conv("x", 4, strides=[2, 2]))
    features = net.node("Flatten", net.relu(net.conv(x, 6, strides=[2, 2])))
    weight = net.constant(np.zeros((6 * 49, 10)))
    proto = net.model(net.node("MatMul", features, weight), features)
    dataset = open_dataset("fashion-mnist-sample", values)
    assert dataset.labels is not None
    chosen = np.arange(600)
    _fit_head(proto, weight, dataset.images(chosen), dataset.labels[chosen], 10)
    set_metadata(proto, input=values.to_json(), data="fashion-mnist-sample")
    return proto


def _fit_head(
    proto: onnx.ModelProto,
    weight: str,
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    classes: int,
) -> None:
    """Ridge regression from the second output, the features, which is removed."""
    _, values = open_session(proto, RUNTIME).run({"x": x})
    gram = values.T @ values + 40 * np.eye(values.shape[1], dtype=np.float32)
    fitted = np.linalg.solve(gram, values.T @ np.eye(classes, dtype=np.float32)[y])
    for tensor in proto.graph.initializer:
        if tensor.name == weight:
            tensor.CopyFrom(numpy_helper.from_array(fitted.astype(np.float32), weight))
    del proto.graph.output[1:]


def write_tiny(folder: Path, count: int = 240) -> TinyFiles:
    """Writes the network, the same with SpatialPredict nodes, and images."""
    files = TinyFiles(folder / "model.onnx", folder / "model.spatial.onnx", folder / "data.npz")
    save_model(trained_model(), files.model)
    save_model(insert(load_model(files.model), threads=1).model, files.spatial)
    x, y = draw_images(count)
    np.savez(files.data, x=x, y=y)
    return files
