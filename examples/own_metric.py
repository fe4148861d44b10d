"""A metric of your own: the mean recall over the classes, instead of top-1.

From the command line the same function is ``--metric python:own_metric:mean_recall``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import spatialonnx
from spatialonnx.demo import shipped_model


def mean_recall(outputs: list[NDArray[Any]], labels: NDArray[np.int64]) -> float:
    """Mean over the classes of the share of their images that are right; higher is better.

    Args:
        outputs: All outputs of the network; the first is the logits, float32 [n, classes].
        labels: int64 [n].
    """
    right = outputs[0].argmax(axis=1) == labels
    return float(np.mean([right[labels == c].mean() for c in np.unique(labels)]))


def main(folder: Path) -> None:
    """Searches masks that keep the mean recall and writes the model into a folder."""
    inserted = spatialonnx.insert(shipped_model())
    result = spatialonnx.search(
        inserted.model,
        "fashion-mnist-sample",
        eps="0.04",
        metric=mean_recall,
        search_samples=200,
        select_samples=300,
        verify_samples=500,
        max_trials=40,
    )
    (answer,) = result.results
    path = result.save(folder / "recall.masked.onnx")
    verify = answer.verify
    print(f"bound of {answer.bound} {'met' if answer.bound_met else 'missed'} on verify")
    print(f"{path}: mean recall {float(verify.baseline):.3f} dense, drop {float(verify.drop):.3f}")
    print(f"{100 * verify.saved_fraction:.1f} % of the MACs saved")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
