"""Arrays of your own: from a network and (x, y) to a masked model and its accuracy."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import spatialonnx
from spatialonnx.data.opening import open_dataset
from spatialonnx.demo import shipped_model

IMAGES = 1000


def load_arrays() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Stands for your own loading code: inputs as the network takes them, and class numbers.

    Returns:
        x, float32 [1000, 1, 28, 28], and y, int64 [1000].
    """
    dataset = open_dataset("fashion-mnist-sample", input_shape=(1, 28, 28))
    assert dataset.labels is not None
    rows = np.arange(IMAGES)
    return dataset.images(rows), dataset.labels[rows]


def main(folder: Path) -> None:
    """Searches masks on the arrays and writes the model into a folder."""
    data = load_arrays()
    inserted = spatialonnx.insert(shipped_model())
    result = spatialonnx.search(
        inserted.model,
        data,
        eps="0.03",
        search_samples=200,
        select_samples=300,
        max_trials=40,
    )
    (answer,) = result.results
    path = result.save(folder / "own.masked.onnx")
    verify = answer.verify
    print(f"{path}: {100 * verify.saved_fraction:.1f} % of the MACs saved")
    print(f"bound of {answer.bound} {'met' if answer.bound_met else 'missed'} on verify:")
    print(f"drop {100 * float(verify.drop):.2f} points on {verify.samples} other images")
    evaluation = spatialonnx.evaluate(path, data)
    print(f"top-1 on all images: {100 * float(evaluation.score):.1f} %")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
