"""A detector: outputs that are not class scores, judged by a metric that knows the right boxes.

The network gives a heat map [n, 1, 16, 16]; an image is right when the hottest cell lies within
one cell of the object. Labels are numbers of images here, and the metric looks the boxes up.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import spatialonnx

IMAGES, SIDE = 400, 32


def draw_images() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Noise with one bright spot each: images float32 [n, 1, 32, 32], centres [n, 2]."""
    random = np.random.default_rng(0)
    images = random.normal(0.0, 0.05, (IMAGES, 1, SIDE, SIDE))
    centres = random.integers(3, SIDE - 3, (IMAGES, 2))
    for image, (row, column) in zip(images, centres, strict=True):
        image[0, row - 1 : row + 2, column - 1 : column + 2] += 0.8
    return images.astype(np.float32), centres


def make_detector() -> onnx.ModelProto:
    """Two 3 x 3 Convs with ReLU that answer to bright spots, and a 1 x 1 Conv that adds up."""
    random = np.random.default_rng(1)
    spot = np.full((3, 3), 1 / 9, np.float32)
    first = np.stack([spot, *(spot + random.normal(0, 0.05, (7, 3, 3)))])[:, None]
    second = np.concatenate([np.stack([spot * 8] * 8)] * 8).reshape(8, 8, 3, 3) / 64
    weights = {
        "w1": first,
        "b1": np.full(8, -0.2),
        "w2": second + random.normal(0, 0.02, second.shape),
        "b2": np.full(8, -0.05),
        "w3": np.ones((1, 8, 1, 1)),
    }
    pads = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c1"], **pads),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("MaxPool", ["r1"], ["p1"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p1", "w2", "b2"], ["c2"], **pads),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("Conv", ["r2", "w3"], ["heat"], kernel_shape=[1, 1]),
    ]
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, SIDE, SIDE])],
        [helper.make_tensor_value_info("heat", TensorProto.FLOAT, ["n", 1, SIDE // 2, SIDE // 2])],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, ir_version=8, opset_imports=opset)


def main(folder: Path) -> None:
    """Searches masks for the detector and writes them into a folder."""
    images, centres = draw_images()

    def found(outputs: list[NDArray[np.float32]], numbers: NDArray[np.int64]) -> float:
        """Share of the images whose hottest cell lies on the object."""
        heat = outputs[0].reshape(len(outputs[0]), -1)
        cells = np.stack(np.divmod(heat.argmax(axis=1), SIDE // 2), axis=1)
        return float((np.abs(cells - centres[numbers] // 2) <= 1).all(axis=1).mean())

    inserted = spatialonnx.insert(make_detector())
    result = spatialonnx.search(
        inserted.model,
        (images, np.arange(IMAGES)),
        eps="0.02",
        mode="uniform-patch",
        metric=found,
    )
    (answer,) = result.results
    path = result.save(folder / "detector.masked.onnx")
    print(f"{path}: {100 * answer.verify.saved_fraction:.1f} % of the MACs saved")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
